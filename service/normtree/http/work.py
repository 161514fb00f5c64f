"""The work of one request as a thread does it: from the bytes as they came to the tensors as they go."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normtree.compact import Compact, compress
from normtree.engine.cancel import Cancel
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.engine.tensor import Tensor
from normtree.engine.timing import Timing
from normtree.errors import NormtreeError
from normtree.http.bodies.contents import Entry
from normtree.http.query import WorkQuery
from normtree.http.report import add_up
from normtree_kernels.certificate import certify

_BRIEF_BYTES = 2**18
_BRIEF_MS = 0.5
_LEAST_DEADLINE_S = 1e-3


@dataclass(frozen=True)
class Item:
    """One tensor to project.

    Args:
        entry: what it is.
        source: where it came; its bytes may still be the other way round.
        target: where its projection goes.
        plan: how.
        spare: where its compact form may go, if that is wanted: its own bytes, once they have been used.
    """

    entry: Entry
    source: Tensor
    target: Tensor
    plan: Plan
    spare: Tensor | None = None


@dataclass(frozen=True)
class Done:
    """What became of one tensor.

    Args:
        timing: of its projection.
        certificate: evidence for it, and digests; None where not asked for.
        compact: its surviving groups; None where not asked for.
    """

    timing: Timing
    certificate: dict[str, object] | None
    compact: Compact | None


@dataclass(frozen=True)
class Outcome:
    """What became of a request's tensors.

    Args:
        done: by name, in the order of the items.
        timing: of all of them.
    """

    done: Mapping[str, Done]
    timing: Timing


@dataclass(frozen=True)
class Work:
    """What is to be done with the tensors of a request, once they have come.

    Args:
        items: the tensors to project.
        query: how.
        submitted: `time.perf_counter` when it was handed to the threads.
        deadline_s: seconds after that by which it must be done.
        cancel: set it to end the work.
    """

    items: tuple[Item, ...]
    query: WorkQuery
    submitted: float
    deadline_s: float
    cancel: Cancel = field(default_factory=Cancel)

    @property
    def is_brief(self) -> bool:
        """Whether it is over sooner than a thread would have begun it, so that nobody waits for it noticeably."""
        plans = [item.plan for item in self.items]
        return (
            not (self.query.certificate or self.query.baseline == "measure")
            and all(plan.engine == "inline" and plan.workers == 1 for plan in plans)
            and sum(plan.nbytes for plan in plans) <= _BRIEF_BYTES
            and sum(plan.serial_ms for plan in plans) <= _BRIEF_MS
        )

    def run(self, projector: Projector) -> Outcome:
        """Project every tensor into its target; blocks.

        Raises:
            NormtreeError: what `normtree.engine.projector.Projector.project` raises; it names the tensor if there
                are several.
        """
        begun = perf_counter()
        for item in self.items:
            if item.entry.big_endian:
                item.source.array(writable=True).byteswap(inplace=True)
        decoded = perf_counter()
        done = {item.entry.name: self._project(item, projector) for item in self.items}
        timing = add_up([one.timing for one in done.values()])
        return Outcome(done, timing.with_stages(queue=ms(self.submitted, begun), decode=ms(begun, decoded)))

    def _project(self, item: Item, projector: Projector) -> Done:
        """Project one tensor, and say which it was if there are several."""
        left_s = self.submitted + self.deadline_s - perf_counter()
        try:
            timing = projector.project(
                item.source,
                item.target,
                item.plan,
                baseline=self.query.baseline,
                deadline_s=max(left_s, _LEAST_DEADLINE_S),
                cancel=self.cancel,
            )
        except NormtreeError as error:
            if len(self.items) == 1:
                raise
            raise error.about(repr(item.entry.name)) from error
        return self._examine(item, timing)

    def _examine(self, item: Item, timing: Timing) -> Done:
        """Make of a projection what else was asked for."""
        y, x = item.source.array(), item.target.array()
        certificate = _certificate(y, x, item.plan, timing.radius) if self.query.certificate else None
        compact = None
        if item.spare:
            outermost = item.plan.norm.levels[0].axes
            compact = compress(x, outermost, out=item.spare.array(writable=True), threads=item.plan.workers)
        return Done(timing, certificate, compact)


def ms(start: float, stop: float) -> float:
    """Return the milliseconds between two readings of `time.perf_counter`."""
    return 1e3 * (stop - start)


def _certificate(y: NDArray[Any], x: NDArray[Any], plan: Plan, radius: float) -> dict[str, object]:
    """Return evidence for a projection, and by which digests its input and output can be recognised."""
    evidence = certify(y, x, plan.norm, radius)
    return {**evidence.as_dict(), "sha256_before": _digest(y), "sha256_after": _digest(x)}


def _digest(array: NDArray[Any]) -> str:
    """Return the SHA-256 of the elements in C order, little-endian: the same whatever a tensor travelled in."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()
