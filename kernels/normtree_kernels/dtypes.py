"""Storage types: what a tensor may be made of, and the plain NumPy type that kernels see in its place."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from normtree_kernels.refusals import TypeRefused

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Numba has no half precision: kernels see their bits, one integer type for each, and know what it stands for.
STORAGE: dict[np.dtype[Any], np.dtype[Any]] = {
    np.dtype(np.float64): np.dtype(np.float64),
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float16): np.dtype(np.uint16),
    BFLOAT16: np.dtype(np.int16),
}

ACCEPTED = tuple(dtype.name for dtype in STORAGE)


def check_tensor(value: object, name: str) -> Array:
    """Return ``value`` if it is an array of an accepted type, in any byte order and with any strides.

    Raises:
        TypeError: no NumPy array, or an element type that cannot be projected; the message says which are.
    """
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        wanted, got = "a numpy.ndarray", type(value).__name__
        raise TypeRefused(name, wanted, got, f"wanted {wanted}, got {got}{_remedy(value)}")
    check_dtype(value.dtype, name)
    return np.asarray(value)  # a subclass may index in ways of its own


def _remedy(value: object) -> str:
    """Say what makes an array of another library's tensor."""
    if type(value).__module__.partition(".")[0] == "torch":
        half = ".view(torch.int16).numpy().view(ml_dtypes.bfloat16)"
        return f"; .detach().cpu().numpy() makes one of it, and of bfloat16 .detach().cpu(){half}"
    others = isinstance(value, np.generic | np.ndarray) or not (
        hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    )
    return "" if others else "; numpy.asarray, or numpy.from_dlpack, makes one of it"


def check_dtype(dtype: np.dtype[Any] | str, name: str) -> None:
    """Refuse an element type, or a name, of which no tensor can be projected.

    Raises:
        TypeError: it is none of those that can; the message says which are.
    """
    try:
        known = np.dtype(dtype).name in ACCEPTED
    except TypeError:  # NumPy has none of that name
        known = False
    if not known:
        raise TypeRefused(name, f"dtype {', '.join(ACCEPTED)}", str(dtype))


def storage(array: Array) -> Array:
    """View a native array of an accepted type as the type that kernels see."""
    return array.view(STORAGE[array.dtype])
