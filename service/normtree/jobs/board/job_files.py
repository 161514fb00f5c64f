"""The notes of a service: a sealed file for each of its jobs, in a folder that is its alone."""

import fcntl
import logging
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

from normtree.errors import NotReady, StorageFailed
from normtree.files.enclosure import Enclosure
from normtree.files.seal import seal, unseal
from normtree.jobs.board.job import Job
from normtree.jobs.storage.places import told

_SUFFIX, _LOCK = ".job", "lock"
_NOTE_BYTES = 2**21
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_RETRY_AFTER_S = 5

logger = logging.getLogger(__name__)


class Notes:
    """The folder of the notes.

    Args:
        folder: made where it is not there; links on the way to it are resolved when it is opened.
    """

    def __init__(self, folder: Path) -> None:
        """Look at nothing yet."""
        self._path = folder
        self._folder = Enclosure(str(folder))
        self._lock: int | None = None

    def open(self) -> list[Job]:
        """Take the folder for this service, and read the notes; what is none is set aside, and the log names it.

        Raises:
            NotReady: another service has the folder.
            StorageFailed, StorageFull: it cannot be read, or others than us can write in it.
        """
        self.close()
        with told(str(self._path)):
            real = os.path.realpath(self._path.parent)
            self._folder = Enclosure(f"{real}/{self._path.name}", {"": 0o700})
            with self._folder.folder_of(_LOCK, make=True) as (folder, name):
                self._check_ours(folder)
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._lock = os.open(name, flags, 0o600, dir_fd=folder)
            self._take()
            names = [name for name in self._folder.names() if name.endswith(_SUFFIX) and "/" not in name]
        return [job for name in names if (job := self._read(name))]

    def write(self, job: Job) -> None:
        """Note a job, whole or not at all.

        Raises:
            StorageFailed, StorageFull: it cannot be written.
        """
        with told(f"{self._path}/{job.id}{_SUFFIX}"):
            self._folder.write(f"{job.id}{_SUFFIX}", seal(job.note()), 0o600)

    def remove(self, id_: str) -> None:
        """Forget a job.

        Raises:
            StorageFailed: it cannot be removed.
        """
        with told(f"{self._path}/{id_}{_SUFFIX}"):
            self._folder.remove(f"{id_}{_SUFFIX}")

    def close(self) -> None:
        """Give the folder back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _check_ours(self, folder: int) -> None:
        """Refuse a folder where others can put a note; of one that is ours the permissions are put right."""
        found = os.fstat(folder)
        if found.st_uid not in (os.geteuid(), self._owner(found.st_uid)):
            raise StorageFailed(f"{self._path}: belongs to user {found.st_uid}, who could forge what is noted there")
        if found.st_mode & _OTHERS_WRITE:
            os.chmod(f"/proc/self/fd/{folder}", 0o700)

    def _owner(self, otherwise: int) -> int:
        """Return who we are on this disk, which may know us by another number."""
        probe = f".{uuid.uuid4().hex}"
        try:
            descriptor = self._folder.create(probe, 0o600)
        except OSError:
            return -1 - otherwise
        try:
            return os.fstat(descriptor).st_uid
        finally:
            os.close(descriptor)
            self._folder.remove(probe)

    def _take(self) -> None:
        if self._lock is None:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise NotReady(
                f"{self._path}: another service takes the jobs of these folders", retry_after_s=_RETRY_AFTER_S
            ) from None
        except OSError as error:
            logger.warning("%s: cannot be locked (%s): see that no other service has it", self._path, error.strerror)

    def _read(self, name: str) -> Job | None:
        try:
            note = unseal(self._folder.read(name, _NOTE_BYTES) or b"")
            if note is None:
                raise ValueError("it is not what was written")
            job = Job.of_note(note)
            if f"{job.id}{_SUFFIX}" == name:
                return job
            why = "it has another job's name"
        except OSError as error:
            why = error.strerror or str(error)
        except ValueError as error:
            why = str(error).splitlines()[0]
        logger.warning("%s/%s: set aside, for it is no note of a job: %s", self._path, name, why)
        with suppress(OSError):
            self._folder.move(name, f"{name}.set-aside")
        return None
