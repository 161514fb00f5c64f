"""What the client returns: projections and what the service told of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Projected:
    """The projection of one tensor.

    Attributes:
        x: the projection, of the input's shape and element type; torch where the input was torch, else NumPy. It is
            writable and shares memory with nothing else.
        timing: what it cost and what parallelism bought, by the names of the timing schema.
        certificate: evidence for it, where that was asked for.
        request_id: by which the service's log knows it.
        trace_path: where the service keeps its trace for a while, where that was asked for; see ``trace``.
    """

    x: Any
    timing: Mapping[str, Any]
    certificate: Mapping[str, Any] | None
    request_id: str
    trace_path: str | None

    @property
    def warning(self) -> str:
        """What should be known of it: that groups were asked for, and none is left; else nothing."""
        return str(self.timing.get("warning", ""))


@dataclass(frozen=True)
class ProjectedTensors:
    """The projections of several tensors.

    Attributes:
        tensors: by name, as they were sent; those that were not to be projected come back as they were.
        timing: of all together; its ``tensors`` tell of each, unless all were projected onto one ball.
        certificates: by name, where they were asked for; of a tensor that shares a ball, against its share of it.
        certificate: of all tensors together, where they share a ball and it was asked for.
        request_id: by which the service's log knows it.
        trace_path: as of `Projected`.
    """

    tensors: Mapping[str, Any]
    timing: Mapping[str, Any]
    certificates: Mapping[str, Mapping[str, Any]]
    certificate: Mapping[str, Any] | None
    request_id: str
    trace_path: str | None

    @property
    def warning(self) -> str:
        """What should be known of them: of which tensors groups were asked for, and none is left; else nothing."""
        return str(self.timing.get("warning", ""))

    def __getitem__(self, name: str) -> Any:
        """Return the projection of the tensor of that name."""
        return self.tensors[name]
