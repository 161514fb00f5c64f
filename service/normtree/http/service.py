"""What every route needs: the projector, the settings, and the threads that block in their place."""

from dataclasses import dataclass

from normtree.engine.projector import Projector
from normtree.http.admission import Admission
from normtree.http.threads import Threads
from normtree.settings import Settings


@dataclass(frozen=True)
class Service:
    """The parts of a running service.

    Attributes:
        projector: plans and runs projections; closed by whoever started it.
        settings: limits and times.
        admission: which requests with a tensor may begin; it knows whether the service is draining.
        leasing: a thread for leases, which wait for fresh pages but for no other request.
        working: threads for projections.
    """

    projector: Projector
    settings: Settings
    admission: Admission
    leasing: Threads
    working: Threads

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
            working=Threads(max(2, projector.workers), settings.deadline_s),
        )

    @property
    def ready(self) -> bool:
        """Whether a projection would be taken now."""
        return self.projector.ready and not self.admission.draining

    def close(self) -> None:
        """Wait for the work that has begun, and end the threads."""
        self.working.close()
        self.leasing.close()
