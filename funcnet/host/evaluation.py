"""The evaluation of data that need not fit on the device: part by part."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from funcnet.data.feed import Ahead
from funcnet.data.sources import Stream, as_source, in_numpy
from funcnet.evaluation import merged
from funcnet.host.chunks import in_memory
from funcnet.host.chunks import score_of as score_of_arrays
from funcnet.pairs import Trainer, check_count
from funcnet.training import check_data, count_examples


def ending(data):
    """The source of data that come to an end."""
    source = as_source(data)
    if isinstance(source, Stream) and not isinstance(source.batches, Iterable):
        raise TypeError(
            "an evaluation ends: expected arrays, another source of examples or an iterable of "
            f"batches, got a function of the step, {source.batches!r}"
        )
    return source


def parts_of(source, size):
    """The examples of a source in their order, `size` at a time, or a stream's batches."""
    if isinstance(source, Stream):
        yield from map(in_numpy, source.batches)
    else:
        for first in range(0, len(source), size):
            yield source.take(np.arange(first, min(first + size, len(source))))


def evaluate_in_parts(
    trainer: Trainer, state: Any, data: Any, *, batch_size: int = 1024
) -> dict[str, float]:
    """`evaluate` over data that need not be in memory: its result, up to rounding.

    data: a source of `funcnet.data`, of which `batch_size` examples at a time are read, in a
    thread, or an iterable of batches that ends, such as PyTorch's `DataLoader`, of any lengths (for
    each length one compilation). As there, the loss is averaged by the parts' `"weight"` and the
    metrics by their `"count"`, or by their lengths, which is exact for means over examples, and for
    nothing else: an F-score or a maximum of the whole is not the mean of the parts'.
    """
    source, size = ending(data), check_count("batch_size", batch_size, 1)
    scores, lengths = [], []
    with Ahead(parts_of(source, size)) as parts:
        for part in parts:
            scores.append(jax.device_get(score_of_arrays(trainer, state, part)))
            lengths.append(float(count_examples(part)))
    if not scores:
        raise ValueError(f"data must hold at least one batch, got none from {data!r}")
    columns = {n: np.array([score[n] for score in scores], np.float64) for n in scores[0]}
    return {n: float(value) for n, value in merged(columns, np.array(lengths)).items()}


def held_out(data):
    """Validation data: arrays on the device, or what is read part by part, again and again."""
    if in_memory(data):
        return check_data(data)[0]
    source = ending(data)
    if isinstance(source, Stream) and isinstance(source.batches, Iterator):
        raise TypeError(
            "validation is gone through more than once: expected arrays, another source of "
            f"examples or a loader, got an iterator, {source.batches!r}"
        )
    return source


def score_of(trainer, state, data):
    """The scores of a state over what `held_out` made."""
    evaluated = score_of_arrays if in_memory(data) else evaluate_in_parts
    return evaluated(trainer, state, data)
