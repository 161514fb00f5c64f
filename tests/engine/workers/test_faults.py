"""Faults: workers that are killed or hang, and work that is ended, with the workers watched until they are idle."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from numpy.typing import NDArray

import normtree_kernels as nk
from normtree.engine.cancel import Cancel
from normtree.engine.memory.tensor import Tensor
from normtree.engine.plan import Plan
from normtree.engine.projector import Projector
from normtree.engine.workers.ray_workers import RayExecutor
from normtree.errors import Cancelled, DeadlineExceeded, EngineUnavailable

pytestmark = pytest.mark.kills

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The short form; NORMTREE_KILL_REQUESTS=1000 runs the whole.
REQUESTS = int(os.environ.get("NORMTREE_KILL_REQUESTS", "60"))
KILL_EVERY_S = 2.0 if REQUESTS > 60 else 0.5
HITS = 3
SOON_S = 60.0  # to tell it from a hang: a machine may have much else to do
GIVE_UP_S = 150.0 if REQUESTS <= 60 else 3600.0


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(7).standard_normal(shape, np.float32)


def cpu_s(pids: list[int]) -> float:
    """Seconds that processes have spent on processors."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / TICKS_PER_S


class Held:
    """A tensor in the arena that takes about a second to project on two workers."""

    def __init__(self, projector: Projector, source: str, target: str, shape: tuple[int, int]) -> None:
        self.y = noise(shape)
        self.radius = 0.05 * nk.norm(self.y, "l1,l1", axes="1,0")
        self.plan = self.make_plan(projector, "ray")
        self.source, self.target = (Tensor(name, shape, "<f4") for name in (source, target))
        self.source.array(writable=True)[...] = self.y

    def make_plan(self, projector: Projector, engine: str) -> Plan:
        return projector.plan(
            self.y.shape, "<f4", norm="l1,l1", axes="1,0", radius=self.radius, engine=engine, workers=2
        )

    def is_right(self, expected: bytes) -> bool:
        return self.target.array().tobytes() == expected


@pytest.fixture
def held(projector: Projector) -> Iterator[Held]:
    shape = (20_000, 4000)
    nbytes = 4 * shape[0] * shape[1]
    with projector.arena.lease(nbytes) as source, projector.arena.lease(nbytes) as target:
        yield Held(projector, source.name, target.name, shape)


@pytest.mark.parametrize("how", ["deadline", "cancel"])
def test_workers_are_idle_when_the_error_is_raised(projector: Projector, held: Held, how: str) -> None:
    assert projector.ray
    pids = projector.ray.worker_pids()
    cancel, end_s = Cancel(), 0.08
    deadline_s = 60.0 if how == "cancel" else end_s
    if how == "cancel":
        threading.Timer(end_s, cancel.set).start()
    start = monotonic()
    with pytest.raises(Cancelled if how == "cancel" else DeadlineExceeded):
        projector.project(held.source, held.target, held.plan, cancel=cancel, deadline_s=deadline_s)
    late_s = monotonic() - start - end_s
    spent = cpu_s(pids)
    before = held.target.array().tobytes()
    sleep(0.5)
    assert cpu_s(pids) - spent <= 0.05, "workers went on"
    assert held.target.array().tobytes() == before, "something was written afterwards"
    assert late_s < SOON_S
    assert projector.slates.leased_bytes == 0
    assert set(projector.ray.worker_pids()) == set(pids), "no worker had to be ended for it"


def test_a_worker_that_hangs_is_ended_and_the_deadline_is_kept(projector: Projector, held: Held) -> None:
    assert projector.ray
    stopped = projector.ray.worker_pids()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    start = monotonic()
    with pytest.raises(DeadlineExceeded):
        projector.project(held.source, held.target, held.plan, deadline_s=0.2)
    assert monotonic() - start < GIVE_UP_S
    for pid in set(stopped) & set(projector.ray.worker_pids()):
        os.kill(pid, signal.SIGCONT)
    projector.project(held.source, held.target, held.plan)
    assert held.is_right(nk.project(held.y, "l1,l1", held.radius, axes="1,0").tobytes())


