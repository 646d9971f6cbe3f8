"""Data on the host: memory-mapped, sharded or streamed, and fed to the device ahead of its use.

The rim: this package has files and threads. What it feeds is what the pure run would take: the
batch at step n is that of `batch_indices`, bit for bit.
"""

from funcnet.data.feed import Ahead, batches, chunks
from funcnet.data.folder import sharded, write_shards
from funcnet.data.sources import Arrays, Stream, stream

__all__ = [
    "Ahead",
    "Arrays",
    "Stream",
    "batches",
    "chunks",
    "sharded",
    "stream",
    "write_shards",
]
