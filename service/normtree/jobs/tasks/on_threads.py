"""Tasks on threads of this process. Sweeps, reads and writes all release the interpreter's lock."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from platform import node
from queue import SimpleQueue

from normtree.jobs.plan.pieces import Task, TaskDone
from normtree.jobs.storage.places import Folder, Target
from normtree.jobs.tasks.perform import Scratch, perform


class InlineRunner:
    """Does tasks on threads.

    Args:
        source: the input.
        target: the output.
        workers: threads.
    """

    engine = "inline"
    nodes = 1
    retries = 0

    def __init__(self, source: Folder, target: Target, workers: int) -> None:
        """Start no thread yet: each comes with the task that needs it."""
        self.workers = workers
        self._source, self._target = source, target
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="normtree-job")
        self._done: SimpleQueue[Future[TaskDone]] = SimpleQueue()

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._pool.submit(self._perform, task).add_done_callback(self._done.put)

    def next(self) -> TaskDone:
        """Wait for any task to be done."""
        return self._done.get().result()

    def close(self) -> None:
        """Drop what has not begun, and wait for what has."""
        self._pool.shutdown(cancel_futures=True)

    def _perform(self, task: Task) -> TaskDone:
        if not hasattr(self._own, "scratch"):
            self._own.scratch = Scratch()
        return perform(self._source, self._target, task, self._own.scratch, node())
