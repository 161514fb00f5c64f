"""The phases of a projection in a cluster, whose nodes' clocks are not one."""

from collections.abc import Sequence
from time import perf_counter_ns

from normtree.engine.timing.phases import Phases
from normtree.engine.timing.schema import Span, Sweep
from normtree.on_ray.tasks import Told

ROOT_ROW = 1  # of the trace; ids of threads on several nodes may be the same


class Clocks:
    """What was noted of phases so far.

    Attributes:
        phases: in the order they ran.
        nodes: that took part.
        start_ns: `time.perf_counter_ns` when it began.
    """

    def __init__(self) -> None:
        self.phases = Phases()
        self.nodes: set[str] = set()
        self.start_ns = self._since_ns = perf_counter_ns()
        self._rows: dict[tuple[str, int], int] = {}

    def note(self, sweep: Sweep, told: Sequence[Told]) -> None:
        """Note what tasks tell. Each node's first piece is shown from the phase's start."""
        first: dict[str, int] = {}
        for each in told:
            first[each.node] = min(each.span.start_ns, first.get(each.node, each.span.start_ns))
        spans = []
        for each in told:
            row = self._rows.setdefault((each.node, each.span.worker), ROOT_ROW + 1 + len(self._rows))
            late_ns = self._since_ns - first[each.node]
            start_ns, stop_ns = each.span.start_ns + late_ns, each.span.stop_ns + late_ns
            spans.append(each.span._replace(start_ns=start_ns, stop_ns=stop_ns, worker=row))
            self.nodes.add(each.node)
            self.phases.retries += each.retries
        self._end(sweep, spans)

    def note_root(self, nbytes: int) -> None:
        """Note that the root has worked since the last phase, on so many bytes."""
        self._end("root", [Span("root", 0, self._since_ns, perf_counter_ns(), nbytes, ROOT_ROW)])

    def _end(self, sweep: Sweep, spans: Sequence[Span]) -> None:
        self.phases.note(sweep, spans)
        self._since_ns = self.phases.done[-1].stop_ns
