"""Element types, by the names that each format has for them: one table."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from normtree_kernels.dtypes import STORAGE

_PLAIN = 1  # what dtype.isbuiltin says of a type of NumPy's own


@dataclass(frozen=True)
class Element:
    """A type of elements.

    Args:
        name: NumPy's, and ours everywhere; the safetensors format's where NumPy has none.
        bits: of an element.
        safetensors: in the header of a safetensors body.
        oip: in an Open Inference Protocol request; None for a type that cannot be projected.
        npy: in the header of a ``.npy``, little-endian; None where that format has no name for it.
        dtype: NumPy's, with what ml_dtypes adds to it; None where no array can have it.
    """

    name: str
    bits: int
    safetensors: str
    oip: str | None = None
    npy: str | None = None
    dtype: np.dtype[Any] | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.bits // 8


def is_plain(dtype: np.dtype[Any]) -> bool:
    """Tell whether a type is NumPy's own, and none that ml_dtypes adds to it."""
    return dtype.isbuiltin == _PLAIN


def _projectable(dtype: np.dtype[Any]) -> Element:
    """Describe a type that the kernels take: ``float32`` is F32 and FP32, ``bfloat16`` is BF16 twice."""
    bits = 8 * dtype.itemsize
    safetensors, oip = ("BF", "BF") if dtype.name.startswith("b") else ("F", "FP")
    npy = dtype.newbyteorder("<").str if is_plain(dtype) else None
    return Element(dtype.name, bits, f"{safetensors}{bits}", f"{oip}{bits}", npy, dtype)


def _other(code: str, name: str) -> Element:
    """Describe a type that is only handed on."""
    dtype = np.dtype(name)
    return Element(name, 8 * dtype.itemsize, code, dtype=dtype)


# Those that can be projected.
ELEMENTS = tuple(map(_projectable, STORAGE))
_OTHERS = {
    **{"I64": "int64", "U64": "uint64", "C64": "complex64", "I32": "int32", "U32": "uint32", "I16": "int16"},
    **{"U16": "uint16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn"},
    **{"F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz"},
    **{"F8_E5M2FNUZ": "float8_e5m2fnuz"},
}
_PACKED = {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}

BY_CODE = {
    **{element.safetensors: element for element in ELEMENTS},
    **{code: _other(code, name) for code, name in _OTHERS.items()},
    **{code: Element(code, bits, code) for code, bits in _PACKED.items()},
}
BY_NAME = {element.name: element for element in ELEMENTS}
NAMES = ", ".join(BY_NAME)
CODES = ", ".join(element.safetensors for element in ELEMENTS)
_CODE_BY_NAME = {element.name: code for code, element in BY_CODE.items()}
# Every type of the safetensors format, by the bits of an element.
BITS = {code: element.bits for code, element in BY_CODE.items()}


def is_projectable(dtype: str) -> bool:
    """Tell whether tensors of a type can be projected; it may be a name that only its own format knows."""
    return dtype in BY_NAME


def code_of(dtype: str) -> str:
    """Return the safetensors format's name of a type, by our name or NumPy's; the same where it is its own."""
    return _CODE_BY_NAME.get(dtype, dtype)


def dtype_of(code: str) -> str:
    """Return our name of a type that can be projected, and the safetensors format's of any other."""
    element = BY_CODE.get(code)
    return element.name if element and element.oip else code
