"""A job as a service tells of it and remembers it."""

import json
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from normtree.formats import strict_json
from normtree.jobs.recipe import Recipe
from normtree.keys.key import NO_KEY

JobState = Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
ENDED = ("completed", "failed", "cancelled", "interrupted")
Time = Annotated[float, Field(allow_inf_nan=False)]
_HIDDEN = ("key", "digest")


@dataclass(frozen=True)
class Job:
    """A job as it stands.

    Args:
        id: its name.
        state: how far it is; ``interrupted`` where the service ended under it: post its recipe again to resume.
        recipe: what was asked.
        created: seconds since 1970 when it was taken.
        ended: and when it ended; None before.
        progress: bytes, tensors and shards done and in all; empty before the first.
        error: ``status code title detail`` of what made it fail; None otherwise.
        key: the Idempotency-Key it came with; None without.
        digest: SHA-256 of what was posted.
        owner: name of the key of who posted it.
    """

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    state: JobState
    recipe: dict[str, Any]
    created: Time
    ended: Time | None = None
    progress: dict[str, int] = field(default_factory=dict)
    error: dict[str, int | str] | None = None
    key: str | None = None
    digest: str = ""
    owner: str = NO_KEY

    @staticmethod
    def of_note(raw: bytes) -> "Job":
        """Read a job as `note` wrote it.

        Raises:
            ValueError: it is none.
        """
        job = _adapter().validate_python(strict_json.parse(raw))
        Recipe.model_validate(job.recipe)
        return job

    def note(self) -> bytes:
        """Return all that is to be remembered of it."""
        return json.dumps(asdict(self)).encode()

    def as_dict(self) -> dict[str, Any]:
        """What is told of it."""
        return {name: value for name, value in asdict(self).items() if name not in _HIDDEN}

    @cached_property
    def recipe_bytes(self) -> int:
        """Bytes of what was asked, about."""
        return len(json.dumps(self.recipe))

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will become of it by itself."""
        return self.state in ENDED


@cache
def _adapter() -> TypeAdapter[Job]:
    return TypeAdapter(Job)


def died(detail: str) -> dict[str, int | str]:
    """Return the error of a job that could not tell its own."""
    return {"status": 500, "code": "job-died", "title": "The job died", "detail": detail}
