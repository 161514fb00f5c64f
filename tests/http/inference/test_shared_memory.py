"""Clients' shared memory: tensors that are never sent, and what a client may not do with it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

import normtree_kernels as nk
from normtree.engine.memory.arena import Arena
from normtree.errors import NormtreeError
from normtree.formats.contents import Entry
from normtree.formats.oip import Region
from normtree.http.access.auth import ANYBODY, Caller
from normtree.http.inference import shared_regions
from normtree.http.inference.shared_regions import Regions

Array = NDArray[Any]
INFER = "/v2/models/multilevel/infer"
KEY = f"/tensor-{os.getpid()}"


def noise(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.fixture
def running(started: tuple[str, subprocess.Popen[bytes]]) -> tuple[str, int]:
    return started[0], started[1].pid


@pytest.fixture
def base(service: str) -> str:
    return service


@pytest.fixture
def server(base: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(base).netloc) as found:
        yield found
        found.unregister_system_shared_memory()


@pytest.fixture
def memory() -> Iterator[Any]:
    """Make segments as Triton's users do, and remove them in the end."""
    made = []

    def make(name: str, nbytes: int) -> Any:
        made.append(shm.create_shared_memory_region(name, f"{KEY}-{name}", nbytes))
        return made[-1]

    yield make
    for one in made:
        shm.destroy_shared_memory_region(one)


def inference(region: str, shape: tuple[int, ...], datatype: str, nbytes: int, offset: int = 0) -> triton.InferInput:
    found = triton.InferInput("y", list(shape), datatype)
    found.set_shared_memory(region, nbytes, offset)
    return found


def output(region: str, nbytes: int, offset: int = 0) -> triton.InferRequestedOutput:
    found = triton.InferRequestedOutput("x")
    found.set_shared_memory(region, nbytes, offset)
    return found


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize(("datatype", "dtype"), [("FP32", np.float32), ("BF16", ml_dtypes.bfloat16)])
def test_input_and_output_never_travel(
    server: triton.InferenceServerClient, memory: Any, engine: str, datatype: str, dtype: Any
) -> None:
    y = noise(300, 200, dtype=dtype)
    segment = memory("both", 2 * y.nbytes)
    shm.set_shared_memory_region(segment, [y])
    server.register_system_shared_memory("both", f"{KEY}-both", 2 * y.nbytes)
    assert "system_shared_memory" in server.get_server_metadata()["extensions"]
    for radius in (2.0, 5.0):
        answer = server.infer(
            "multilevel",
            [inference("both", y.shape, datatype, y.nbytes)],
            outputs=[output("both", y.nbytes, y.nbytes)],
            parameters={"radius": radius, "engine": engine},
        )
        (told,) = answer.get_response()["outputs"]
        assert told["parameters"]["shared_memory_region"] == "both"
        x = shm.get_contents_as_numpy(segment, y.dtype, y.shape, y.nbytes)
        np.testing.assert_array_equal(x, nk.project(y, "l1,linf", radius))
    np.testing.assert_array_equal(shm.get_contents_as_numpy(segment, y.dtype, y.shape), y)


def test_only_one_of_them(server: triton.InferenceServerClient, memory: Any) -> None:
    y = noise(30, 20)
    x = nk.project(y, "l1,linf", 2.0)
    segment = memory("one", y.nbytes)
    shm.set_shared_memory_region(segment, [y])
    server.register_system_shared_memory("one", f"{KEY}-one", y.nbytes)
    there = inference("one", y.shape, "FP32", y.nbytes)
    answer = server.infer("multilevel", [there], parameters={"radius": 2.0})
    np.testing.assert_array_equal(answer.as_numpy("x"), x)
    sent = triton.InferInput("y", list(y.shape), "FP32")
    sent.set_data_from_numpy(y)
    server.infer("multilevel", [sent], outputs=[output("one", y.nbytes)], parameters={"radius": 2.0})
    np.testing.assert_array_equal(shm.get_contents_as_numpy(segment, y.dtype, y.shape), x)