def drivers() -> set[int]:
    """Those of this process that live."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = (path / "status").read_text()
            if b"engine.cluster.driver" in (path / "cmdline").read_bytes() and f"PPid:\t{os.getpid()}\n" in told:
                found.add(int(path.name))
    return found


def kill_driver(*, but: AbstractSet[int] = frozenset()) -> None:
    """End the driver of a cluster, and with it the cluster."""
    (driver,) = drivers() - but
    os.kill(driver, signal.SIGKILL)


@pytest.mark.parametrize("may_move", [True, False])
def test_ray_is_lost_in_the_middle_of_a_request(projector: Projector, held: Held, may_move: bool) -> None:
    """Whoever left the choice to the service gets the answer of threads, and whoever asked for Ray is told."""
    assert projector.ray
    restarts = projector.ray.restarts
    killer = threading.Timer(0.1, kill_driver)
    killer.start()
    if may_move:
        timing = projector.project(held.source, held.target, replace(held.plan, may_move=True))
        assert (timing.engine, timing.reason) == ("inline", "Ray is away")
        assert held.is_right(nk.project(held.y, "l1,l1", held.radius, axes="1,0").tobytes())
    else:
        with pytest.raises(EngineUnavailable, match=r"Ray is away: its process \w+ has ended"):
            projector.project(held.source, held.target, held.plan)
    killer.join()
    give_up_s = monotonic() + GIVE_UP_S
    while projector.ray.restarts == restarts:
        assert monotonic() < give_up_s, "Ray did not come back"
        sleep(0.1)
    assert projector.project(held.source, held.target, held.plan).engine == "ray"
    assert projector.slates.leased_bytes == 0


def test_a_ray_that_is_lost_again_and_again_is_started_now_and_then_only() -> None:
    others = drivers()
    executor = RayExecutor(1, restart_s=3600)
    try:
        for restarts in (1, 0):  # at once, and then an hour later
            before = executor.info()
            kill_driver(but=others)
            give_up_s = monotonic() + GIVE_UP_S
            while executor.restarts < restarts or not (restarts or executor.is_away):
                assert monotonic() < give_up_s
                sleep(0.05)
        with pytest.raises(EngineUnavailable, match="Ray is away") as away:
            executor.check_there()
        assert 3000 < (away.value.retry_after_s or 0) <= 3700
        assert (before["up"], executor.info()["up"], executor.restarts) == (True, False, 1)
    finally:
        executor.close()


def kill_now_and_then(ray_engine: RayExecutor, over: threading.Event, killed: list[int]) -> None:
    """Kill one worker after the other, each when all those killed before have been replaced."""
    whole = len(ray_engine.worker_pids())
    while not over.wait(KILL_EVERY_S):
        found = ray_engine.worker_pids()
        if len(found) == whole:
            victim = found[len(killed) % (whole - 1)]  # the last one is the spare
            with suppress(ProcessLookupError):  # it was lost already, and nobody has noticed yet
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)


def test_a_worker_that_dies_idle_is_replaced_without_being_asked(projector: Projector) -> None:
    ray = projector.ray
    assert ray

    def until(is_so: Callable[[list[int]], bool]) -> list[int]:
        give_up_s = monotonic() + GIVE_UP_S
        while not is_so(found := ray.worker_pids()):
            assert monotonic() < give_up_s, found
            sleep(0.05)
        return found

    restarts = ray.restarts
    victim, *others = until(lambda found: len(found) == projector.workers + 1)
    os.kill(victim, signal.SIGKILL)
    after = until(lambda found: len(found) == projector.workers + 1 and victim not in found)
    assert set(others) <= set(after)
    assert ray.workers_ready == projector.workers
    assert ray.restarts == restarts


def test_requests_go_right_while_workers_are_killed(projector: Projector) -> None:
    """Tensors of which a request takes some tens of milliseconds, so that most kills hit one in its middle.

    It goes on until enough kills have hit, however fast or slow the machine is.
    """
    assert projector.ray
    shape = (4000, 1000)
    nbytes = 4 * shape[0] * shape[1]
    over = threading.Event()
    killed: list[int] = []
    killer = threading.Thread(target=kill_now_and_then, args=(projector.ray, over, killed))
    requests = hit = retries = 0
    with projector.arena.lease(nbytes) as source, projector.arena.lease(nbytes) as target:
        held = Held(projector, source.name, target.name, shape)
        expected = nk.project(held.y, "l1,l1", held.radius, axes="1,0").tobytes()
        give_up_s = monotonic() + GIVE_UP_S
        killer.start()
        try:
            while requests < REQUESTS or hit < HITS:
                assert monotonic() < give_up_s, f"{requests} requests, {len(killed)} kills, of which {hit} hit one"
                held.target.array(writable=True)[...] = np.nan
                repeated = projector.project(held.source, held.target, held.plan).retries or 0
                requests, hit, retries = requests + 1, hit + (repeated > 0), retries + repeated
                assert held.is_right(expected)
        finally:
            over.set()
            killer.join()
    print(f"{requests} requests, {len(killed)} workers killed, {retries} leaves repeated")
    assert projector.arena.leased_bytes == 0
    assert projector.slates.leased_bytes == 0
