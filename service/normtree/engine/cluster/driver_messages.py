"""What a service and its Ray driver say to each other."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Connect:
    """To the driver, first of all: start a cluster, or join one.

    Args:
        workers: CPUs of a cluster that is started.
        address: of a cluster to join; None starts one.
        folder: for the files of a cluster that is started.
        service: id of the process that says so.
        folders: that go with it, for the case that it is killed.
    """

    workers: int
    address: str | None
    folder: str
    service: int
    folders: tuple[str, ...]


@dataclass(frozen=True)
class Hire:
    """To the driver: start a worker.

    Args:
        number: of the worker; no two have the same.
        key: of the line to it.
        folder: where it listens.
        segments: that it maps in advance.
    """

    number: int
    key: bytes
    folder: str
    segments: Sequence[str]


@dataclass(frozen=True)
class Fire:
    """To the driver: end a worker, or what has become of it."""

    number: int


@dataclass(frozen=True)
class Connected:
    """From the driver: the cluster is there.

    Args:
        version: of Ray.
        nodes: how many it has.
    """

    version: str
    nodes: int


@dataclass(frozen=True)
class Nodes:
    """From the driver, now and then: how many nodes the cluster has."""

    count: int


@dataclass(frozen=True)
class Hired:
    """From the driver: a worker is warm and listens.

    Args:
        number: of the worker.
        address: of the line to it.
        pid: its process.
        parent: the process that started it: the raylet of this node.
        namespace: in which these two numbers mean something.
    """

    number: int
    address: str
    pid: int
    parent: int
    namespace: int


@dataclass(frozen=True)
class Failed:
    """From the driver: what was told cannot be done.

    Args:
        number: of the worker; None: there is no cluster.
        why: what Ray says.
    """

    number: int | None
    why: str


ToDriver = Connect | Hire | Fire
FromDriver = Connected | Nodes | Hired | Failed
