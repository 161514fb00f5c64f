"""The jobs of a service: taken, run one after the other in processes of their own, remembered across restarts."""

import hashlib
import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from time import time
from typing import Any, Literal

from normtree.errors import JobConflict, JobNotFound
from normtree.jobs.open_places import open_state
from normtree.jobs.recipe import Recipe
from normtree.jobs.roots import FOLDER
from normtree.settings import Settings

JobState = Literal["queued", "running", "completed", "failed", "cancelled", "interrupted"]
ENDED = ("completed", "failed", "cancelled", "interrupted")
_STOP_S = 5.0


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
    """

    id: str
    state: JobState
    recipe: dict[str, Any]
    created: float
    ended: float | None = None
    progress: dict[str, int] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    key: str | None = None
    digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What is told of it."""
        return {name: value for name, value in asdict(self).items() if name not in ("key", "digest")}


class JobBoard:
    """All jobs that a service has taken.

    Args:
        folder: where they are remembered, a file each; None where none are taken.
        workers: threads of the one job that runs.
        memory_bytes: bound of its buffers and aggregates; None: as the machine has it.
        roots: folders that jobs may not leave; none: they may.
    """

    def __init__(self, folder: Path | None, workers: int, memory_bytes: int | None, roots: Sequence[Path] = ()) -> None:
        """Remember what was taken before; what had not ended then is interrupted."""
        self._folder, self._workers, self._memory_bytes, self._roots = folder, workers, memory_bytes, roots
        self._lock = threading.RLock()
        self._queue: SimpleQueue[str | None] = SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._jobs = {job.id: job for job in _remembered(folder)}
        for job in list(self._jobs.values()):
            if job.state not in ENDED:
                self._put(replace(job, state="interrupted", ended=time()))
        self._thread: threading.Thread | None = None
        self._closing = False

    def submit(self, recipe: Recipe, key: str | None) -> tuple[Job, bool]:
        """Take a job.

        Args:
            recipe: of places that the service may read and write.
            key: with a key that came before, the job it came with is returned.

        Returns:
            The job, and whether it is new.

        Raises:
            JobConflict: the key came before with another recipe; the service is closing.
        """
        digest = hashlib.sha256(recipe.model_dump_json(exclude_none=True).encode()).hexdigest()
        with self._lock:
            known = next((job for job in self._jobs.values() if key is not None and job.key == key), None)
            if known:
                if known.digest != digest:
                    raise JobConflict("Idempotency-Key: it came before with another recipe", pointer="Idempotency-Key")
                return known, False
            if self._closing:
                raise JobConflict("the service is closing")
            plain = recipe.model_dump(mode="json", exclude_none=True)
            job = Job(uuid.uuid4().hex, "queued", plain, time(), key=key, digest=digest)
            self._put(job)
            self._queue.put(job.id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="normtree-jobs", daemon=True)
                self._thread.start()
            return job, True

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.created)

    def get(self, id_: str) -> Job:
        """Return a job.

        Raises:
            JobNotFound: there is none of that id.
        """
        with self._lock:
            if id_ not in self._jobs:
                raise JobNotFound("there is no job of that id", pointer="id", got=id_)
            return self._jobs[id_]

    def cancel(self, id_: str) -> Job:
        """End a job that has not ended; what it has put into place stays, and the same recipe resumes it.

        Raises:
            JobNotFound: there is none of that id.
        """
        with self._lock:
            job = self.get(id_)
            if job.state in ENDED:
                return job
            if job.state == "running" and self._process:
                self._process.terminate()
            return self._put(replace(job, state="cancelled", ended=time()))

    def report(self, id_: str, name: str) -> bytes:
        """Return a file of a job's report.

        Raises:
            JobNotFound: there is no job of that id.
            JobConflict: it has not completed.
        """
        job = self.get(id_)
        found = open_state(job.recipe["output"]).read(name) if job.state == "completed" else None
        if found is None:
            raise JobConflict(f"the job is {job.state}: it has no report")
        return found

    def close(self) -> None:
        """End what runs; it is interrupted, and resumes when its recipe is posted again."""
        with self._lock:
            self._closing = True
            if self._process:
                self._process.terminate()
        self._queue.put(None)
        if self._thread:
            self._thread.join(2 * _STOP_S)

    def _work(self) -> None:
        while (id_ := self._queue.get()) is not None:
            with self._lock:
                job = self._jobs[id_]
                if job.state != "queued" or self._closing:
                    continue
                self._put(replace(job, state="running"))
                try:
                    self._process = process = self._start(job)
                except OSError as error:  # this job's end, and not that of all to come
                    self._put(replace(job, state="failed", ended=time(), error=_died(f"it did not start: {error}")))
                    continue
            self._follow(id_, process)

    def _start(self, job: Job) -> "subprocess.Popen[str]":
        recipe = self._at(f"{job.id}.json")
        recipe.write_text(json.dumps(job.recipe))
        command = [
            sys.executable,
            "-P",  # the service's working folder holds no modules
            "-m",
            "normtree.jobs.child",
            str(recipe),
            str(self._memory_bytes or 0),
            str(self._workers),
            *map(str, self._roots),
        ]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def _follow(self, id_: str, process: "subprocess.Popen[str]") -> None:
        """Take in what the process tells until it ends, and note how it did."""
        error: dict[str, Any] | None = None
        with process:
            for line in process.stdout or ():
                message = _message(line)
                error = message.get("error", error)
                if "progress" in message:
                    with self._lock:
                        self._jobs[id_] = replace(self._jobs[id_], progress=message["progress"])
        status = process.returncode
        with self._lock:
            self._process = None
            job = self._jobs[id_]
            if job.state == "cancelled":
                self._put(job)
            elif status == 0:
                self._put(replace(job, state="completed", ended=time()))
            elif self._closing:
                self._put(replace(job, state="interrupted", ended=time()))
            else:
                self._put(replace(job, state="failed", ended=time(), error=error or _died(f"exit status {status}")))

    def _put(self, job: Job) -> Job:
        self._jobs[job.id] = job
        beside = self._at(f".{job.id}.partial")
        beside.write_text(json.dumps(asdict(job)))
        beside.replace(self._at(f"{job.id}.job"))
        return job

    def _at(self, name: str) -> Path:
        if self._folder is None:
            raise JobConflict("this service runs no jobs: it has no folders for them (jobs_roots)")
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / name


@contextmanager
def open_board(settings: Settings) -> Iterator[JobBoard]:
    """Remember the jobs of a service in the first of its folders, and end what runs when the service does."""
    roots = settings.jobs_folders
    board = JobBoard(roots[0] / FOLDER if roots else None, settings.workers, settings.jobs_memory_bytes, roots)
    try:
        yield board
    finally:
        board.close()


def _died(detail: str) -> dict[str, Any]:
    """Return the error of a job that could not tell its own."""
    return {"status": 500, "code": "job-died", "title": "The job died", "detail": detail}


def _message(line: str) -> dict[str, Any]:
    """Return what a job tells in a line; nothing where the line is some library's and not the job's."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return found
    return {}


def _remembered(folder: Path | None) -> list[Job]:
    """Read what an earlier service has taken; a file that is no job is nobody's business."""
    jobs = []
    for path in sorted(folder.glob("*.job")) if folder and folder.is_dir() else []:
        with suppress(ValueError, TypeError):
            jobs.append(Job(**json.loads(path.read_text())))
    return jobs
