"""What does a job's tasks: threads of this process, or Ray tasks. Both do the same pure function, `perform`."""

from typing import Protocol

from normtree.jobs.plan.pieces import Task, TaskDone


class Runner(Protocol):
    """Takes tasks and gives back what came of them, in any order."""

    @property
    def engine(self) -> str:
        """``inline`` or ``ray``."""

    @property
    def workers(self) -> int:
        """Tasks at once."""

    @property
    def nodes(self) -> int:
        """Machines that do them."""

    @property
    def retries(self) -> int | None:
        """Tasks that were done again after a failure; None where nobody counts them."""

    def submit(self, task: Task) -> None:
        """Take a task."""

    def next(self) -> TaskDone:
        """Wait for any task to be done.

        Raises:
            NormtreeError: what a task raised.
        """

    def close(self) -> None:
        """Stop: tasks that have not begun never will; those that have are waited for."""