def test_register_list_and_forget(server: triton.InferenceServerClient, memory: Any) -> None:
    memory("a", 4096)
    server.register_system_shared_memory("a", f"{KEY}-a", 4000, 64)
    server.register_system_shared_memory("b", f"{KEY}-a", 4096)
    assert server.get_system_shared_memory_status("a") == [
        {"name": "a", "key": f"{KEY}-a", "offset": 64, "byte_size": 4000}
    ]
    assert {one["name"] for one in server.get_system_shared_memory_status()} == {"a", "b"}
    with pytest.raises(InferenceServerException, match="'a' is registered already"):
        server.register_system_shared_memory("a", f"{KEY}-a", 4096)
    server.unregister_system_shared_memory("a")
    server.unregister_system_shared_memory("a")
    with pytest.raises(InferenceServerException, match="'a' is not registered"):
        server.get_system_shared_memory_status("a")
    server.unregister_system_shared_memory()
    assert server.get_system_shared_memory_status() == []


@pytest.mark.parametrize(
    ("key", "offset", "nbytes", "message"),
    [
        ("/other", 0, 8, "begins with /tensor-"),
        ("/normtree-1", 0, 8, "begins with /tensor-"),
        ("/tensor-/../../etc/passwd", 0, 8, "wanted a name of letters"),
        ("tensor-a", 0, 8, "begins with /tensor-"),
        (f"{KEY}-none", 0, 8, "cannot be opened: ENOENT"),
        (f"{KEY}-short", 0, 4097, "4097 bytes are wanted, its segment has 4096"),
        (f"{KEY}-short", 4000, 100, "4100 bytes are wanted, its segment has 4096"),
        (f"{KEY}-short", -1, 8, "offset"),
        (f"{KEY}-short", 0, 0, "byte_size"),
        (f"{KEY}-short", 2**63 - 1, 2**63 - 1, "are wanted, its segment has 4096"),
    ],
    ids=lambda value: str(value).replace(KEY, "/tensor"),  # the same in every process that collects it
)
def test_registrations_that_are_refused(
    server: triton.InferenceServerClient,
    memory: Any,
    key: str,
    offset: int,
    nbytes: int,
    message: str,
) -> None:
    memory("short", 4096)
    with pytest.raises(InferenceServerException, match=message):
        server.register_system_shared_memory("r", key, nbytes, offset)
    assert server.get_system_shared_memory_status() == []


def test_links_and_pipes_are_no_segments(base: str) -> None:
    for name, make in (("link", lambda path: path.symlink_to("/etc/passwd")), ("pipe", os.mkfifo)):
        path = Path(f"/dev/shm{KEY}-{name}")
        make(path)
        try:
            with httpx.Client(base_url=base, timeout=60) as client:
                answer = client.post(
                    "/v2/systemsharedmemory/region/r/register", json={"key": f"{KEY}-{name}", "byte_size": 8}
                )
            assert answer.status_code == 400, answer.text
        finally:
            path.unlink()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 24, "none"), "'none' is not registered"),
        ((4096 - 16, 24, "r"), "the region has 4096 bytes, got 4104"),
        ((2, 24, "r"), "float32 begins at multiples of 4 in a segment, got 2"),
        ((0, 20, "r"), "24 bytes are wanted by shape and datatype, got 20"),
    ],
)
def test_parts_that_are_refused(
    server: triton.InferenceServerClient, memory: Any, given: tuple[int, int, str], message: str
) -> None:
    memory("parts", 4096)
    server.register_system_shared_memory("r", f"{KEY}-parts", 4096)
    offset, nbytes, name = given
    for ask in (
        {"inputs": [inference(name, (2, 3), "FP32", nbytes, offset)]},
        {
            "inputs": [inference("r", (2, 3), "FP32", 24, 1024)],
            "outputs": [output(name, nbytes, offset)],
        },
    ):
        with pytest.raises(InferenceServerException, match=message):
            server.infer("multilevel", **ask, parameters={"radius": 1.0})


def test_output_over_its_input_is_refused(server: triton.InferenceServerClient, memory: Any) -> None:
    memory("over", 4096)
    server.register_system_shared_memory("r", f"{KEY}-over", 4096)
    server.register_system_shared_memory("s", f"{KEY}-over", 4000, 8)
    for region, offset in (("r", 0), ("r", 20), ("s", 0)):
        with pytest.raises(InferenceServerException, match="must not overlap"):
            server.infer(
                "multilevel",
                [inference("r", (2, 3), "FP32", 24)],
                outputs=[output(region, 24, offset)],
                parameters={"radius": 1.0},
            )


