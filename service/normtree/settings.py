"""The service's settings: read once from arguments and the environment, checked, then fixed."""

import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from normtree.environment import PREFIX, Environment
from normtree.extras import has, missing
from normtree.keys.key import read_key_file, read_keys
from normtree.loopback import is_loopback
from normtree.processes import usable

SHARED_MEMORY = Path("/dev/shm")
OWN_MEMORY = "/normtree-"
GIB = 2**30
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9a-fA-F]*:[0-9a-fA-F:]*:[0-9a-fA-F]*")
_WORKERS_A_CORE = 16
# What is more than this is a slip of the hand, and more than timers, sockets and sums of such values hold.
_LONGEST_S = 7 * 86_400
Seconds = Annotated[float, Field(le=_LONGEST_S)]
WholeSeconds = Annotated[int, Field(le=_LONGEST_S)]
Amount = Annotated[int, Field(le=2**53)]
Count = Annotated[int, Field(le=2**20)]
Rate = Annotated[float, Field(le=1e9)]
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+")  # as browsers write them: no path, no user


def _default_arena_bytes(given: dict[str, Any]) -> int:
    """Return 4 GiB, or a quarter of the memory that the arena is made of where that is less.

    Threads alone need none that is shared. In shared memory Ray's object store lives too.
    """
    if given.get("inline_only"):
        return min(4 * GIB, usable.memory_bytes() // 4)
    if not (SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)):
        return GIB
    return min(4 * GIB, shutil.disk_usage(SHARED_MEMORY).total // 4)


class Settings(BaseSettings):
    """All that can be set, from keyword arguments or else from ``NORMTREE_<NAME>`` in the environment.

    Raises:
        pydantic.ValidationError: a value out of range, or an address that would expose the service.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", allow_inf_nan=False
    )

    host: str = Field(default="127.0.0.1", description="Address to bind.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port to bind; 0 takes a free one.")
    insecure: bool = Field(default=False, description="Permit an address that other machines can reach, without keys.")
    keys_file: Path | None = Field(
        default=None, description="File of the keys that open the service, a line `NAME sha256:HEX` each."
    )
    keys: str = Field(default="", description="Lines of keys themselves, separated by `;`.")
    workers: int = Field(
        default_factory=usable.cores, ge=1, description="Leaf tasks at once; default: the usable cores."
    )
    ray_address: str | None = Field(default=None, description="Ray cluster to join; default: an embedded local one.")
    ray_restart_s: Seconds = Field(
        default=60.0, ge=0, description="Seconds from one restart of Ray to the next, at least, where it is lost."
    )
    inline_only: bool = Field(
        default_factory=lambda: not has("ray"),
        description="Run without Ray, on this process's threads alone; default: where Ray is not installed.",
    )
    body_limit_bytes: Amount = Field(default=GIB, ge=1, description="Largest request body, in bytes.")
    rank_limit: int = Field(default=8, ge=1, le=64, description="Largest number of axes of a tensor.")
    elements_limit: Amount = Field(default=2**33, ge=1, description="Largest number of elements of a tensor.")
    arena_bytes: Amount = Field(
        default_factory=_default_arena_bytes,
        ge=1,
        description="Memory for tensors in flight, in bytes, shared unless inline_only is set; default: 4 GiB or a "
        "quarter of /dev/shm, or of the memory.",
    )
    arena_touched_bytes: Amount = Field(
        default=0, ge=0, description="Bytes of it whose pages are made at the start, before any request."
    )
    shared_memory: bool = Field(
        default=False, description="Let clients on this machine register shared memory of their own."
    )
    shared_memory_prefix: str = Field(
        default="/tensor-", pattern=r"^/[A-Za-z0-9_.-]+$", description="What the names of such memory begin with."
    )
    queue_limit: Count = Field(default=64, ge=0, description="Requests that may wait for shared memory.")
    key_rate_per_s: Rate | None = Field(
        default=None,
        gt=0,
        description="Tensors a second that one key may send, and ten times as much else; default: no bound.",
    )
    key_burst: Count = Field(
        default=20, ge=1, description="Tensors that one key may send at once, where it has a rate."
    )
    key_bytes_limit: Amount | None = Field(
        default=None, ge=1, description="Shared memory that one key may hold, in bytes; default: no bound."
    )
    head_limit_bytes: Amount = Field(default=2**16, ge=2**10, description="Largest request line and headers, in bytes.")
    head_timeout_s: Seconds = Field(default=20.0, gt=0, description="Seconds in which line and headers must arrive.")
    unread_timeout_s: Seconds = Field(default=60.0, gt=0, description="Seconds an answer waits for its client to read.")
    connections_limit: Count = Field(default=4096, ge=1, description="Connections at once.")
    body_timeout_s: Seconds = Field(
        default=60.0, gt=0, description="Seconds in which a body must arrive, and an answer with tensors be read."
    )
    body_grace_s: Seconds = Field(
        default=10.0, gt=0, description="Seconds that either may be behind an even share of these."
    )
    linger_limit_bytes: Amount = Field(
        default=2**26, ge=0, description="Bytes that are still taken of who is refused, who thus reads why."
    )
    linger_timeout_s: Seconds = Field(default=5.0, gt=0, description="Seconds that this may take.")
    deadline_s: Seconds = Field(default=55.0, gt=0, description="Seconds that the work on one request may take.")
    keep_alive_s: WholeSeconds = Field(default=75, ge=0, description="Seconds an idle connection is kept open.")
    drain_s: WholeSeconds = Field(
        default=30, ge=0, description="Seconds that requests in flight get to finish at shutdown."
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose pages may use the service from a browser, separated by `,`; `*`: any.",
    )
    allowed_hosts: str = Field(
        default="",
        description="Names, besides loopback's, by which requests may mean this service, separated by `,`; default: "
        "any, but for loopback's alone where it is bound and no keys are asked for.",
    )
    jobs_roots: str = Field(
        default="", description="Folders whose files batch jobs may read and write, separated by `:`; none: no jobs."
    )
    jobs_memory_bytes: Amount | None = Field(
        default=None,
        ge=1,
        description="Memory for the buffers and aggregates of a batch job, in bytes; default: 256 MiB a worker, at "
        "least 512 MiB, more where a tensor wants it, and no more than half of the free memory.",
    )
    jobs_queue_limit: int = Field(default=64, ge=0, description="Batch jobs that may wait.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: object, **__: object
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given, and else our reading of the environment."""
        return init_settings, Environment(settings_cls)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`."""
        return tuple(origin.strip() for origin in self.cors_origins.split(",") if origin.strip())

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of `allowed_hosts`."""
        return tuple(host.strip().lower() for host in self.allowed_hosts.split(",") if host.strip())

    @property
    def jobs_folders(self) -> tuple[Path, ...]:
        """The folders of `jobs_roots`."""
        return tuple(Path(root) for root in self.jobs_roots.split(os.pathsep) if root)

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        for origin in filter(None, map(str.strip, origins.split(","))):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"wanted `*`, or origins as https://host or https://host:port, got {origin!r}")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, hosts: str) -> str:
        for host in filter(None, map(str.strip, hosts.split(","))):
            if not _HOST.fullmatch(host):
                raise ValueError(f"wanted names or addresses without ports, separated by `,`, got {host!r}")
        return hosts

    @field_validator("jobs_roots")
    @classmethod
    def _check_jobs_roots(cls, roots: str) -> str:
        for root in filter(None, roots.split(os.pathsep)):
            if not (Path(root).is_absolute() and Path(root).is_dir()):
                raise ValueError(f"wanted absolute paths of folders, separated by {os.pathsep!r}, got {root!r}")
        return roots

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: int) -> int:
        most = _WORKERS_A_CORE * usable.cores()
        if workers > most:
            raise ValueError(f"wanted at most {most}, {_WORKERS_A_CORE} for each usable core")
        return workers

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: str) -> str:
        if keys:
            read_keys(keys, "keys")
        return keys

    @field_validator("keys_file")
    @classmethod
    def _check_keys_file(cls, file: Path | None) -> Path | None:
        """Find out now, and not when the engine has started, that the file cannot be used."""
        if file:
            try:
                read_key_file(file)
            except OSError as error:
                raise ValueError(f"{file}: {error.strerror}") from error
        return file

    @field_validator("shared_memory_prefix")
    @classmethod
    def _keep_own_memory(cls, prefix: str) -> str:
        """Refuse a prefix under which a client could name the tensors of others."""
        if OWN_MEMORY.startswith(prefix) or prefix.startswith(OWN_MEMORY):
            raise ValueError(f"names that begin with {OWN_MEMORY} are the service's own, got {prefix!r}")
        return prefix

    @model_validator(mode="after")
    def _check_ray(self) -> Self:
        """Refuse a Ray that is not installed."""
        asked = "ray_address" if self.ray_address else None if self.inline_only else "inline_only=False"
        if asked and (error := missing(asked, "ray")):
            raise ValueError(str(error))
        return self

    @model_validator(mode="after")
    def _refuse_exposure(self) -> Self:
        """Refuse to serve other machines without asking them for a key, unless told to."""
        if not (self.insecure or self.keys_file or self.keys or is_loopback(self.host)):
            raise ValueError(
                f"host: {self.host!r} can be reached from other machines, and the service has no keys to ask for; "
                "make one with `normtree key new NAME --keys-file FILE`, bind a loopback address, "
                "or set insecure to permit this"
            )
        return self
