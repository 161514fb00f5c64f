"""Element types by the names that each format has for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Element:
    """A type whose tensors can be projected.

    Args:
        name: NumPy's, and ours everywhere.
        itemsize: bytes of an element.
        npy: in the header of a ``.npy``, little-endian; None where that format has no name for it.
        safetensors: in the header of a safetensors body.
        oip: in an Open Inference Protocol request.
    """

    name: str
    itemsize: int
    npy: str | None
    safetensors: str
    oip: str


ELEMENTS = (
    Element("float64", 8, "<f8", "F64", "FP64"),
    Element("float32", 4, "<f4", "F32", "FP32"),
    Element("float16", 2, "<f2", "F16", "FP16"),
    Element("bfloat16", 2, None, "BF16", "BF16"),
)
BY_NAME = {element.name: element for element in ELEMENTS}
NAMES = ", ".join(BY_NAME)


def is_projectable(dtype: str) -> bool:
    """Tell whether tensors of a type can be projected; it may be a name that only its own format knows."""
    return dtype in BY_NAME