@pytest.mark.kills
@pytest.mark.parametrize(("engine", "statuses"), [("inline", {"400"}), ("ray", {"400", "503"})])
def test_segment_that_is_cut_short_in_mid_work_ends_no_service(
    running: tuple[str, int], server: triton.InferenceServerClient, memory: Any, engine: str, statuses: set[str]
) -> None:
    y = noise(1024, 1024)
    segment = memory("cutting", 2 * y.nbytes)
    shm.set_shared_memory_region(segment, [y])
    over = threading.Event()

    def cut() -> None:
        while not over.is_set():
            for nbytes in (4096, 2 * y.nbytes):
                os.truncate(f"/dev/shm{KEY}-cutting", nbytes)
                over.wait(0.003)

    def ask() -> None:
        server.unregister_system_shared_memory("r")
        server.register_system_shared_memory("r", f"{KEY}-cutting", 2 * y.nbytes)
        there, back = inference("r", y.shape, "FP32", y.nbytes), output("r", y.nbytes, y.nbytes)
        server.infer("multilevel", [there], outputs=[back], parameters={"radius": 3.0, "engine": engine})

    cutting = threading.Thread(target=cut)
    cutting.start()
    refused: list[InferenceServerException] = []
    try:
        for _ in range(30):
            try:
                ask()
            except InferenceServerException as error:
                refused.append(error)
    finally:
        over.set()
        cutting.join()
    assert "400" in {error.status() for error in refused} <= statuses
    assert all("short" in error.message() or "its segment has" in error.message() or error.status() == "503"
               for error in refused)  # fmt: skip
    os.truncate(f"/dev/shm{KEY}-cutting", 2 * y.nbytes)
    ask()
    os.kill(running[1], 0)


def test_a_client_has_so_many_regions_at_most(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_regions, "_REGIONS_LIMIT", 2)
    for name in ("mine", "hers"):
        memory(name, 4096)
    regions = Regions("/tensor-")
    try:
        for name in "ab":
            regions.register(ANYBODY, name, f"{KEY}-mine", 0, 4096)
        with pytest.raises(NormtreeError, match="regions: at most 2 are registered"):
            regions.register(ANYBODY, "c", f"{KEY}-mine", 0, 4096)
        regions.register(Caller("ada", admin=False), "c", f"{KEY}-hers", 0, 4096)
    finally:
        regions.close()


def test_region_that_was_cut_short_in_mid_work_is_refused_until_it_is_registered_anew(memory: Any) -> None:
    memory("anew", 4 * 4096)
    regions, part, entry = Regions("/tensor-"), Region("r", 0, 4 * 4096), Entry("y", "float32", (4, 1024), 4 * 4096)
    try:
        regions.register(ANYBODY, "r", f"{KEY}-anew", 0, 4 * 4096)
        with regions.use(ANYBODY, part, entry) as use:
            y = use.tensor.array(writable=True)
            y[:] = 1.0
            os.truncate(f"/dev/shm{KEY}-anew", 4096 + 1)
            assert y.sum(axis=1).tolist() == [1024.0, 0.0, 0.0, 0.0]  # the page that was cut has zeros behind its end
            os.truncate(f"/dev/shm{KEY}-anew", 4 * 4096)
            with pytest.raises(NormtreeError, match="was cut short while it was used; register it again"):
                use.region.check()
        with pytest.raises(NormtreeError, match="register it again"), regions.use(ANYBODY, part, entry):
            pytest.fail("it was cut short")
        regions.unregister(ANYBODY, "r")
        regions.register(ANYBODY, "r", f"{KEY}-anew", 0, 4 * 4096)
        with regions.use(ANYBODY, part, entry) as use:
            use.tensor.array(writable=True)[:] = 2.0
            use.region.check()
    finally:
        regions.close()


UNGUARDED = """
import mmap, os, tempfile
from normtree.engine.memory.vanishing_memory import guard, release
files = [tempfile.TemporaryFile() for _ in range(3)]
for file in files:
    file.truncate(2 * mmap.PAGESIZE)
maps = [mmap.mmap(file.fileno(), 0) for file in files]
kept, released = guard(maps[0]), guard(maps[1])
release(released)
for file in files:
    file.truncate(0)
assert maps[0][mmap.PAGESIZE] == 0 and maps[0][0] == 0 and kept.cut and not released.cut
print("so far", flush=True)
maps[{which}][0]
print("never")
"""


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_not_guarded_ends_the_process_as_ever(which: int) -> None:
    program = UNGUARDED.replace("{which}", str(which))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "so far\n"), done.stderr


def test_segment_that_was_cut_short_since(server: triton.InferenceServerClient, memory: Any) -> None:
    memory("cut", 2**16)
    server.register_system_shared_memory("r", f"{KEY}-cut", 2**16)
    os.truncate(f"/dev/shm{KEY}-cut", 4096)
    with pytest.raises(InferenceServerException, match="65536 bytes are wanted, its segment has 4096"):
        server.infer("multilevel", [inference("r", (2, 3), "FP32", 24)], parameters={"radius": 1.0})


