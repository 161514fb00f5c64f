"""What every route needs: the projector, the settings, and the threads that block in their place."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

from starlette.types import Receive, Scope

from normtree.engine.cancel import Cancel
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.errors import NotReady
from normtree.formats.contents import Entry
from normtree.http.admission.admission import Admission
from normtree.http.body.body_limit import BodyLimit
from normtree.http.body.inflate import Inflated
from normtree.http.body.receive import Body
from normtree.http.body.transfer_pace import TransferPace
from normtree.http.head.query import WorkQuery
from normtree.http.inference.model import MODELS
from normtree.http.inference.model_statistics import ModelStatistics
from normtree.http.inference.shared_regions import Regions
from normtree.http.request.buffers import Room, room_bytes
from normtree.http.request.planning import plan_all
from normtree.http.request.work import Outcome, Work
from normtree.http.threads.client_presence import while_present
from normtree.http.threads.pool import Threads
from normtree.http.watching.kept_traces import Traces
from normtree.settings import Settings

_RETRY_AFTER_S = 1
_FEW_BYTES = 2**18
_LITTLE_BYTES = 2**24  # of which fresh pages take some milliseconds
_MUCH_AT_ONCE = 2
_FEW_PLANS = 8  # which take a millisecond each, with as many levels and axes as there may be


@dataclass(frozen=True)
class Service:
    """The parts of a running service.

    Attributes:
        projector: plans and runs projections; closed by whoever started it.
        settings: limits and times.
        admission: which requests with a tensor may begin; it knows whether the service is draining.
        leasing: a thread for leases, which wait for fresh pages but for no other request; for those of little.
        leasing_much: threads for leases of much, whose fresh pages take their time.
        planning: a thread for the plans of requests with many kinds of tensors.
        working: threads for projections.
        statistics: of the models, by name.
        regions: of clients' shared memory; None where none is taken.
        traces: that clients asked for.
    """

    projector: Projector
    settings: Settings
    admission: Admission
    leasing: Threads
    leasing_much: Threads
    planning: Threads
    working: Threads
    statistics: Mapping[str, ModelStatistics]
    regions: Regions | None
    traces: Traces

    @classmethod
    def of(cls, projector: Projector, settings: Settings) -> "Service":
        """Put a service together, its threads included."""
        # A thread of ours mostly waits for Ray or for the engine's own threads: as many requests as there are
        # workers keep those busy, and more would only take memory and time from each other.
        return cls(
            projector,
            settings,
            Admission(settings),
            leasing=Threads(1, settings.deadline_s),
            leasing_much=Threads(_MUCH_AT_ONCE, settings.deadline_s),
            planning=Threads(1, settings.deadline_s),
            working=Threads(max(2, projector.workers), settings.deadline_s),
            statistics={name: ModelStatistics(name) for name in MODELS},
            regions=Regions(settings.shared_memory_prefix) if settings.shared_memory else None,
            traces=Traces(),
        )

    @cached_property
    def pace(self) -> TransferPace:
        """What bodies that arrive, and answers that are read, must keep to."""
        return TransferPace.of(self.settings)

    @cached_property
    def body_limit(self) -> BodyLimit:
        """How large a body of tensors may be."""
        return BodyLimit.of(self.settings)

    @property
    def ready(self) -> bool:
        """Whether a projection would be taken now."""
        return self.projector.ready and not self.admission.draining

    def check_ready(self) -> None:
        """Refuse work that would not be done.

        Raises:
            NotReady: the service is starting or draining.
        """
        if not self.ready:
            raise NotReady("the service is starting or draining", retry_after_s=_RETRY_AFTER_S)

    async def plan(self, entries: Sequence[Entry], query: WorkQuery) -> tuple[Plan, ...]:
        """Plan the projection of a request's tensors; on a thread, one request after the other, where they are many.

        Raises:
            DeadlineExceeded: the plans of others took too long.
            NormtreeError: what `plan_all` raises.
        """
        if len(entries) <= _FEW_PLANS or len({(entry.shape, entry.dtype) for entry in entries}) <= _FEW_PLANS:
            return plan_all(self.projector, entries, query)
        cancel = Cancel()
        deadline_s = self.deadline_s(query.deadline_ms)
        with ExitStack() as nothing:
            return await self.planning.run(
                lambda: plan_all(self.projector, entries, query, cancel), nothing, deadline_s, cancel
            )

    async def make_room(
        self,
        scope: Scope,
        body: Body | Inflated,
        arriving: Sequence[Entry],
        leaving: Sequence[Entry],
        plans: Sequence[Plan],
        held: ExitStack,
    ) -> Room:
        """Make room for a request: in shared memory, on a thread, since fresh pages take their time.

        A small one that stays in this process gets memory of its own, which admission has counted too.

        Args:
            scope: of the request.
            body: of it, which has the more time the longer there is no room.
            arriving: the tensors that will come.
            leaving: those of which there will be projections.
            plans: of these.
            held: what releases the segments.

        Raises:
            NormtreeError: what `Admission.settle` and `Room.lease` raise.
        """
        arena = self.projector.arena
        body.put_off(await self.admission.settle(scope, room_bytes(arriving, leaving)))
        nbytes = max(sum(entry.nbytes for entry in entries) for entries in (arriving, leaving))
        if not (arriving or leaving) or (nbytes <= _FEW_BYTES and all(plan.engine == "inline" for plan in plans)):
            return Room.own(arena, arriving, leaving)
        threads = self.leasing if nbytes <= _LITTLE_BYTES else self.leasing_much
        return await threads.run(lambda: Room.lease(arena, arriving, leaving, held), held)

    async def run(self, work: Work, held: ExitStack, receive: Receive) -> Outcome:
        """Do the work of a request on a thread, for as long as its client is there; at once if that is quicker.

        Args:
            work: what to do.
            held: the segments that it reads and writes.
            receive: of the request, whose body has been read.

        Raises:
            Cancelled: the client left.
            DeadlineExceeded: the work took too long.
            NormtreeError: what the work raises.
        """
        if work.is_brief and not self.projector.kernels_left:  # no compiler on the event loop
            return work.run(self.projector)
        doing = self.working.run(lambda: work.run(self.projector), held, work.deadline_s, work.cancel)
        return await while_present(doing, receive)

    def deadline_s(self, wanted_ms: float | None) -> float:
        """Return the seconds that the work on a request may take: what the client gives, at most our own bound."""
        bound = self.settings.deadline_s
        return bound if wanted_ms is None else min(bound, wanted_ms / 1e3)

    def close(self) -> None:
        """Wait for the work that has begun, and end the threads."""
        self.working.close()
        for threads in (self.leasing, self.leasing_much, self.planning):
            threads.close()
        if self.regions:
            self.regions.close()
