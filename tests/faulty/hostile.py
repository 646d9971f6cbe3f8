"""Files that were never written by a save: made to do harm, or mutated at random."""

import io
import json
import random
import resource
import struct
import tracemalloc

import numpy as np
from faulty.base import written

from funcnet import checkpoint
from funcnet.checkpoint.header import parse_header


def file_of(header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def one(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = bytes(8)


def of_kind(kinds, dtype="F32", shape=(2,)):
    return file_of({"__metadata__": {"funcnet.kinds": kinds}, "a": one(dtype, shape)}, EIGHT)


A = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
HOSTILE = {
    "nothing": b"",
    "seven bytes": bytes(7),
    "no header": EIGHT,
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "huge length": struct.pack("<Q", 2**64 - 1) + b"{}",
    "length of 2^63": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": file_of(b"{a}"),
    "a list": file_of(b"[]"),
    "a space before": file_of(b" {}"),
    "a byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "not UTF-8": file_of(b'{"\xff":1}'),
    "deep nesting": file_of(b'{"a":' * 100_000),
    "deep lists": file_of(b'{"a":' + b"[" * 200_000),
    "wide lists": file_of(b'{"a":[' + b"[]," * 100_000 + b"0]}"),
    "wide objects": file_of(b'{"a":[' + b"{}," * 100_000 + b"0]}"),
    "many sizes": file_of(
        b'{"a":{"dtype":"F32","data_offsets":[0,8],"shape":[' + b"9," * 100_000 + b"0]}}", EIGHT
    ),
    "a long number": file_of(b'{"a":' + b"9" * 1_000_000 + b"}"),
    "NaN": file_of(A.replace("[2]", "[NaN]").join(['{"a":', "}"]).encode(), EIGHT),
    "infinity": file_of(A.replace("[2]", "[Infinity]").join(['{"a":', "}"]).encode(), EIGHT),
    "a float": file_of(A.replace("[2]", "[2.0]").join(['{"a":', "}"]).encode(), EIGHT),
    "an exponent": file_of(A.replace("[2]", "[2e0]").join(['{"a":', "}"]).encode(), EIGHT),
    "a key twice": file_of(f'{{"a":{A},"a":{A}}}'.encode(), EIGHT),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata a number": file_of({"__metadata__": {"a": 1}}),
    "metadata a list": file_of({"__metadata__": []}),
    "an entry a number": file_of({"a": 5}, EIGHT),
    "no dtype": file_of({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),
    "too much said": file_of({"a": {**one(), "more": 1}}, EIGHT),
    "unknown dtype": file_of({"a": one("F33")}, EIGHT),
    "dtype a list": file_of({"a": one(["F32"])}, EIGHT),
    "shape a number": file_of({"a": {**one(), "shape": 2}}, EIGHT),
    "shape of text": file_of({"a": one(shape=["2"])}, EIGHT),
    "shape of booleans": file_of({"a": one(shape=[True, 2])}, EIGHT),
    "negative size": file_of({"a": one(shape=[-2])}, EIGHT),
    "negative twice": file_of({"a": one(shape=[-1, -2])}, EIGHT),
    "a petabyte": file_of({"a": one(shape=[2**48])}, EIGHT),
    "a petabyte of offsets": file_of({"a": one(shape=[2**48], offsets=[0, 2**50])}, EIGHT),
    "overflow to the size": file_of({"a": one(shape=[2**62, 8, 2**3])}, EIGHT),
    "nothing of a petabyte": file_of({"a": one(shape=[0, 2**62, 2**62], offsets=[0, 0])}),
    "sixty-five axes": file_of({"a": one(shape=[1] * 64 + [2])}, EIGHT),
    "negative offset": file_of({"a": one(offsets=[-8, 0])}, EIGHT),
    "backward offsets": file_of({"a": one(offsets=[8, 0])}, EIGHT),
    "one offset": file_of({"a": one(offsets=[8])}, EIGHT),
    "offsets beyond": file_of({"a": one(offsets=[8, 16])}, EIGHT),
    "overlap": file_of({"a": one(), "b": one(offsets=[4, 12])}, bytes(12)),
    "the same twice": file_of({"a": one(), "b": one()}, EIGHT),
    "a hole": file_of({"a": one(), "b": one(offsets=[12, 20])}, bytes(20)),
    "a hole before": file_of({"a": one(offsets=[4, 12])}, bytes(12)),
    "a rest": file_of({"a": one()}, bytes(9)),
    "too short": file_of({"a": one()}, bytes(7)),
    "size and bytes differ": file_of({"a": one(shape=[3])}, EIGHT),
    "neither true nor false": file_of({"a": one("BOOL", [2], [0, 2])}, b"\x01\x02"),
    "kinds no JSON": of_kind("{"),
    "kinds deep": of_kind("[" * 100_000),
    "kinds of others": of_kind('{"b":"int4"}'),
    "an unknown kind": of_kind('{"a":"int5"}'),
    "an unknown key": of_kind('{"a":"prng:x"}', "U32"),
    "a key of floats": of_kind('{"a":"prng:threefry2x32"}'),
    "a key of one number": of_kind('{"a":"prng:threefry2x32"}', "U64", [1]),
    "a kind of another width": of_kind('{"a":"complex128"}', "U8", [8]),
    "sums of others": file_of(
        {"__metadata__": {"funcnet.crc32": "{}", "funcnet.sha256": "0" * 64}, "a": one()}, EIGHT
    ),
    "no digest": file_of(
        {
            "__metadata__": {"funcnet.crc32": '{"a":"00000000"}', "funcnet.sha256": "x"},
            "a": one(),
        },
        EIGHT,
    ),
}  # fmt: skip


def read_plain(data, folder):
    path = folder / "plain.safetensors"
    path.write_bytes(data)
    return checkpoint.load_safetensors(path)


def hostile(scratch, quick):
    """Each is refused, by type, with no more memory than some 30 times its own size."""
    failures = []
    for name, data in HOSTILE.items():
        tracemalloc.start()
        try:
            read_plain(data, scratch)
            failures.append(f"{name}: accepted")
        except checkpoint.DamagedError:
            pass
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {error}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if peak > 40 * len(data) + 4e6:
            failures.append(f"{name}: {peak / 1e6:.0f} MB for a file of {len(data) / 1e6:.1f}")
    return len(HOSTILE), failures


NASTY = (
    b"-1", b"1e3", b"NaN", b"0", b"9223372036854775807", b"18446744073709551616", b"null", b"true",
    b'"\\ud800"', b'""', b"{}", b"[]", b"[[[[", b"}", b",", b'"U8"', b'"F64"', b'"BOOL"', b"[0,0]",
    b"\xff", b"\0", b'"__metadata__"', b'"prng:rbg"', b'\\"int4\\"',
)  # fmt: skip


def mutated(data, rng):
    """A file with a few things changed, mostly in its header, whose length is then put right."""
    length = int.from_bytes(data[:8], "little")
    header, rest = bytearray(data[8 : 8 + length]), bytearray(data[8 + length :])
    for _ in range(rng.randint(1, 3)):
        begin = rng.randrange(len(header) + 1)
        end = min(len(header), begin + rng.choice((0, 1, 2, 5, 20)))
        way = rng.randrange(6)
        if way == 0:
            header[begin:end] = rng.randbytes(end - begin)
        elif way == 1:
            header[begin:end] = rng.choice(NASTY)
        elif way == 2:
            header[begin:begin] = header[begin:end] * rng.choice((1, 1, 2, 50))
        elif way == 3:
            del header[begin:end]
        elif way == 4 and (digits := [i for i, c in enumerate(header) if 48 <= c <= 57]):
            header[rng.choice(digits)] = rng.choice(b"0123456789-.")
        elif way == 5 and rest:
            at = rng.randrange(len(rest))
            rest[at : at + rng.randrange(9)] = rng.randbytes(rng.randrange(9))
    length = len(header) if rng.random() < 0.9 else rng.getrandbits(rng.choice((8, 16, 64)))
    return struct.pack("<Q", length) + bytes(header) + bytes(rest)


def fuzzed(scratch, quick):
    """Of files with sums none is accepted that differs; of those without, none that is malformed:
    what is no error is an array for each name. Memory stays where it was."""
    rng = random.Random(4)
    tree = {"a": np.arange(3.0), "b": {"c": np.int8([1]), "d": np.ones(2, complex)}}
    sure = written(tree, step=1)
    length = int.from_bytes(sure[:8], "little")
    entries, metadata = parse_header(sure[8 : 8 + length], len(sure) - 8 - length)
    table = {n: one(e.dtype.str, e.shape, (e.start, e.end)) for n, e in entries.items()}
    for entry in table.values():
        entry["dtype"] = {"<f8": "F64", "|i1": "I8", "|u1": "U8"}[entry["dtype"]]
    kinds = {"__metadata__": {"funcnet.kinds": metadata["funcnet.kinds"]}}
    plain = file_of(kinds | table, sure[8 + length :])
    if len(read_plain(plain, scratch)) != 3:
        return 0, ["the file without sums is malformed itself"]
    failures, count = [], 2_000 if quick else 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for trial in range(count):
        whole = sure if trial % 2 else plain
        data = mutated(whole, rng)
        try:
            if trial % 2:
                checkpoint.read_tree(io.BytesIO(data), tree)
                if data != whole:
                    failures.append(f"trial {trial}: silent")
            else:
                found = checkpoint.single.read_tensors(
                    io.BytesIO(data), header := checkpoint.single.read_header(io.BytesIO(data))
                )
                checkpoint.single.meanings(header)
                if {name: a.shape for name, a in found} != {
                    n: e.shape for n, e in header.entries.items()
                }:
                    failures.append(f"trial {trial}: malformed")
        except checkpoint.CheckpointError:
            pass
        except Exception as error:
            failures.append(f"trial {trial}: {type(error).__name__}: {error}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > 64:
        failures.append(f"memory grew by {grown:.0f} MiB")
    return count, failures
