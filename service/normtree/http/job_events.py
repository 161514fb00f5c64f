"""Who follows a job: one watcher for each job that is followed, and what it sees told to all who listen."""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from fastapi.sse import ServerSentEvent

from normtree.errors import NormtreeError
from normtree.http.admission.admission import Admission
from normtree.jobs.board.board import JobBoard
from normtree.jobs.board.job import Job
from normtree.keys.key import Key
from normtree.keys.key_ring import KeyRing

_LOOK_S = 0.2
_A_LISTENER_S = 2e-3  # each costs a tenth of a millisecond: many are told less often, and leave others their time
_TOLD_AT_ONCE = 64


@dataclass(eq=False)
class _Watch:
    """A job that is followed.

    Args:
        event: as it stands.
        is_over: whether none follows it.
        listeners: those to be woken when it changes.
    """

    event: ServerSentEvent
    is_over: bool = False
    listeners: set[asyncio.Event] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None


class JobEvents:
    """What is told of jobs as they change.

    Args:
        board: of the jobs.
        admission: knows when the service drains, which ends all that is told.
        keys: a key that is revoked ends what is told to who has shown it.
    """

    def __init__(self, board: JobBoard, admission: Admission, keys: KeyRing) -> None:
        self._board, self._admission, self._keys = board, admission, keys
        self._watches: dict[str, _Watch] = {}

    async def follow(self, job_id: str, key: Key | None = None) -> AsyncGenerator[ServerSentEvent]:
        """Tell of each change until the job ends, the service does, or the key is revoked.

        Who is slow misses some that lie between.

        Raises:
            JobNotFound: there is no such job.
        """
        watch = self._watch(job_id)
        woken, told = asyncio.Event(), None
        watch.listeners.add(woken)
        try:
            while key is None or self._keys.holds(key):
                woken.clear()
                if watch.event is not told:
                    told = watch.event
                    yield told
                elif watch.is_over:
                    return
                else:
                    await woken.wait()
        finally:
            watch.listeners.discard(woken)
            if not watch.listeners:
                self._end(job_id, watch)

    def _watch(self, job_id: str) -> _Watch:
        if job_id not in self._watches:
            job = self._board.get(job_id)
            watch = self._watches[job_id] = _Watch(_event(job), job.has_ended)
            if not watch.is_over:
                watch.task = asyncio.create_task(self._look(job_id, watch))
        return self._watches[job_id]

    def _end(self, job_id: str, watch: _Watch) -> None:
        if watch.task:
            watch.task.cancel()
        if self._watches.get(job_id) is watch:
            del self._watches[job_id]

    async def _look(self, job_id: str, watch: _Watch) -> None:
        revision = self._keys.revision
        while not watch.is_over:
            await asyncio.sleep(max(_LOOK_S, _A_LISTENER_S * len(watch.listeners)))
            try:
                job = self._board.get(job_id)
            except NormtreeError:  # forgotten
                watch.is_over = True
            else:
                event, watch.is_over = _event(job), job.has_ended or self._admission.draining
                changed = event != watch.event
                if not (changed or watch.is_over or revision != self._keys.revision):
                    continue
                watch.event, revision = event if changed else watch.event, self._keys.revision
            for number, woken in enumerate(tuple(watch.listeners), 1):
                woken.set()
                if number % _TOLD_AT_ONCE == 0:
                    await asyncio.sleep(0)


def _event(job: Job) -> ServerSentEvent:
    name = job.state if job.has_ended else "progress"
    return ServerSentEvent(event=name, raw_data=json.dumps(job.as_dict(), separators=(",", ":")))
