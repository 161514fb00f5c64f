"""How often a model was asked, and how long that took: what Triton's statistics extension tells."""

from dataclasses import dataclass, field
from time import time

from normtree.engine.timing.schema import Timing
from normtree.http.inference.model import VERSION

_NS_PER_MS = 1e6
_MS_PER_S = 1e3
# Stages of ours that make up one of the protocol's.
_PARTS = {
    "queue": ("queue", "place"),
    "compute_input": ("receive", "decode"),
    "compute_infer": ("up", "root", "down"),
    "compute_output": ("encode",),
}


@dataclass
class Duration:
    """A number of times, and their sum."""

    count: int = 0
    ns: int = 0

    def add(self, took_ms: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += round(took_ms * _NS_PER_MS)

    def as_dict(self) -> dict[str, int]:
        """As the protocol has it."""
        return {"count": self.count, "ns": self.ns}


@dataclass
class ModelStatistics:
    """Counts of one model since the start.

    Args:
        name: of the model.
        last_ms: when it was last asked, in milliseconds since 1970; 0 for never.
        success: answered requests.
        fail: refused ones.
        parts: by stage of the protocol, of the answered requests.
    """

    name: str
    last_ms: int = 0
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    parts: dict[str, Duration] = field(default_factory=lambda: {part: Duration() for part in _PARTS})

    def answered(self, timing: Timing) -> None:
        """Count an answer; its timing holds all stages."""
        self.last_ms = round(_MS_PER_S * time())
        self.success.add(timing.stages_ms["total"])
        for part, stages in _PARTS.items():
            self.parts[part].add(sum(timing.stages_ms.get(stage, 0.0) for stage in stages))

    def failed(self, took_ms: float) -> None:
        """Count a refusal."""
        self.last_ms = round(_MS_PER_S * time())
        self.fail.add(took_ms)

    def as_dict(self) -> dict[str, object]:
        """As the protocol has it."""
        durations = {"success": self.success, "fail": self.fail, **self.parts}
        return {
            "name": self.name,
            "version": VERSION,
            "last_inference": self.last_ms,
            "inference_count": self.success.count,
            "execution_count": self.success.count,
            "inference_stats": {name: duration.as_dict() for name, duration in durations.items()},
            "batch_stats": [],
        }
