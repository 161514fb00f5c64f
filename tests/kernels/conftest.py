"""What the kernels' tests share: memory layouts, and the projections that Hypothesis draws."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from ml_dtypes import bfloat16, finfo
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree_kernels.norms import mixed_norm

Array = NDArray[Any]
MAX_RANK, MAX_SIDE = 4, 6

# dtype -> powers of two that tensors are scaled by
SCALES: dict[Any, tuple[int, ...]] = {
    np.float64: (0, 20, -20, 900, -900),
    np.float32: (0, 20, -20, 60, -60, -130),
    np.float16: (0, 4, -4, -12, -20),
    bfloat16: (0, 20, -20, 60, -60, -130),
}


@pytest.fixture(scope="session", params=SCALES, ids=[dtype.__name__ for dtype in SCALES])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="session", params=mixed_norm.NORMS)
def name(request: pytest.FixtureRequest) -> str:
    """Return each one-vector norm of the registry."""
    return str(request.param)


# --- memory layouts: the same values, elsewhere -----------------------------------------------------------------


def stepped(y: Array) -> Array:
    """Lie y at the odd indices of a larger array of NaNs."""
    room = np.full([2 * n + 1 for n in y.shape], np.nan, y.dtype)
    odd: Any = (..., *(slice(1, 2 * n + 1, 2) for n in y.shape))
    view: Array = room[odd]
    view[...] = y
    return view


def reversed_axes(y: Array) -> Array:
    backwards: Any = (..., *[slice(None, None, -1)] * y.ndim)
    return y[backwards].copy()[backwards]


def rotated(y: Array) -> Array:
    """Lie y so that its first axis is the innermost in memory."""
    return np.moveaxis(np.moveaxis(y, 0, -1).copy(), -1, 0) if y.ndim else y.copy()


def read_only(y: Array) -> Array:
    copy = y.copy()
    copy.flags.writeable = False
    return copy


def unaligned(y: Array) -> Array:
    """Lie y one byte into a bytes object: unaligned and read-only."""
    return np.ndarray(y.shape, y.dtype, b"\0" + y.tobytes(), offset=1)


def byte_swapped(y: Array) -> Array:
    return y.astype(y.dtype.newbyteorder())


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": lambda y: y.copy("C"),
    "F": lambda y: y.copy("F"),
    "rotated": rotated,
    "stepped": stepped,
    "reversed": reversed_axes,
    "read-only": read_only,
    "byte-swapped": byte_swapped,
    "unaligned": unaligned,
}


@pytest.fixture(scope="session", params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> Any:
    """Return each function that copies an array to another memory layout, values and shape kept."""
    return request.param


def exists(layout: Any, dtype: Any) -> bool:
    """Tell whether arrays of a dtype can be laid out so: NumPy knows bfloat16 in native byte order only."""
    return layout is not byte_swapped or dtype is not bfloat16


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out layouts that do not exist."""
    params = [getattr(getattr(item, "callspec", None), "params", {}) for item in items]
    items[:] = [i for i, p in zip(items, params, strict=True) if exists(p.get("layout"), p.get("dtype"))]


# --- bits ---------------------------------------------------------------------------------------------------------


def bits_of(y: Array) -> tuple[tuple[int, ...], bytes]:
    """Return shape and bytes, in C order and native byte order: equal for equal bits only."""
    y = np.asarray(y)
    return y.shape, y.astype(y.dtype.newbyteorder("="), copy=False).tobytes()


@pytest.fixture(scope="session")
def bits() -> Callable[[Array], tuple[tuple[int, ...], bytes]]:
    return bits_of


