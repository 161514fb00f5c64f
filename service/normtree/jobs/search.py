"""From a tensor's aggregates to its fibres' balls, through the root, with the questions that this takes.

A search is a generator: it yields questions, is sent the whole tensor's answers, and returns what it found. Who reads
the tensor, in how many pieces, and where, is not its concern.
"""

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from normtree.jobs.pieces import Work
from normtree.jobs.questions import Above, Active, Digits, Excess, Question, Samples, Sums, added, fold
from normtree.jobs.root import Aim, Top, top_of
from normtree_kernels import euclidean, parts, ranks
from normtree_kernels.dtypes import Array, Float64Array
from normtree_kernels.goal import Reach, lowered

Answers = tuple[Array, ...]
Asking = Generator[Question, Answers, Any]

_SAMPLES = b"samples"


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        top: the root.
        balls: of the fibres, for `normtree.jobs.pieces.Down`: arrays (rows, width, rest…).
    """

    top: Top
    balls: tuple[Float64Array, ...]


Search = Generator[Question, Answers, Found]


def search(work: Work, v: Float64Array, top: Top | None = None) -> Search:
    """Search the balls of a tensor's fibres.

    Args:
        work: the tensor; its aim a radius where it ranks elements and its fibre is not cut.
        v: its fibres' norms, (rows, width, rest…), finite.
        top: the root, where it is that of several tensors.

    Raises:
        ValueRefused: the tensor's norm, or the sum of a fibre's magnitudes, overflows.
    """
    seen: dict[bytes, Answers] = {}
    layout = work.layout
    if top is None:
        aim = Aim(settled=(yield from _ranked(work, v, seen))) if work.ranks else work.aim
        top = top_of(layout.norm, layout.to_norm(v), aim)
        if work.own and not top.crown.inside and top.crown.radius > 0.0:
            mu = layout.to_norm((yield from _levels(v, top.crown.radius)))
            top = Top(replace(top.crown, radii=mu), None)
    u = layout.to_rows(top.crown.radii)
    if layout.norm.inner.norm != "l1" or not work.cut.is_across:
        return Found(top, (v, u))
    thresholds, _ = yield from _thresholds(work, v, u, layout.element, seen)
    return Found(top, _shaped(thresholds.found, v.shape))


def _levels(v: Float64Array, radius: float) -> Asking:
    """Search the radii of the Euclidean projection on l1,linf."""
    (sums,) = yield Sums()
    steps = euclidean.steps(v.reshape(-1), fold("l1", sums).reshape(-1), radius)
    mu = next(steps)
    while True:
        sums, counts = yield Active(mu.reshape(v.shape))
        try:
            mu = steps.send((fold("l1", sums).reshape(-1), added(counts).reshape(-1)))
        except StopIteration as found:
            return found.value.reshape(v.shape)


def _thresholds(
    work: Work, v: Float64Array, u: Float64Array, dtype: np.dtype[Any], seen: dict[bytes, Answers]
) -> Asking:
    """Search the l1 thresholds of fibres that are cut, and count what the last ones asked for leave.

    What was seen is not asked again, if there is but one fibre.
    """
    if _SAMPLES not in seen:
        seen[_SAMPLES] = yield Samples()
    samples = seen[_SAMPLES][0].reshape(v.size, -1)
    found, counts = parts.Thresholds(v.reshape(-1), u.reshape(-1), samples, work.layout.fibre, dtype), np.zeros(1)
    while found.asked:
        key = np.stack(found.asked).tobytes()
        answer = seen[key] if key in seen else (yield Excess(_shaped(found.asked, v.shape)))
        if v.size == 1:
            seen[key] = answer
        sums, numbers = (np.moveaxis(each, 1, 0).reshape(-1, v.size) for each in answer)
        found.answer(sums, numbers)
        counts = numbers.sum(axis=0)
    return found, counts


def _shaped(levels: parts.Levels, shape: tuple[int, ...]) -> parts.Levels:
    taus, lows, powers = (values.reshape(shape) for values in levels)
    return taus, lows, powers


def _ranked(work: Work, v: Float64Array, seen: dict[bytes, Answers]) -> Asking:
    """Search the radius that leaves a number of elements: `normtree_kernels.goal.Goal.reach`, in parts."""
    goal, size, norm = work.aim.goal, work.layout.fibre, float(v.reshape(()))
    if goal is None or goal.radius is not None:
        raise TypeError(f"{work.name}: wanted a goal that ranks elements, got {goal}")
    survivors = goal.survivors(size)
    if norm == 0.0:
        return Reach(0.0, survivors, survivors)
    if survivors == size:
        _, count = yield Above(0.0)
        return Reach(norm, survivors, int(count))
    tau = yield from _rank(size - survivors - 1, work.layout.element)
    sums, count = yield Above(tau)
    radii = lowered(min(ranks.total(sums), norm), int(count))
    try:
        radius = next(radii)
        while True:
            radius = radii.send((yield from _survivors(work, v, radius, seen)))
    except StopIteration as found:
        radius, left = found.value
        return Reach(radius, survivors, left)


def _rank(rank: int, dtype: np.dtype[Any]) -> Asking:
    digits = ranks.search(rank, dtype)
    question = next(digits)
    while True:
        (counts,) = yield Digits(*question)
        try:
            question = digits.send(counts)
        except StopIteration as found:
            return found.value


def _survivors(work: Work, v: Float64Array, radius: float, seen: dict[bytes, Answers]) -> Asking:
    """Count the elements that the ball of a radius > 0 leaves, in float64."""
    if v <= radius:
        _, count = yield Above(0.0)
        return int(count)
    _, counts = yield from _thresholds(work, v, np.full(v.shape, radius), np.dtype(np.float64), seen)
    return int(counts.sum())  # the last question was what the threshold found leaves
