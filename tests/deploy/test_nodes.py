"""README.md's commands, run as they stand on two machines: namespaces with network, memory and processes of their own.

The addresses are the README's; nothing leaves the namespaces, and all that runs in them ends with their first process.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import normtree_kernels as nk
from normtree.processes.ending import ending_with_us

pytestmark = [pytest.mark.nodes, pytest.mark.slow, pytest.mark.timeout(400)]

DEPLOY = Path(__file__).parents[2] / "deploy"
NEEDED = ("ip", "nsenter", "unshare", "curl", "ss")
HEAD, NODE, CLIENT, STRANGER = "10.0.0.10", "10.0.0.11", "10.0.0.5", "10.0.1.9"
START_S = 180
SHM = "2g"  # of a machine: the arena of the README's command, and Ray's store
RAYS = {"ray_node_mem_used", "ray_node_mem_total", "ray_node_cpu_utilization", "ray_node_mem_shared_bytes"}


@dataclass(frozen=True)
class Machine:
    """A machine made of namespaces.

    Args:
        init: its first process; with it all others end.
        room: a folder that every machine sees.
    """

    init: int
    room: Path

    def command(self, script: str) -> list[str]:
        inside = script.replace("/opt/normtree/bin", str(Path(sys.executable).parent))
        inside = inside.replace("/etc/normtree", str(self.room / "etc")).replace("/srv", str(self.room))
        enter = ["nsenter", f"--target={self.init}", "--net", "--mount", "--pid"]
        return [*enter, "bash", "-euc", f"cd {self.room}\n{inside}"]

    def run(self, script: str, timeout_s: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script), env={**bare_environment(), **environment}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip

    def must(self, script: str, timeout_s: float = 90, **environment: str) -> str:
        done = self.run(script, timeout_s, **environment)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, script: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as sink:
            return subprocess.Popen(
                self.command(script), env=bare_environment(), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )


@dataclass(frozen=True)
class Cluster:
    """The machines, with the README's cluster on two of them."""

    head: Machine
    node: Machine
    client: Machine
    stranger: Machine
    service: "subprocess.Popen[bytes]"
    key: str
    room: Path


