"""The others in the race: the floor, the NumPy one-liner, and libraries that happen to be installed."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from bench import Row

COLOURS = {"normtree": "#1b6ca8", "floor": "#444444", "others": "#b8b8b8"}
LIBRARIES = ("torch", "jax", "optax", "pyproximal")

Run = Callable[[], object]


@numba.njit(cache=True, nogil=True)
def _read(x: np.ndarray) -> int:
    total = 0
    for i in range(x.size):
        total ^= x[i]
    return total


@numba.njit(cache=True, nogil=True)
def _copy(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(x.size):
        out[i] = x[i]


def floor(y: np.ndarray, out: np.ndarray) -> None:
    """Read the tensor once, then read it again and write as much: plain loops."""
    flat = y.reshape(-1).view(np.int32)
    _read(flat)
    _copy(flat, out.reshape(-1).view(np.int32))


def memory(y: np.ndarray, out: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> Run:
    """The floor's loops, shared out to threads: what the memory gives them, whatever they compute."""
    parts = zip(
        np.array_split(y.reshape(-1).view(np.int32), threads),
        np.array_split(out.reshape(-1).view(np.int32), threads),
        strict=True,
    )
    shares = list(parts)

    def share(part: tuple[np.ndarray, np.ndarray]) -> None:
        _read(part[0])
        _copy(*part)

    return lambda: list(pool.map(share, shares))


def versions() -> dict[str, str]:
    """Versions of the libraries that race."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def available(y: np.ndarray, norm: str, axes: str, radius: float) -> dict[str, Run]:
    """Contenders that can do this case: the bi-level projection in each library's own whole-array operations."""
    axis = 1 if axes == "0,1" else 0
    runs: dict[str, Run] = {"NumPy": lambda: numpy_bilevel(y, norm, axis, radius)}
    if find_spec("torch"):
        runs["PyTorch"] = _torch(y, norm, axis, radius)
    if find_spec("jax") and find_spec("optax"):
        runs["optax (JAX)"] = _optax(y, norm, axis, radius)
    if find_spec("pyproximal") and norm == "l1,l2":
        runs["pyproximal"] = _pyproximal(y, axis, radius)
    return runs


def threshold(v: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """l1 thresholds of the vectors along the last axis of non-negative values, by a sort."""
    ordered = -np.sort(-v, axis=-1)
    candidates = (np.cumsum(ordered, axis=-1) - np.asarray(radius)[..., None]) / np.arange(1, v.shape[-1] + 1)
    last = np.maximum(np.sum(ordered > candidates, axis=-1, keepdims=True) - 1, 0)
    found: np.ndarray = np.maximum(np.take_along_axis(candidates, last, axis=-1), 0.0)
    return found


def numpy_bilevel(y: np.ndarray, norm: str, axis: int, radius: float) -> np.ndarray:
    """The bi-level projection as one writes it in NumPy."""
    size = np.abs(y)
    inner = norm.split(",")[1]
    v = size.max(axis) if inner == "linf" else size.sum(axis) if inner == "l1" else np.sqrt((y * y).sum(axis))
    u = np.maximum(v - threshold(v, radius), 0.0).astype(y.dtype)
    wide = np.expand_dims(u, axis)
    x: np.ndarray
    if inner == "linf":
        x = np.sign(y) * np.minimum(size, wide)
    elif inner == "l2":
        x = y * (wide / np.expand_dims(v, axis))
    else:
        taus = threshold(np.moveaxis(size, axis, -1), u)[..., 0]
        x = np.sign(y) * np.maximum(size - np.expand_dims(taus, axis), 0.0)
    return x


def _torch(y: np.ndarray, norm: str, axis: int, radius: float) -> Run:
    import torch

    torch.set_num_threads(1)
    tensor, inner = torch.from_numpy(y), norm.split(",")[1]

    def cut(v: "torch.Tensor", rho: "torch.Tensor | float") -> "torch.Tensor":
        ordered = v.sort(dim=-1, descending=True).values
        wide = torch.as_tensor(rho)[..., None]
        candidates = (ordered.cumsum(-1) - wide) / torch.arange(1, v.shape[-1] + 1)
        last = ((ordered > candidates).sum(-1, keepdim=True) - 1).clamp(min=0)
        return candidates.gather(-1, last).clamp(min=0.0)

    def run() -> "torch.Tensor":
        size = tensor.abs()
        order = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}[inner]
        v = torch.linalg.vector_norm(tensor, ord=order, dim=axis)
        u = (v - cut(v, radius)).clamp(min=0.0)
        wide = u.unsqueeze(axis)
        if inner == "linf":
            return tensor.clamp(-wide, wide)
        if inner == "l2":
            return tensor * (wide / v.unsqueeze(axis))
        taus = cut(size.movedim(axis, -1), u)[..., 0]
        return tensor.sign() * (size - taus.unsqueeze(axis)).clamp(min=0.0)

    return run


def _optax(y: np.ndarray, norm: str, axis: int, radius: float) -> Run:
    import jax
    import jax.numpy as jnp
    from optax import projections

    tensor, inner = jnp.asarray(y), norm.split(",")[1]
    order = {"linf": jnp.inf, "l2": 2, "l1": 1}[inner]
    fibre = {
        "linf": lambda row, u: jnp.clip(row, -u, u),
        "l2": projections.projection_l2_ball,
        "l1": projections.projection_l1_ball,
    }[inner]

    @jax.jit
    def project(values: "jax.Array") -> "jax.Array":
        u = projections.projection_l1_ball(jnp.linalg.norm(values, ord=order, axis=axis), radius)
        return jax.vmap(fibre, in_axes=(1 - axis, 0), out_axes=1 - axis)(values, u)

    return lambda: project(tensor).block_until_ready()


def _pyproximal(y: np.ndarray, axis: int, radius: float) -> Run:
    """pyproximal has the proximal operator of l2,1, which at the threshold of our radius is this projection."""
    import pyproximal

    v = np.sqrt((y.astype(np.float64) ** 2).sum(axis))
    tau = float(threshold(v, radius)[0])
    rows = np.ascontiguousarray(np.moveaxis(y, axis, 0))
    operator = pyproximal.L21(ndim=rows.shape[0], sigma=1.0)
    return lambda: operator.prox(rows.ravel(), tau)


def draw(rows: Sequence["Row"], path: Path) -> None:
    """Draw the times of each case, ours apart from the others', with the spread."""
    if not find_spec("matplotlib"):
        return
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys(row.case for row in rows))

    columns = 3
    lines = -(-len(cases) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(15, 2.3 * lines), constrained_layout=True)
    for panel, case in zip(panels.flat, cases, strict=False):
        here = [row for row in rows if row.case == case][::-1]
        medians = [row.median_ms for row in here]
        errors = [[r.median_ms - r.lower_ms for r in here], [r.upper_ms - r.median_ms for r in here]]
        others = COLOURS["others" if any("normtree" in row.contender for row in here) else "normtree"]
        colours = [COLOURS.get(row.contender.partition(",")[0], others) for row in here]
        panel.barh([row.contender for row in here], medians, xerr=errors, color=colours)
        panel.set_title(case, fontsize=9)
        panel.set_xlabel("ms", fontsize=8)
        panel.tick_params(labelsize=8)
    for panel in list(panels.flat)[len(cases) :]:
        panel.axis("off")
    figure.savefig(path)
    figure.savefig(path.with_suffix(".png"), dpi=80)
    plt.close(figure)
