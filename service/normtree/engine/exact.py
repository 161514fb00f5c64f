"""The rounds of an exact projection on l1,linf: Newton's steps at the root, each on one reading by the leaves."""

from collections.abc import Sequence
from dataclasses import replace
from threading import get_native_id
from time import perf_counter_ns

from normtree.engine.phases import Phases
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Span
from normtree.engine.tree import Branch, leaf_active, leaf_up
from normtree.errors import InvalidTensor, refusal
from normtree_kernels.blocks import Block
from normtree_kernels.dtypes import Float64Array, Int64Array
from normtree_kernels.euclidean import solve
from normtree_kernels.norms import Level, MixedNorm
from normtree_kernels.refusals import Refusal


def find_levels(
    phases: Phases, branch: Branch, blocks: Sequence[Block], radius: float, sums: Tensor, counts: Tensor
) -> None:
    """Write the radii of the Euclidean projection; see `normtree_kernels.euclidean.water_levels`.

    Args:
        phases: runs the rounds.
        branch: a tensor outside the ball, whose norms are there.
        blocks: of the tensor.
        radius: of the ball, > 0.
        sums: float64, shape of the kept axes: for the leaves to write to.
        counts: int64, the same.

    Raises:
        InvalidTensor: the sum of a group's magnitudes overflows.
    """
    outer, inner = branch.norm.levels
    summed = replace(branch, norm=MixedNorm((outer, Level("l1", inner.axes))), norms=sums)
    phases.run("up", leaf_up, [(phases.stop, summed, block) for block in blocks])
    radii = branch.radii.array(writable=True)
    began_ns = perf_counter_ns()

    def note_root() -> None:
        span = Span("root", 0, began_ns, perf_counter_ns(), branch.radii.nbytes, get_native_id())
        phases.note_root(span)

    def active(mu: Float64Array) -> tuple[Float64Array, Int64Array]:
        nonlocal began_ns
        radii[...] = mu.reshape(radii.shape)
        note_root()
        phases.run("up", leaf_active, [(phases.stop, branch, sums, counts, block) for block in blocks])
        began_ns = perf_counter_ns()
        return sums.array().reshape(-1).copy(), counts.array().reshape(-1).copy()

    try:
        mu = solve(branch.norms.array().reshape(-1), sums.array().reshape(-1).copy(), radius, active)
    except Refusal as error:
        raise refusal(error.about("tensor"), InvalidTensor) from error
    radii[...] = mu.reshape(radii.shape)
    note_root()