# --- what Hypothesis draws ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One projection: its arguments, and how to evaluate its norm."""

    y: Array
    text: str
    axes: Any
    radius: float

    def project(self, radius: float | None = None, y: Array | None = None, **options: Any) -> Array:
        return nk.project(
            np.asarray(self.y if y is None else y),  # arithmetic makes a scalar of an array without axes
            self.text,
            self.radius if radius is None else radius,
            axes=self.axes,
            **options,
        )

    def norm(self, x: Array | None = None) -> float:
        return nk.norm(np.asarray(self.y if x is None else x), self.text, axes=self.axes)

    def oracle(self) -> Array:
        return nk.reference.project(self.y, self.text, self.radius, axes=self.axes)

    def plain_norm(self, x: Array | None = None) -> float:
        return nk.reference.norm(self.y if x is None else x, self.text, axes=self.axes)

    def aggregates(self) -> NDArray[np.float64]:
        """Return the norms of the outermost groups: the vector that the root projects, in plain NumPy."""
        mixed = nk.MixedNorm.parse(self.text, self.axes, ndim=self.y.ndim)
        v = np.abs(self.y.astype(np.float64)).transpose(mixed.order)
        for level in reversed(mixed.levels[1:]):
            kept = v.ndim - len(level.axes)
            v = level.norm.reference_norm(v.reshape(*v.shape[:kept], math.prod(v.shape[kept:])))
        return v.reshape(-1)

    def groups(self, x: Array) -> Array:
        """View a result as one row for each outermost group."""
        mixed = nk.MixedNorm.parse(self.text, self.axes, ndim=self.y.ndim)
        ordered = x.transpose(mixed.order)
        count = len(mixed.levels[0].axes)
        return ordered.reshape(int(np.prod(ordered.shape[:count])), int(np.prod(ordered.shape[count:])))


def values_of(kind: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    normal: NDArray[np.float64] = rng.standard_normal(shape)
    if kind == "ties":
        return rng.integers(-3, 4, shape).astype(np.float64)
    if kind == "sparse":
        return np.where(rng.random(shape) < 0.7, np.copysign(0.0, normal), normal)
    if kind == "heavy":
        return rng.standard_t(1, shape)
    if kind == "wide":
        return np.copysign(10.0 ** rng.uniform(-12, 6, shape), normal)
    return np.asarray(normal)


@st.composite
def tensors(draw: st.DrawFn, dtype: Any, min_rank: int = 0, max_rank: int = MAX_RANK, min_side: int = 0) -> Array:
    """Draw a tensor of any shape, spread of values, scale and memory layout."""
    shape = tuple(draw(st.lists(st.integers(min_side, MAX_SIDE), min_size=min_rank, max_size=max_rank)))
    kind = draw(st.sampled_from(["normal", "ties", "sparse", "heavy", "wide"]))
    values = values_of(kind, shape, draw(st.integers(0, 2**32 - 1)))
    largest = float(finfo(dtype).max)
    y = np.asarray(np.clip(np.ldexp(values, draw(st.sampled_from(SCALES[dtype]))), -largest, largest), dtype)
    y = draw(st.sampled_from([layout for layout in LAYOUTS.values() if exists(layout, dtype)]))(y)
    stretched = draw(st.none() | st.integers(0, y.ndim - 1)) if y.ndim and y.size else None
    return y if stretched is None else np.broadcast_to(y.take([0], stretched), y.shape)


@st.composite
def partitions(draw: st.DrawFn, rank: int, depth: int) -> tuple[tuple[int, ...], ...]:
    """Draw for each axis the level it belongs to, and whether axes are counted from the end."""
    owners = draw(st.tuples(*[st.integers(0, depth - 1)] * rank))
    first = draw(st.sampled_from([0, -rank]))
    return tuple(tuple(first + axis for axis, owner in enumerate(owners) if owner == level) for level in range(depth))


@st.composite
def radii(draw: st.DrawFn, norm: float) -> float:
    """Draw a radius between 0 and beyond the norm, often at an edge."""
    edges = [0.0, norm * 1e-9, math.nextafter(norm, 0.0), norm, math.nextafter(norm, math.inf), norm * 1.5]
    shares = st.floats(0.0, 1.0, allow_subnormal=False).map(norm.__mul__)
    return min(draw(st.sampled_from(edges) if draw(st.integers(0, 3)) == 0 else shares), sys.float_info.max)


@st.composite
def cases_of(
    draw: st.DrawFn,
    /,
    dtype: Any = None,
    depth: int | None = None,
    text: str | None = None,
    **shape: int,
) -> Case:
    """Draw a projection, of a dtype, a norm of that depth or that text where given."""
    dtype = dtype or draw(st.sampled_from(list(SCALES)))
    depth = depth or (text.count(",") + 1 if text else draw(st.integers(1, 4)))
    text = text or ",".join(draw(st.tuples(*[st.sampled_from(list(mixed_norm.NORMS))] * depth)))
    y = draw(tensors(dtype, **shape))
    fits = depth <= max(y.ndim, 1)
    axes = None if fits and draw(st.booleans()) else draw(partitions(y.ndim, depth))
    return Case(y, text, axes, draw(radii(nk.norm(y, text, axes=axes))))


@pytest.fixture(scope="session")
def cases() -> Callable[..., st.SearchStrategy[Case]]:
    return cases_of
