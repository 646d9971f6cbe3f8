"""A small file in the format of safetensors made by the package of that name, and by it alone.

Run `python tests/golden/make_safetensors.py`; it writes `package.safetensors` beside itself. It
needs safetensors, torch and ml_dtypes. Made with safetensors 0.8.0 and torch 2.13.0; the file's
metadata has the versions that made it.

`TENSORS` says what is in it, in numbers: name: (dtype as in the format, shape, values).
"""

from pathlib import Path

TENSORS = {
    "0.weight": ("F32", (2, 3), [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]),
    "0.bias": ("BF16", (3,), [1.0, -2.5, 0.0078125]),
    "double": ("F64", (2,), [0.1, -1e300]),
    "half": ("F16", (2,), [1.5, 65504.0]),
    "one": ("F32", (), [3.5]),
    "none": ("I32", (0, 4), []),
    "mask": ("BOOL", (3,), [True, False, True]),
    "u8": ("U8", (2,), [0, 255]),
    "i8": ("I8", (2,), [-128, 127]),
    "u16": ("U16", (2,), [0, 2**16 - 1]),
    "i16": ("I16", (2,), [-(2**15), 2**15 - 1]),
    "u32": ("U32", (2,), [0, 2**32 - 1]),
    "i32": ("I32", (2,), [-(2**31), 2**31 - 1]),
    "u64": ("U64", (2,), [0, 2**64 - 1]),
    "i64": ("I64", (2,), [-(2**63), 2**63 - 1]),
    "complex": ("C64", (2,), [1.0 + 2.0j, -0.5j]),
    "e4m3": ("F8_E4M3", (3,), [1.0, -448.0, 0.015625]),
    "e5m2": ("F8_E5M2", (3,), [1.0, -57344.0, 0.25]),
}


def main():
    import safetensors
    import torch
    from safetensors.torch import save_file

    torch_dtypes = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "C64": torch.complex64,
        "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "U16": torch.uint16,
        "I16": torch.int16, "U32": torch.uint32, "I32": torch.int32, "U64": torch.uint64,
        "I64": torch.int64,
    }  # fmt: skip
    tensors = {
        name: torch.tensor(values, dtype=torch_dtypes[code]).reshape(shape)
        for name, (code, shape, values) in TENSORS.items()
    }
    versions = {"versions": f"safetensors {safetensors.__version__}, torch {torch.__version__}"}
    save_file(tensors, Path(__file__).with_name("package.safetensors"), versions)


if __name__ == "__main__":
    main()
