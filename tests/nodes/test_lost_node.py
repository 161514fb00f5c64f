"""A cluster that was joined: its node is lost, nobody waits for it, and the engine joins the next one by itself."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, monotonic_ns, sleep

import pytest
from ray.cluster_utils import Cluster

from normtree.engine.cluster.ray_environment import prepare_environment
from normtree.engine.memory.arena import Arena
from normtree.engine.memory.slate import Slate
from normtree.engine.memory.stop import Stop
from normtree.engine.workers.ray_workers import RayExecutor
from normtree.errors import EngineUnavailable

pytestmark = [pytest.mark.nodes, pytest.mark.kills, pytest.mark.slow]

NODE_S = 240
HANG_S = 240.0
FAR_NS = monotonic_ns() + 10**13

prepare_environment(embedded=True)


@pytest.fixture
def stop(tmp_path: Path) -> Iterator[Stop]:
    with Slate(Arena(1 << 20, tmp_path), [], FAR_NS) as slate:
        yield slate.stop


@pytest.fixture
def executor() -> Iterator[RayExecutor]:
    """One that has joined one of two nodes of this machine."""
    cluster = Cluster()
    try:
        for _ in range(2):
            cluster.add_node(wait=False, num_cpus=1, object_store_memory=100 * 2**20)
            cluster.wait_for_nodes(NODE_S)
        made = RayExecutor(1, cluster.address, restart_s=0)
        try:
            yield made
        finally:
            made.close()
    finally:
        cluster.shutdown()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_next_node_takes_the_place_of_a_lost_one(executor: RayExecutor, stop: Stop) -> None:
    before = executor.worker_pids()
    assert executor.info()["nodes"] == 2
    assert executor.run(os.getpid, [()], workers=1, stop=stop).values[0] in before
    (raylet,) = {parent_of(pid) for pid in before}
    assert Path(f"/proc/{raylet}/cmdline").read_text().split("\0")[0].endswith("/raylet")
    os.kill(raylet, signal.SIGKILL)
    end_s = monotonic() + HANG_S
    while not executor.is_away and not executor.restarts:
        assert monotonic() < end_s, "nobody noticed"
        sleep(0.01)
    if executor.is_away:
        with pytest.raises(EngineUnavailable, match="Ray is away: its process raylet has ended"):
            executor.run(os.getpid, [()], workers=1, stop=stop)
    while not executor.restarts:
        assert monotonic() < end_s, "no node was joined"
        sleep(0.1)
    after = executor.worker_pids()
    assert not set(after) & set(before)
    stop.set_ns(FAR_NS)  # of another request
    assert executor.run(os.getpid, [()], workers=1, stop=stop).values[0] in after


def test_where_nobody_listens_is_told_at_once() -> None:
    with pytest.raises(EngineUnavailable, match=r"Ray at 127\.0\.0\.1:1: Connection refused"):
        RayExecutor(1, "127.0.0.1:1")