def bare_environment() -> dict[str, str]:
    """What a login has: no setting of this process's."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ["HOME"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }


def block(title: str) -> str:
    """Return the README's commands under a first line."""
    found = re.findall(r"^```bash\n(.*?)^```$", (DEPLOY / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (script,) = (text for text in found if text.startswith(title))
    return script


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def namespace(name: str) -> Iterator[None]:
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        ip("netns", "del", name)


@contextmanager
def machine(name: str, switch: str, address: str, room: Path) -> Iterator[Machine]:
    """Make a machine on the switch's network."""
    with namespace(name):
        ip("link", "add", "up0", "netns", name, "type", "veth", "peer", "name", name, "netns", switch)
        ip("-n", switch, "link", "set", name, "master", "bridge", "up")
        ip("-n", name, "addr", "add", f"{address}/16", "dev", "up0")
        ip("-n", name, "link", "set", "up0", "up")
        first = (
            f"mount -t tmpfs -o size={SHM} tmpfs /dev/shm; mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray; "
            "echo up; sleep infinity & wait"
        )
        command = [
            "ip", "netns", "exec", name, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
            "bash", "-c", first,
        ]  # fmt: skip
        outer = subprocess.Popen(
            ending_with_us(command, signal.SIGKILL), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            assert outer.stdout
            assert outer.stdout.readline() == b"up\n"
            (init,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
            yield Machine(int(init), room)
        finally:
            outer.kill()
            outer.communicate()


def require_namespaces() -> None:
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    probe = f"ntp{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not permitted here")
    ip("netns", "del", probe)


def wait_until_ready(client: Machine, service: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and service.poll() is None:
        if client.run(f"curl -sf http://{NODE}:8000/v2/health/ready").returncode == 0:
            return
        time.sleep(0.5)
    pytest.fail(f"the service did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two machines with the README's cluster, a client, and a stranger on the same wire."""
    require_namespaces()
    room = tmp_path_factory.mktemp("machines")
    (room / "etc").mkdir(mode=0o750)
    (room / "checkpoints").mkdir()
    switch, log = f"nts{os.getpid()}", room / "service.log"
    with ExitStack() as stack:
        stack.enter_context(namespace(switch))
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        head, node, client, stranger = (
            stack.enter_context(machine(f"nt{letter}{os.getpid()}", switch, address, room))
            for letter, address in zip("hncx", (HEAD, NODE, CLIENT, STRANGER), strict=True)
        )
        if shutil.which("nft"):
            for guarded in (head, node):
                guarded.must(f"nft -f {DEPLOY / 'systemd' / 'firewall.nft'}")
        (key,) = re.findall(r"nt_\S+", head.must(block("umask")))
        head.must(block("# on 10.0.0.10"))
        node.must(block("# on 10.0.0.11\n"))
        service = node.start(block("# on 10.0.0.11, the service"), log)
        try:
            wait_until_ready(client, service, log)
            yield Cluster(head, node, client, stranger, service, key, room)
        finally:
            service.kill()
            service.wait()


@pytest.fixture(scope="module")
def manifest(kubernetes: list[dict[str, Any]]) -> dict[str, Any]:
    """The documents of rayjob.yaml, by kind."""
    return {item["kind"]: item for item in kubernetes if item["kind"] in {"ConfigMap", "RayJob"}}


def listeners(where: Machine) -> list[int]:
    return [int(port) for port in re.findall(r":(\d+)\s", where.must("ss -Hltn | awk '{print $4 \" \"}'"))]


def test_secrets_are_their_owners(cluster: Cluster) -> None:
    for name in ("ray-token", "api-keys"):
        assert (cluster.room / "etc" / name).stat().st_mode & 0o777 == 0o600


def test_two_nodes_are_active(cluster: Cluster) -> None:
    """Their report comes late: the README's own `ray status` may show one."""
    (ask,) = re.findall(r"^\S*ray status .*$", block("# on 10.0.0.11\n"), re.MULTILINE)
    token = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/etc/normtree/ray-token"
    end = time.monotonic() + 120
    while (status := cluster.node.must(f"{token}; {ask}")).count(" 1 node_") < 2 and time.monotonic() < end:
        time.sleep(1)
    assert len(re.findall(r"^ 1 node_", status, re.MULTILINE)) == 2, status


def test_a_post_is_answered_by_leaves_on_ray(cluster: Cluster) -> None:
    y = np.random.default_rng(0).standard_normal((512, 384), dtype=np.float32)
    np.save(cluster.room / "w.npy", y)
    shown = cluster.client.must(block("# on a client"), KEY=cluster.key)
    np.testing.assert_array_equal(
        np.load(cluster.room / "out.npy", allow_pickle=False), nk.project(y, "l1,linf", 10.0, axes="1,0")
    )
    (timing,) = re.findall(r"^x-normtree-timing: (.*)$", shown, re.IGNORECASE | re.MULTILINE)
    assert json.loads(timing)["engine"] == "ray"
    info = cluster.client.must(f"curl -sSf -H 'Authorization: Bearer {cluster.key}' http://{NODE}:8000/v1/info")
    assert json.loads(info)["engine"]["ray"]["nodes"] == 2


def test_nobody_is_answered_without_a_key(cluster: Cluster) -> None:
    for key, status in (("", "401"), ("-H 'Authorization: Bearer nt_wrong'", "403")):
        ask = f"curl -sS -o /dev/null -w '%{{http_code}}' {key} http://{NODE}:8000/v1/info"
        assert cluster.client.must(ask) == status


def test_nobody_joins_without_the_token(cluster: Cluster) -> None:
    (cluster.room / "wrong").write_text("0" * 64)
    for token in (f"RAY_AUTH_TOKEN_PATH={cluster.room / 'wrong'}", "RAY_AUTH_TOKEN="):
        refused = cluster.node.run(
            f"export RAY_AUTH_MODE=token {token}; /opt/normtree/bin/ray status --address={HEAD}:6379"
        )
        assert refused.returncode != 0
        assert re.search("[Aa]uthentication|token", refused.stderr), refused.stderr


def test_ray_listens_where_it_was_told(cluster: Cluster) -> None:
    """Every port is one that the firewall knows, but for the service's own."""
    text = (DEPLOY / "systemd" / "firewall.nft").read_text()
    (shut,) = re.findall(r"tcp dport \{ ([^}]*) \} drop", text)
    ranges = [[int(end) for end in part.strip().split("-")] for part in shut.split(",")]
    for where in (cluster.head, cluster.node):
        ports = listeners(where)
        assert 6380 in ports
        outside = {port for port in ports if not any(low[0] <= port <= low[-1] for low in ranges)}
        assert outside <= {8000}


def test_strangers_reach_no_port_of_ray(cluster: Cluster) -> None:
    if not shutil.which("nft"):
        pytest.skip("nft is not installed: nothing shuts the ports here")
    knock = "timeout 0.5 bash -c 'echo > /dev/tcp/{}/{}'"
    for address, port in ((HEAD, 6379), (HEAD, 6380), (NODE, 6380), (NODE, 6381), (NODE, 6385)):
        assert cluster.client.run(knock.format(address, port)).returncode == 0
        assert cluster.stranger.run(knock.format(address, port)).returncode != 0
    assert cluster.stranger.run(knock.format(NODE, 8000)).returncode == 0


def test_probes_of_the_manifests_need_no_token(cluster: Cluster) -> None:
    probe = (
        "/opt/normtree/bin/python -c 'from urllib.request import urlopen; urlopen(\"http://127.0.0.1:{}\", timeout=3)'"
    )
    cluster.node.must(probe.format("6384/api/local_raylet_healthz"))
    cluster.head.must(probe.format("6384/api/local_raylet_healthz"))
    cluster.head.must(probe.format("8265/api/gcs_healthz"))


def test_rays_metrics_are_those_of_the_dashboard(cluster: Cluster) -> None:
    end = time.monotonic() + 120  # a node's first report
    while True:
        shown = cluster.client.must(f"curl -sSf http://{NODE}:6385/metrics")
        found = {name for name in RAYS if re.search(rf"^{name}\{{", shown, re.MULTILINE)}
        if found == RAYS or time.monotonic() > end:
            break
        time.sleep(1)
    assert found == RAYS


def put_checkpoint(folder: Path) -> dict[str, NDArray[np.float32]]:
    y = np.random.default_rng(1).standard_normal((600, 200), dtype=np.float32)
    tensors = {"layer.weight": y, "layer.bias": y[0].copy()}
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return tensors


def check_projected(folder: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    found = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(found["layer.weight"], nk.project(tensors["layer.weight"], "l1,linf", sparsity=0.5))
    np.testing.assert_array_equal(found["layer.bias"], tensors["layer.bias"])


def test_a_job_runs_on_the_cluster(cluster: Cluster, manifest: dict[str, Any]) -> None:
    folder = cluster.room / "checkpoints"
    tensors = put_checkpoint(folder / "in")
    recipe = manifest["ConfigMap"]["data"]["recipe.toml"].replace("/checkpoints/", "")
    (folder / "recipe.toml").write_text(recipe)
    shown = cluster.head.must(block("# a job"), timeout_s=170)
    assert "on ray, 2 nodes" in shown
    check_projected(folder / "out", tensors)


def test_a_submitted_job_does_too(cluster: Cluster, manifest: dict[str, Any]) -> None:
    """As KubeRay submits it: the manifest's entry point, on the head."""
    folder = cluster.room / "etc" / "recipe"
    tensors = put_checkpoint(cluster.room / "etc" / "in")
    folder.mkdir()
    recipe = manifest["ConfigMap"]["data"]["recipe.toml"].replace("/checkpoints/", "../")
    (folder / "recipe.toml").write_text(recipe)
    entrypoint = manifest["RayJob"]["spec"]["entrypoint"]
    shown = cluster.head.must(
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/etc/normtree/ray-token; "
        f"/opt/normtree/bin/ray job submit --address=http://127.0.0.1:8265 -- /opt/normtree/bin/{entrypoint}",
        timeout_s=170,
    )
    assert "on ray, 2 nodes" in shown
    check_projected(cluster.room / "etc" / "out", tensors)


def test_it_stops_when_it_is_told_and_leaves_nothing(cluster: Cluster) -> None:
    (serving,) = cluster.node.must("pgrep --full --oldest 'normtree serve'").split()
    cluster.node.must(f"kill -TERM {serving}")
    assert cluster.service.wait(60) == 0, (cluster.room / "service.log").read_text()
    assert cluster.node.must("ls /dev/shm").split() == []
    for where in (cluster.node, cluster.head):
        where.must(block("# to stop"))
        assert where.run("pgrep --full 'raylet|gcs_server'").returncode != 0
