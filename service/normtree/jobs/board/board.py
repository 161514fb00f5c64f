"""The jobs of a service: taken, run one after the other in processes of their own, remembered across restarts.

What is asked of the board is answered from memory. Files are read and written by the thread that posts a job and by
the board's own, outside of the lock: a disk that is full, slow or gone holds up jobs, and nothing else.
"""

import hashlib
import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

from normtree.errors import JobConflict, JobNotFound, NormtreeError, NotReady, QueueFull
from normtree.jobs.board.job import Job, died
from normtree.jobs.board.job_files import Notes
from normtree.jobs.board.job_process import STOP_S, JobProcess
from normtree.jobs.board.roots import FOLDER
from normtree.jobs.open_places import open_state
from normtree.jobs.recipe import Recipe
from normtree.keys.key import NO_KEY
from normtree.settings import Settings

_OPEN_S = 5.0  # a disk that answers has told of the jobs before it takes requests
_RETRY_S = 2.0
_RETRY_AFTER_S = 5
_KEPT = 1000  # jobs of an owner that have ended; older ones are forgotten

logger = logging.getLogger(__name__)


class JobBoard:
    """All jobs that a service has taken.

    Args:
        folder: where they are remembered, a file each; None where none are taken.
        workers: threads of the one job that runs.
        memory_bytes: bound of its buffers and aggregates; None: as the machine has it.
        roots: folders that jobs may not leave; none: they may.
        queue_limit: jobs of one owner that may wait.
    """

    def __init__(
        self,
        folder: Path | None,
        workers: int,
        memory_bytes: int | None,
        roots: Sequence[Path] = (),
        queue_limit: int = 64,
    ) -> None:
        """Remember what was taken before; what had not ended then is interrupted."""
        self._notes = Notes(folder) if folder else None
        self._workers, self._memory_bytes, self._roots, self._queue_limit = workers, memory_bytes, roots, queue_limit
        self._taking = threading.Lock()  # held while a note is written, by those who post jobs only
        self._changed = threading.Condition()  # guards what follows; nobody waits for a disk under it
        self._jobs: dict[str, Job] = {}
        self._queue: deque[str] = deque()
        self._served: dict[str, int] = {}
        self._turn = 0
        self._unnoted: set[str] = set()
        self._is_noted = True  # or what could not be noted was tried a moment ago
        self._process: JobProcess | None = None
        self._trouble: NormtreeError | None = None
        self._closing = False
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._work, name="normtree-jobs", daemon=True)
        if self._notes:
            self._trouble = NotReady("the service's notes of jobs are being read", retry_after_s=_RETRY_AFTER_S)
            self._thread.start()
            self._opened.wait(_OPEN_S)

    @property
    def trouble(self) -> str | None:
        """Why jobs are not taken or not noted just now; None where they are."""
        with self._changed:
            return self._trouble.detail if self._trouble else None

    def submit(self, recipe: Recipe, key: str | None, owner: str = NO_KEY) -> tuple[Job, bool]:
        """Take a job; it is noted before anybody is told of it.

        Args:
            recipe: of places that the service may read and write.
            key: with a key of this owner's that came before, the job it came with is returned; one that was
                interrupted is resumed.
            owner: whose the job is.

        Returns:
            The job, and whether it is new or runs anew.

        Raises:
            JobConflict: the key came before with another recipe; the service is closing.
            QueueFull: too many jobs of the owner's wait.
            NotReady, StorageFailed, StorageFull: it cannot be noted.
        """
        if self._notes is None:
            raise JobConflict("this service runs no jobs: it has no folders for them (jobs_roots)")
        digest = hashlib.sha256(recipe.model_dump_json(exclude_none=True).encode()).hexdigest()
        with self._taking:
            with self._changed:
                self._check_open()
                known = self._known(key, owner)
                if known and known.digest != digest:
                    raise JobConflict("Idempotency-Key: it came before with another recipe", pointer="Idempotency-Key")
                if known and known.state != "interrupted":
                    return known, False
                self._check_room(owner)
            plain = recipe.model_dump(mode="json", exclude_none=True)
            new = Job(uuid.uuid4().hex, "queued", plain, time(), key=key, digest=digest, owner=owner)
            job = replace(known, state="queued", ended=None, progress={}) if known else new
            self._notes.write(job)
            with self._changed:
                self._jobs[job.id] = job
                self._queue.append(job.id)
                self._changed.notify_all()
        return job, True

    def page(self, limit: int, before: str | None = None, owner: str | None = None) -> list[Job]:
        """Return jobs, the newest first.

        Args:
            limit: how many at most.
            before: of those older than this one.
            owner: of this one's alone; None: of all.

        Raises:
            JobNotFound: there is no such job.
            NotReady, StorageFailed: the notes cannot be read yet.
        """
        with self._changed:
            self._check_open()
            jobs = sorted((job for job in self._jobs.values() if owner in (None, job.owner)), key=_age)
        if before is not None:
            than = _age(self.get(before))
            jobs = [job for job in jobs if _age(job) > than]
        return jobs[:limit]

    def get(self, id_: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none of that id.
            NotReady, StorageFailed: the notes cannot be read yet.
        """
        with self._changed:
            self._check_open()
            if id_ not in self._jobs:
                raise no_such_job(id_)
            return self._jobs[id_]

    def cancel(self, id_: str) -> Job:
        """End a job that has not ended; what it has put into place stays, and the same recipe resumes it.

        Raises:
            JobNotFound: there is none of that id.
        """
        with self._changed:
            job = self.get(id_)
            if job.has_ended:
                return job
            if job.state == "queued":
                with suppress(ValueError):  # it is being started
                    self._queue.remove(id_)
            elif self._process:
                self._process.stop()
            return self._end(replace(job, state="cancelled"))

    def report(self, id_: str, name: str) -> bytes:
        """Return a file of a job's report; it is read from the disk.

        Raises:
            JobNotFound: there is no job of that id.
            JobConflict: it has not completed.
            StorageFailed: it cannot be read.
        """
        job = self.get(id_)
        output = job.recipe["output"]
        if self._roots and not any(Path(output).is_relative_to(os.path.realpath(root)) for root in self._roots):
            raise JobConflict("the job's output is not in the service's folders any more")
        found = open_state(output).read(name) if job.state == "completed" else None
        if found is None:
            raise JobConflict(f"the job is {job.state}: it has no report")
        return found

    def close(self) -> None:
        """End what runs; it is interrupted, and resumes when its recipe is posted again."""
        with self._changed:
            self._closing = True
            if self._process:
                self._process.stop()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(2 * STOP_S)

    def _check_open(self) -> None:
        """Refuse while what was taken before is not known, which a new job could do over."""
        if self._trouble and not self._opened.is_set():
            raise copy(self._trouble)  # one that is raised again and again holds all who have asked

    def _known(self, key: str | None, owner: str) -> Job | None:
        if key is None:
            return None
        return next((job for job in self._jobs.values() if (job.key, job.owner) == (key, owner)), None)

    def _check_room(self, owner: str) -> None:
        if self._closing:
            raise JobConflict("the service is closing")
        waiting = sum(self._jobs[id_].owner == owner for id_ in self._queue)
        if waiting >= self._queue_limit:
            raise QueueFull(
                f"at most {self._queue_limit} jobs of a key may wait",
                limit=self._queue_limit,
                retry_after_s=_RETRY_AFTER_S,
            )

    def _work(self) -> None:
        """Open the notes and run jobs. Whatever goes wrong is told, and the next job runs."""
        while not self._closing:
            for step in (self._open, self._note, self._run_next):
                try:
                    step()
                except Exception:
                    logger.exception("the board of jobs failed at a step, and goes on")
                    self._wait(lambda: self._closing)
        self._note()
        if self._notes:
            self._notes.close()

    def _wait(self, until: Callable[[], object]) -> None:
        """Wait for something, though not for long: what has failed is tried again then."""
        with self._changed:
            self._changed.wait_for(until, _RETRY_S)

    def _open(self) -> None:
        """Take the notes and read what was taken before."""
        if self._notes is None or self._opened.is_set():
            return
        try:
            jobs = self._notes.open()
        except NormtreeError as error:
            self._set_trouble(error)
            self._wait(lambda: self._closing)
            return
        with self._changed:
            self._jobs = {job.id: job for job in jobs}
            for job in jobs:
                if not job.has_ended:
                    self._end(replace(job, state="interrupted"))
            self._trouble = None
            self._opened.set()

    def _note(self) -> None:
        """Note how jobs have ended, and remove the notes of those forgotten; what cannot be done is tried again."""
        if self._notes is None or not self._opened.is_set():
            return
        with self._changed:
            self._is_noted = True
            chores = {id_: self._jobs.get(id_) for id_ in self._unnoted}
        trouble = None
        for id_, noted in chores.items():
            try:
                with self._taking:
                    self._notes.write(noted) if noted else self._notes.remove(id_)
            except NormtreeError as error:
                trouble = error
                continue
            with self._changed:
                if self._jobs.get(id_) is noted:
                    self._unnoted.discard(id_)
        self._set_trouble(trouble)

    def _set_trouble(self, trouble: NormtreeError | None) -> None:
        if trouble and self.trouble != trouble.detail:
            logger.warning("jobs are not noted: %s", trouble.detail)
        with self._changed:
            self._trouble = trouble

    def _run_next(self) -> None:
        """Run the next job to its end; come back without one after a while."""
        self._wait(lambda: self._closing or self._queue or not self._is_noted)
        with self._changed:
            job = self._next() if self._queue and not self._closing else None
        if job is None:
            return
        try:
            process = JobProcess(job.id, job.recipe, self._memory_bytes, self._workers, self._roots)
        except (OSError, ValueError) as error:  # this job's end, and not that of all to come
            with self._changed:
                if self._jobs.get(job.id) is job:
                    self._end(replace(job, state="failed", error=died(f"it did not start: {error}")))
            return
        self._follow(job.id, process)

    def _next(self) -> Job | None:
        """Take, of the jobs that wait, the oldest of who has had none for the longest."""
        waiting = [self._jobs[id_] for id_ in self._queue]
        job = min(waiting, key=lambda job: self._served.get(job.owner, 0), default=None)
        if job:
            self._queue.remove(job.id)
            self._turn += 1
            self._served[job.owner] = self._turn
        return job

    def _follow(self, id_: str, process: JobProcess) -> None:
        """Take in what the process tells until it ends, and note how it did."""
        with self._changed:
            job = self._jobs.get(id_)
            if job and job.state == "queued" and not self._closing:
                self._jobs[id_] = replace(job, state="running")
                self._process = process
            else:  # cancelled while it was started
                process.stop()
        error: dict[str, int | str] | None = None

        def take(message: dict[str, Any]) -> None:
            nonlocal error
            error = message.get("error", error)
            with self._changed:
                if "progress" in message and (now := self._jobs.get(id_)):
                    self._jobs[id_] = replace(now, progress=message["progress"])

        status: int | None = None
        try:
            status = process.follow(take, lambda: None if self._is_noted else self._note())
        finally:
            with self._changed:
                self._process = None
                self._end_by(id_, status, error)

    def _end_by(self, id_: str, status: int | None, error: dict[str, int | str] | None) -> None:
        """Remember how a job's process has ended."""
        job = self._jobs.get(id_)
        if job is None or job.has_ended:  # cancelled, and perhaps forgotten
            return
        if status == 0:
            self._end(replace(job, state="completed"))
        elif self._closing:
            self._end(replace(job, state="interrupted"))
        else:
            self._end(replace(job, state="failed", error=error or died(f"exit status {status}")))

    def _end(self, job: Job) -> Job:
        """Remember that a job has ended, and forget the oldest of its owner's; both are noted soon."""
        job = replace(job, ended=job.ended or time())
        self._jobs[job.id] = job
        ended = sorted((each for each in self._jobs.values() if each.has_ended and each.owner == job.owner), key=_age)
        for old in ended[_KEPT:]:
            self._unnoted.add(self._jobs.pop(old.id).id)
        self._unnoted.add(job.id)
        self._is_noted = False
        self._changed.notify_all()
        return job


@contextmanager
def open_board(settings: Settings) -> Iterator[JobBoard]:
    """Remember the jobs of a service in the first of its folders, and end what runs when the service does."""
    roots = settings.jobs_folders
    folder = roots[0] / FOLDER if roots else None
    board = JobBoard(folder, settings.workers, settings.jobs_memory_bytes, roots, settings.jobs_queue_limit)
    try:
        yield board
    finally:
        board.close()


def no_such_job(id_: str) -> JobNotFound:
    """Return the error for an id that is no job's, or none that the one who asks may know of."""
    return JobNotFound("there is no job of that id", pointer="id", got=id_)


def _age(job: Job) -> tuple[float, str]:
    """Order jobs, the newest first."""
    return -job.created, job.id
