"""The projection of a tensor as a conversation: the one algorithm, whoever holds the tensor.

It is a generator. It yields questions, is sent the whole tensor's answers, and returns the balls by which its fibres
are projected. Who reads the tensor, in how many parts, on which threads, processes or nodes, is not its concern: that
is the matter of a *home*, which asks its parts and gathers what they answer. An answer may be written over by the next.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from normtree_kernels.dtypes import Float64Array
from normtree_kernels.norms.l1 import L1
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.parts import ranks, rounds
from normtree_kernels.parts.part import fold
from normtree_kernels.parts.questions import Above, Active, Answer, Digits, Norms, Question, Shared
from normtree_kernels.tree import exact
from normtree_kernels.tree.crown import Crown, crown, crowns
from normtree_kernels.tree.goal import Aim, Reach, lowered
from normtree_kernels.vector_norm import Balls, Seen

R = TypeVar("R")


def _as_they_are(values: Float64Array) -> Float64Array:
    return values


@dataclass(frozen=True)
class ProjectionProblem:
    """What is to be projected, and on what.

    Args:
        norm: mixed norm bound to the tensor's axes; for an exact projection with an algorithm of its own the one of
            two levels from `normtree_kernels.tree.exact.merged`.
        whole: elements in a fibre, >= 1.
        dtype: of the elements.
        aim: what to reach.
        own: whether it is the exact projection that has an algorithm of its own.
        in_chunks: whether parts answer chunk by chunk; see `normtree_kernels.parts.part.Part`. They do wherever
            elements are ranked: see ``ranks``.
        is_shared: whether several tensors stand under one root.
        to_norm: puts the fibres' values from the home's order into the norm's.
        to_home: and back.
    """

    norm: MixedNorm
    whole: int
    dtype: np.dtype[Any]
    aim: Aim
    own: bool = False
    in_chunks: bool = False
    is_shared: bool = False
    to_norm: Callable[[Float64Array], Float64Array] = field(default=_as_they_are, repr=False)
    to_home: Callable[[Float64Array], Float64Array] = field(default=_as_they_are, repr=False)

    @property
    def ranks(self) -> bool:
        """Whether its radius depends on how its elements rank: each is a group, and a number of them is to vanish."""
        return ranks_elements(self.norm, self.aim)


def ranks_elements(norm: MixedNorm, aim: Aim) -> bool:
    """Tell whether a goal counts elements: those of a norm of one level are its groups."""
    return len(norm.levels) == 1 and aim.counts_groups


@dataclass(frozen=True)
class Found:
    """What came of the questions.

    Args:
        top: the root; if it is not finite, there is nothing to project.
        v: the fibres' norms, in the home's order.
        u: their radii.
        balls: what parts are projected by.
    """

    top: Crown
    v: Float64Array
    u: Float64Array
    balls: Balls


Asking = Generator[Question, Any, R]


def project(problem: ProjectionProblem, v: Float64Array | None = None) -> Asking[Found]:
    """Project a tensor: ask for its fibres' norms, go through the root, ask what else it takes to know their balls.

    Args:
        problem: what is wanted.
        v: the fibres' norms, in the home's order, where they are known.

    Raises:
        ValueError: the sum of a fibre's magnitudes overflows, which an exact projection needs.

    Cost:
        One question for the norms. For an exact projection on l1,linf one more, and one for each of a few Newton steps;
        for cut l1 fibres one for each of a few steps; for ranks one for each 16 bits of an element, or each 8 where
        elements are few, and a few more.
    """
    inner = problem.norm.inner.norm
    inner = inner if problem.whole > 1 else inner.of_one
    if v is None:
        (slots,) = yield Norms(inner)
        v = fold(inner, slots)
    if problem.own or problem.ranks:
        v = v.copy()  # what is asked next may be answered in its place
    seen: Seen = {}
    top = yield from _root(problem, v, seen)
    u = problem.to_home(top.radii)
    if not top.is_finite:
        return Found(top, v, u, ())
    if problem.own and not top.inside and top.radius > 0.0:
        u = yield from _levels(v, top.radius)
        top = replace(top, radii=problem.to_norm(u))
    if not problem.in_chunks:
        return Found(top, v, u, (v, u))
    balls = yield from inner.search(v, u, problem.whole, problem.dtype, seen if v.size == 1 else None)
    return Found(top, v, u, balls)


def project_together(
    problems: Sequence[ProjectionProblem], aim: Aim
) -> Generator[list[tuple[int, Question]], Any, list[Found]]:
    """Project tensors side by side, under one root where they share it.

    Args:
        problems: of the tensors; all shared, or but one.
        aim: what to reach with all together, where they are shared.

    Yields:
        Questions, each with the index of its tensor; be sent their answers, in this order.
    """
    if len(problems) == 1:
        return [(yield from _alone(problems[0]))]
    searches = [project(problem) for problem in problems]
    found: dict[int, Found] = {}
    asked: dict[int, Question] = {i: next(search) for i, search in enumerate(searches)}
    while asked:
        if all(isinstance(question, Shared) for question in asked.values()):
            vs = [question.v for question in asked.values() if isinstance(question, Shared)]
            answers: Sequence[Any] = crowns([problem.norm for problem in problems], vs, aim)
        else:
            answers = yield list(asked.items())
        following: dict[int, Question] = {}
        for i, answer in zip(asked, answers, strict=True):
            try:
                following[i] = searches[i].send(answer)
            except StopIteration as end:
                found[i] = end.value
        asked = following
    return [found[i] for i in range(len(problems))]


def _alone(problem: ProjectionProblem) -> Generator[list[tuple[int, Question]], Any, Found]:
    """Project one tensor as several are."""
    search = project(problem)
    try:
        question = next(search)
        while True:
            (answer,) = yield [(0, question)]
            question = search.send(answer)
    except StopIteration as end:
        found: Found = end.value
        return found


def drive(asking: Asking[R], ask: Callable[[Question], Answer]) -> R:
    """Run a conversation to its end.

    Args:
        asking: the conversation.
        ask: answers a question for all parts.
    """
    try:
        question = next(asking)
        while True:
            question = asking.send(ask(question))
    except StopIteration as end:
        result: R = end.value
        return result


def _root(problem: ProjectionProblem, v: Float64Array, seen: Seen) -> Asking[Crown]:
    if problem.is_shared:
        top: Crown = yield Shared(problem.to_norm(v))
        return top
    aim: Aim | Reach = problem.aim
    if problem.ranks and np.isfinite(v).all():
        aim = yield from _ranked(problem, v, seen)
    return crown(problem.norm, problem.to_norm(v), aim)


def _levels(v: Float64Array, radius: float) -> Asking[Float64Array]:
    """Search the radii of the Euclidean projection on l1,linf."""
    (sums,) = yield Norms(L1)
    steps = exact.steps(v.reshape(-1), fold(L1, sums).reshape(-1).copy(), radius)
    mu = next(steps)
    while True:
        sums, counts = yield Active(mu.reshape(v.shape))
        try:
            mu = steps.send((fold(L1, sums).reshape(-1).copy(), counts.sum(axis=0).reshape(-1)))
        except StopIteration as found:
            levels: Float64Array = found.value.reshape(v.shape)
            return levels


def _ranked(problem: ProjectionProblem, v: Float64Array, seen: Seen) -> Asking[Reach]:
    """Search the radius that leaves a number of elements: `normtree_kernels.tree.goal.Goal.reach`, in parts."""
    norm = float(v.reshape(()))
    survivors = problem.aim.for_norm(norm).survivors(problem.whole)
    if norm == 0.0:
        return Reach(0.0, survivors, survivors)
    if survivors == problem.whole:
        _, count = yield Above(0.0)
        return Reach(norm, survivors, int(count))
    tau = yield from _rank(problem.whole - survivors - 1, problem.whole, problem.dtype)
    sums, count = yield Above(tau)
    radii = lowered(min(ranks.total(sums), norm), int(count))
    try:
        radius = next(radii)
        while True:
            radius = radii.send((yield from _survivors(problem, v, radius, seen)))
    except StopIteration as found:
        radius, left = found.value
        return Reach(radius, survivors, left)


def _rank(rank: int, size: int, dtype: np.dtype[Any]) -> Asking[float]:
    digits = ranks.search(rank, size, dtype)
    question = next(digits)
    while True:
        (counts,) = yield Digits(*question)
        try:
            question = digits.send(counts)
        except StopIteration as found:
            magnitude: float = found.value
            return magnitude


def _survivors(problem: ProjectionProblem, v: Float64Array, radius: float, seen: Seen) -> Asking[int]:
    """Count the elements that the ball of a radius > 0 leaves, in float64."""
    if v <= radius:
        _, count = yield Above(0.0)
        return int(count)
    u, double = np.full(v.shape, radius), np.dtype(np.float64)
    _, counts = yield from rounds.search(L1, v, u, problem.whole, double, seen)
    return int(counts.sum())  # the last question was what the threshold found leaves