def test_name_that_means_another_segment_by_now(server: triton.InferenceServerClient) -> None:
    """A region is the memory that was registered, whatever its client's name comes to mean."""
    y = noise(2, 3)
    path = Path(f"/dev/shm{KEY}-renamed")
    path.write_bytes(y.tobytes())
    try:
        server.register_system_shared_memory("r", f"{KEY}-renamed", 24)
        path.unlink()
        path.write_bytes(bytes(24))
        answer = server.infer("multilevel", [inference("r", (2, 3), "FP32", 24)], parameters={"radius": 1.0})
        np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,linf", 1.0))
    finally:
        path.unlink()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"key": 7, "byte_size": 8}', b'{"key": "/tensor-a"}', b" " * 70_000]
)
def test_registrations_that_are_no_json(base: str, body: bytes) -> None:
    with httpx.Client(base_url=base, timeout=60) as client:
        answer = client.post("/v2/systemsharedmemory/region/r/register", content=body)
    assert answer.status_code in (400, 413, 422), answer.text
    assert answer.json()["error"]


def test_it_is_off_unless_asked_for(serve: Any, tmp_path: Path) -> None:
    tensor: dict[str, Any] = {"name": "y", "shape": [2], "datatype": "FP32"}
    tensor["parameters"] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    with (
        serve(tmp_path / "log.txt", inline_only=True, workers=2, arena_bytes=2**24) as (base, _),
        triton.InferenceServerClient(urlsplit(base).netloc) as server,
    ):
        assert "system_shared_memory" not in server.get_server_metadata()["extensions"]
        with pytest.raises(InferenceServerException, match="Not Found"):
            server.get_system_shared_memory_status()
        asked = {"inputs": [tensor], "parameters": {"radius": 1, "norm": "l1"}}
        answer = httpx.post(f"{base}{INFER}", json=asked, timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (400, "region-refused")
    assert "takes no shared memory" in answer.json()["detail"]


def test_other_machines_are_refused(serve: Any, tmp_path: Path) -> None:
    """This machine's own address that is not a loopback one stands for another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but the loopback one")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no address but the loopback one")
    with serve(
        tmp_path / "log.txt", inline_only=True, arena_bytes=2**24, host="0.0.0.0", insecure=True, shared_memory=True
    ) as (base, _):
        port = urlsplit(base).port
        tensor = {"name": "y", "shape": [2], "datatype": "FP32"}
        asked = {"inputs": [{**tensor, "parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}}]}
        for method, path, body in (
            ("GET", "/v2/systemsharedmemory/status", None),
            ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/tensor-a", "byte_size": 8}),
            ("POST", INFER, {**asked, "parameters": {"radius": 1, "norm": "l1"}}),
        ):
            line = http.client.HTTPConnection(address, port, timeout=20)
            line.request(method, path, json.dumps(body) if body else None)
            answer = line.getresponse()
            assert (answer.status, json.load(answer)["code"]) == (403, "not-local")
            line.close()


def links() -> set[str]:
    """Names of this process's own in shared memory."""
    return {path.name for path in Path("/dev/shm").glob(f"normtree-{os.getpid()}-*")}


def test_regions_alone() -> None:
    path = Path(f"/dev/shm{KEY}-alone")
    path.write_bytes(noise(4, 4).tobytes())
    before, entry = links(), Entry("y", "float32", (2, 2), 16)
    regions = Regions("/tensor-")
    try:
        regions.register(ANYBODY, "r", f"{KEY}-alone", 0, 64)
        Arena(2**20).close()  # an arena that starts removes segments without an owner: this one has one
        with (
            pytest.raises(NormtreeError, match="is not registered"),
            regions.use(ANYBODY, Region("s", 0, 16), entry),
        ):
            pytest.fail("there is none")
        with pytest.raises(NormtreeError, match="is not registered"):
            regions.check_apart(ANYBODY, Region("r", 0, 8), Region("s", 0, 8))
        with regions.use(ANYBODY, Region("r", 16, 16), entry) as use:
            regions.unregister(ANYBODY)  # who uses it goes on
            np.testing.assert_array_equal(use.tensor.array(), noise(4, 4)[1].reshape(2, 2))
            assert len(links() - before) == 1
        assert links() == before
    finally:
        regions.close()
        path.unlink()
