"""A job in a process of its own, for the service: what it does is told on standard output, a JSON object a line.

``python -m normtree.jobs.child RECIPE.json MEMORY_BYTES WORKERS ROOT...``; where 0 bytes are given it finds a bound
itself. Its end, however it comes, touches nothing of the service's; killed, it resumes when the same recipe is posted
again.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from normtree.errors import NormtreeError
from normtree.jobs.progress import Progress
from normtree.jobs.recipe import Recipe
from normtree.jobs.run import JobOptions, run_job
from normtree.text.printable import printable_lines

_NICENESS = 10  # requests go first
_TELL_S = 0.2


class _Teller:
    """Tells the progress, not too often."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, progress: Progress) -> None:
        """Tell it, if it is time or all is done."""
        now = monotonic()
        if now >= self._next_s or progress.bytes_done == progress.bytes_total:
            self._next_s = now + _TELL_S
            tell({"progress": progress.as_dict()})


def tell(message: dict[str, object]) -> None:
    """Write a line; when nobody reads any more, the service is gone, and the job ends with it."""
    print(json.dumps(message), flush=True)


def main(recipe: Path, memory_bytes: int, workers: int, roots: Sequence[Path]) -> int:
    """Run the job, which stays in the roots, and tell how it ended."""
    os.nice(_NICENESS)
    options = JobOptions(workers, memory_bytes or None, "inline")
    try:
        outcome = run_job(Recipe.model_validate_json(recipe.read_bytes()), options, _Teller(), roots)
    except NormtreeError as error:
        detail = printable_lines(error.detail)  # a name of a file may be no text
        tell({"error": {"status": error.status, "code": error.code, "title": error.title, "detail": detail}})
        return 1
    tell({"state_url": outcome.state_url, "wall_s": outcome.summary["wall_s"]})
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Path(root) for root in sys.argv[4:]]))
