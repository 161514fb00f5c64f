"""The work of one request as a thread does it: from the bytes as they came to the tensors as they go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import NamedTuple

from normtree.compact import Compact, compress_in_place, from_beginning
from normtree.engine.cancel import Cancel
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.engine.survivors import Survivors
from normtree.engine.timing.schema import Timing
from normtree.errors import NormtreeError
from normtree.formats.contents import Entry
from normtree.http.head.query import WorkQuery
from normtree.http.request.evidence import Pair, Told, certify_one, certify_together
from normtree.http.request.work_report import add_up

_BRIEF_BYTES = 2**18
_BRIEF_MS = 0.5
_BRIEF_ITEMS = 16  # each costs some tens of microseconds besides
_LEAST_DEADLINE_S = 1e-3


class Item(NamedTuple):
    """One tensor to project.

    Args:
        entry: what it is.
        source: where it came; its bytes may still be the other way round.
        target: where its projection goes.
        plan: how.
        compact: whether only the surviving groups are wanted; they then lie at the target's beginning.
        survivors: is told which these are, where the engine is to write no others.
    """

    entry: Entry
    source: Tensor
    target: Tensor
    plan: Plan
    compact: bool = False
    survivors: Survivors | None = None


class Done(NamedTuple):
    """What became of one tensor.

    Args:
        timing: of its projection; None where all were projected together.
        certificate: evidence for it, and digests; None where not asked for.
        compact: its surviving groups; None where not asked for.
    """

    timing: Timing | None
    certificate: dict[str, object] | None
    compact: Compact | None


class Outcome(NamedTuple):
    """What became of a request's tensors.

    Args:
        done: by name, in the order of the items.
        timing: of all of them.
        certificate: evidence for all of them together, where they were projected so; None where not asked for.
        queue_ms: milliseconds until a thread began.
        decode_ms: milliseconds in which the tensors were brought into native byte order.
    """

    done: Mapping[str, Done]
    timing: Timing
    certificate: dict[str, object] | None = None
    queue_ms: float = 0.0
    decode_ms: float = 0.0

    @property
    def timings(self) -> dict[str, Timing | None]:
        """The timing of each tensor by name; None where all were projected together."""
        return {name: one.timing for name, one in self.done.items()}


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
    def is_together(self) -> bool:
        """Whether all tensors are projected onto one ball; of one tensor that is its own."""
        return self.query.scope == "global" and len(self.items) > 1

    @property
    def is_brief(self) -> bool:
        """Whether it is over sooner than a thread would have begun it, so that nobody waits for it noticeably."""
        if self.query.certificate or self.query.baseline == "measure" or len(self.items) > _BRIEF_ITEMS:
            return False
        nbytes, serial_ms = 0, 0.0
        for item in self.items:
            if item.plan.engine != "inline" or item.plan.workers != 1:
                return False
            nbytes += item.plan.nbytes
            serial_ms += item.plan.serial_ms
        return nbytes <= _BRIEF_BYTES and serial_ms <= _BRIEF_MS

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
        outcome = self._project_together(projector) if self.is_together else self._project_each(projector)
        return outcome._replace(queue_ms=ms(self.submitted, begun), decode_ms=ms(begun, decoded))

    def _project_each(self, projector: Projector) -> Outcome:
        """Project one tensor after the other, and examine each."""
        done, timings = {}, []
        for item in self.items:
            timing = self._project(item, projector)
            asked = timing.radius, timing.groups_asked
            certificate = certify_one(_pair(item), *asked) if self.query.certificate else None
            timings.append(timing)
            done[item.entry.name] = Done(timing, certificate, _compact(item))
        return Outcome(done, add_up(timings))

    def _project_together(self, projector: Projector) -> Outcome:
        """Project all tensors under one root, then examine them."""
        timing = projector.project_together(
            [item.source for item in self.items],
            [item.target for item in self.items],
            [item.plan for item in self.items],
            self.query.goal,
            names=[f"{item.entry.name!r}: tensor" for item in self.items],
            survivors=[item.survivors for item in self.items],
            baseline=self.query.baseline,
            deadline_s=self._left_s,
            cancel=self.cancel,
        )
        whole: Told | None = None
        each: Sequence[Told | None] = [None] * len(self.items)
        if self.query.certificate:
            pairs = [_pair(item) for item in self.items]
            whole, each = certify_together(pairs, timing.radius, timing.groups_asked)
        done = {
            item.entry.name: Done(None, certificate, _compact(item))
            for item, certificate in zip(self.items, each, strict=True)
        }
        return Outcome(done, timing, whole)

    def _project(self, item: Item, projector: Projector) -> Timing:
        """Project one tensor, and say which it was if there are several."""
        try:
            return projector.project(
                item.source,
                item.target,
                item.plan,
                baseline=self.query.baseline,
                deadline_s=self._left_s,
                cancel=self.cancel,
                survivors=item.survivors,
            )
        except NormtreeError as error:
            if len(self.items) == 1:
                raise
            raise error.about(repr(item.entry.name)) from error

    @property
    def _left_s(self) -> float:
        """Seconds that are left until the deadline."""
        return max(self.submitted + self.deadline_s - perf_counter(), _LEAST_DEADLINE_S)


def ms(start: float, stop: float) -> float:
    """Return the milliseconds between two readings of `time.perf_counter`."""
    return 1e3 * (stop - start)


def _pair(item: Item) -> Pair:
    seen = item.plan.shape
    return Pair(item.source.array().reshape(seen), item.target.array().reshape(seen), item.plan.norm)


def _compact(item: Item) -> Compact | None:
    """Make the compact form of a projection, where that is wanted; of the target it leaves the values only."""
    if not item.compact:
        return None
    outermost, x = item.plan.norm.levels[0].axes, item.target.array(writable=True).reshape(item.plan.shape)
    if item.survivors and item.survivors.index is not None:
        found = from_beginning(x.reshape(-1), item.survivors.index, x.shape, outermost)
    else:
        found = compress_in_place(x, outermost, threads=item.plan.workers)
    return replace(found, split=str(item.plan.split))
