"""A character-level GPT on real text that every machine has: Python's own standard library.

    python examples/gpt.py [--steps 1500]

It learns from nine of ten modules, and is measured on every tenth in bits per character. The
network sees windows of 128 characters; zlib and lzma are given such windows, or all of the text at
once, or the text learnt from before it. Then it writes, each character drawn after those before it:
once with the keys and values of earlier ones cached, once by the full forward pass for each. The
two agree to the last character.

It prints (times vary, and the text with the version of Python):

    4,036,626 characters to learn from, 661,654 to be measured on.
    425,472 parameters, 1,500 steps of 1,024 characters.
    Compiled in 8 s, trained in 109 s.

    bits per character of unknown text
      any character as likely            6.58
      zlib, windows of 128               5.83
      this GPT, windows of 128           2.42
      zlib, the whole text               1.87
      lzma, the whole text               1.60
      lzma, after the text learnt from   1.43

    With and without the cache: equal

    ---     def __
        def __value(class):
               return self._margue = _contall__inemodulen()
                  self._he._inponf

    --- import sys
    import sys or t, suble of procs.

           # dore sock object.
        terrolst the class to for nament mailags bead

    --- class Test
    class Test alse comping to read not uncole in blever and of reerst that the (Pythist os.
"""

import argparse
import functools
import lzma
import sysconfig
import time
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import funcnet as fn

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))  # anything else becomes a question mark
WINDOW, BATCH = 128, 8


def library():
    """The text of the modules to learn from, and of every tenth, to be measured on."""
    folder = Path(sysconfig.get_path("stdlib"))
    texts = [file.read_text("utf-8", errors="replace") for file in sorted(folder.glob("*.py"))]
    texts = ["".join(c if c in ALPHABET else "?" for c in text) for text in texts]
    return "".join(t for i, t in enumerate(texts) if i % 10), "".join(texts[::10])


def encode(text):
    """Places in the alphabet, which is in the order of its codes."""
    return np.searchsorted(list(ALPHABET), list(text)).astype(np.int32)


def decode(ids):
    return "".join(ALPHABET[i] for i in ids)


def windows(text):
    """Rows of ids, and each id's successor."""
    ids = encode(text)
    rows = (len(ids) - 1) // WINDOW
    end = rows * WINDOW
    return ids[:end].reshape(rows, WINDOW), ids[1 : end + 1].reshape(rows, WINDOW)


def model(cache=None):
    return fn.gpt(len(ALPHABET), WINDOW, features=128, depth=2, heads=4, cache=cache)


def build(steps):
    task = fn.supervised(model(), fn.cross_entropy)
    rate = fn.warmup_cosine(3e-3, steps / 20, steps)
    return fn.trainer(task, fn.chain(fn.clip_by_global_norm(1.0), fn.adam(rate)))


def write_in_full(params, state, prompt, *, steps, key, temperature):
    """What `generate` does, by the whole forward pass for each character."""
    network, start = model(), prompt.shape[1]
    text = jnp.pad(prompt, ((0, 0), (0, steps)))

    def step(text, index):
        logits, _ = network.apply(params, state, text)
        last = logits[:, start + index - 1]
        noise = jax.random.gumbel(jax.random.fold_in(key, index), last.shape)
        ids = jnp.argmax(last + temperature * noise, axis=-1).astype(text.dtype)
        return text.at[:, start + index].set(ids), ids

    return jax.lax.scan(step, text, jnp.arange(steps))[1].T


def zlib_bits(text):
    return 8 * len(zlib.compress(text.encode(), 9)) / len(text)


def lzma_bits(text, before=""):
    """Of what the text adds to one before it."""
    known = len(lzma.compress(before.encode(), preset=9)) if before else 0
    return 8 * (len(lzma.compress((before + text).encode(), preset=9)) - known) / len(text)


def comparison(known, unknown):
    """Bits per character of the unknown text by other means."""
    rows = [unknown[i : i + WINDOW] for i in range(0, len(unknown) - WINDOW, 5 * WINDOW)]
    return {
        "any character as likely": np.log2(len(ALPHABET)),
        f"zlib, windows of {WINDOW}": np.mean([zlib_bits(row) for row in rows]),
        "zlib, the whole text": zlib_bits(unknown),
        "lzma, the whole text": lzma_bits(unknown),
        "lzma, after the text learnt from": lzma_bits(unknown, known),
    }


def main(steps=1500, characters=100):
    known, unknown = library()
    train, test = windows(known), windows(unknown)
    trainer, key = build(steps), jax.random.key(0)
    count = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(trainer.init, key).params))
    print(f"{len(known):,} characters to learn from, {len(unknown):,} to be measured on.")
    print(f"{count:,} parameters, {steps:,} steps of {BATCH * WINDOW:,} characters.")

    start = time.perf_counter()
    run = jax.jit(functools.partial(fn.run, steps=steps, batch_size=BATCH))
    run = run.lower(trainer, train, key).compile()
    compiled = time.perf_counter()
    result = jax.block_until_ready(run(trainer, train, key))
    print(
        f"Compiled in {compiled - start:.0f} s, trained in {time.perf_counter() - compiled:.0f} s."
    )

    state = result.state
    some = jax.tree.map(lambda a: a[:: max(len(a) // 1000, 1)], test)
    bits = float(jax.jit(fn.evaluate)(trainer, state, some)["loss"]) / np.log(2)
    found = {**comparison(known, unknown), f"this GPT, windows of {WINDOW}": bits}
    print("\nbits per character of unknown text")
    for name, value in sorted(found.items(), key=lambda pair: -pair[1]):
        print(f"  {name:34}{value:5.2f}")

    prompts = np.stack([encode(text) for text in ("    def __", "import sys", "class Test")])
    cached = model(cache=(len(prompts), WINDOW))
    options = {"steps": characters, "key": key, "temperature": 0.7}
    _, fresh = jax.jit(cached.init)(key)
    fast = jax.jit(functools.partial(fn.generate, cached, **options))
    slow = jax.jit(functools.partial(write_in_full, **options))
    written = np.asarray(fast(state.params, fresh, prompts))
    again = np.asarray(slow(state.params, state.state, prompts))
    print(f"\nWith and without the cache: {'equal' if (written == again).all() else 'DIFFERENT'}")
    for prompt, ids in zip(prompts, written, strict=True):
        print(f"\n--- {decode(prompt)}\n{decode(np.concatenate([prompt, ids]))}")
    return bits, written, again


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500)
    main(parser.parse_args().steps)
