"""The real service: right answers, one test an error class, and a right answer after all of them."""

import http.client
import io
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import normtree_kernels as nk

Array = NDArray[Any]

NPY = {"Content-Type": "application/x-npy"}
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "pointer", "limit", "got", "request_id", "error"}
SECRET = 48271.25  # in every tensor that is refused, and in no answer
STAGES = ("receive", "decode", "queue", "place", "up", "root", "down", "encode", "total")


def noise(*shape: int, dtype: str = "<f4") -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def secret(*shape: int) -> Array:
    return np.full(shape, SECRET, np.float32)


def npy(array: Array) -> bytes:
    body = io.BytesIO()
    np.save(body, array, allow_pickle=True)
    return body.getvalue()


def post(
    client: httpx.Client,
    array: Array,
    query: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    params = {"radius": "2", **{name: str(value) for name, value in (query or {}).items()}}
    return client.post("/v1/project", params=params, content=npy(array), headers={**NPY, **(headers or {})})


def tensor(answer: httpx.Response) -> Array:
    assert answer.status_code == 200, answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    found: Array = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return found


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() == MEMBERS
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["error"] == problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert str(SECRET) not in answer.text
    assert "Traceback" not in answer.text
    return problem


def talk(base: str, head: list[str], body: bytes = b"", *, close: bool = False) -> httpx.Response | None:
    """Send bytes as they are, as no HTTP client would; None where the service answers nothing."""
    place = urlsplit(base)
    with socket.create_connection((place.hostname, place.port), timeout=20) as line:
        line.sendall("\r\n".join([*head, f"Host: {place.netloc}", "", ""]).encode() + body)
        if close:
            line.shutdown(socket.SHUT_WR)
        answer = http.client.HTTPResponse(line)
        try:
            answer.begin()
        except http.client.BadStatusLine:
            return None
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


def head(*headers: str) -> list[str]:
    return ["POST /v1/project?radius=2 HTTP/1.1", *headers]


@pytest.fixture(autouse=True)
def _still_right(client: httpx.Client) -> Iterator[None]:
    """Whatever a test has done to the service: it still gives a right answer."""
    yield
    y = noise(30, 40)
    np.testing.assert_array_equal(tensor(post(client, y)), nk.project(y, "l1,linf", 2.0))


@pytest.mark.parametrize("engine", ["auto", "inline", "ray"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize(
    ("norm", "axes", "shape"),
    [("l1,linf", None, (200, 300)), ("l1,linf", "1,0", (200, 300)), ("l1,l1", "0,1.2.3", (8, 4, 3, 3))],
)
def test_equals_the_oracle(
    client: httpx.Client, engine: str, dtype: str, norm: str, axes: str | None, shape: tuple[int, ...]
) -> None:
    y = noise(*shape, dtype=dtype)
    axes_given = {"axes": axes} if axes else {}
    x = tensor(post(client, y, {"norm": norm, "engine": engine, **axes_given}))
    assert (x.shape, x.dtype) == (y.shape, y.dtype)
    tolerance = 1e-6 if dtype == "<f4" else 1e-12
    np.testing.assert_allclose(x, nk.reference.project(y, norm, 2.0, axes=axes), rtol=tolerance, atol=tolerance)
    assert nk.norm(x, norm, axes=axes) <= 2.0


def test_files_of_its_working_folder_are_nobody_s_modules(
    client: httpx.Client, started: tuple[str, subprocess.Popen[bytes]], jobs_root: Path
) -> None:
    """Neither the service's, nor those of its workers on Ray and of its jobs."""
    assert "secrets.py" in os.listdir(f"/proc/{started[1].pid}/cwd")
    y = noise(20, 30)
    np.testing.assert_array_equal(tensor(post(client, y, {"engine": "ray"})), nk.project(y, "l1,linf", 2.0))
    (jobs_root / "decoyed").mkdir()
    save_file({"w": y}, jobs_root / "decoyed" / "m.safetensors")
    rule = {"tensors": "w", "sparsity": 0.5}
    job = client.post("/v1/jobs", json={"input": "decoyed", "output": "decoyed-out", "rules": [rule]}).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert "event: completed" in [*events.iter_lines()]


def test_engines_and_workers_give_the_same_bytes(client: httpx.Client) -> None:
    y = noise(512, 1024)
    first, *others = (
        post(client, y, {"engine": engine, "workers": workers}) for engine in ("inline", "ray") for workers in (1, 2)
    )
    assert all(other.content == first.content for other in others)


def test_reports_its_timing(client: httpx.Client) -> None:
    answer = post(client, noise(64, 64), {"engine": "ray", "baseline": "measure"})
    timing = json.loads(answer.headers["x-normtree-timing"])
    assert (timing["engine"], timing["serial_is"], timing["shape"]) == ("ray", "measured", [64, 64])
    stages = timing["stages_ms"]
    assert tuple(stages) == STAGES
    assert stages["total"] >= sum(took for stage, took in stages.items() if stage != "total") * 0.99
    assert answer.headers["server-timing"].startswith(f"receive;dur={stages['receive']:.3f}, ")


@pytest.mark.parametrize(
    ("dtype", "order", "converted"),
    [
        ("<f4", "C", None),
        ("<f4", "F", "fortran-order"),
        (">f4", "C", "big-endian"),
        (">f8", "F", "fortran-order, big-endian"),
    ],
)
@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_layouts(client: httpx.Client, dtype: str, order: Any, converted: str | None, engine: str) -> None:
    native = np.dtype(dtype).newbyteorder("<")
    y = noise(31, 57)
    answer = post(client, np.asarray(y, dtype, order=order), {"engine": engine})
    x = tensor(answer)
    assert x.dtype == native
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x, nk.project(y.astype(native), "l1,linf", 2.0))
    assert answer.headers.get("x-normtree-converted") == converted


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 8589934592)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4"])
def test_empty(client: httpx.Client, shape: tuple[int, ...], dtype: str) -> None:
    assert tensor(post(client, np.empty(shape, dtype))).shape == shape


def test_octet_stream_and_vendor_type(client: httpx.Client) -> None:
    y = noise(4, 5)
    for name in ("application/octet-stream", "application/vnd.numpy.npy", "Application/X-NPY; v=1"):
        answer = post(client, y, headers={"Content-Type": name, "Accept": "text/html, application/vnd.numpy.npy;q=0.5"})
        np.testing.assert_array_equal(tensor(answer), nk.project(y, "l1,linf", 2.0))
        assert answer.headers["content-type"] == "application/vnd.numpy.npy"


@pytest.mark.parametrize("dtype", [np.longdouble, np.int32, np.complex64, object])
def test_wrong_dtype(client: httpx.Client, dtype: Any) -> None:
    problem = check_problem(post(client, secret(2, 3).astype(dtype)), 422, "invalid-tensor")
    assert problem["pointer"] == "dtype"
    assert np.dtype(dtype).name in problem["detail"]


@pytest.mark.parametrize("engine", ["inline", "ray"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(client: httpx.Client, engine: str, bad: float) -> None:
    y = secret(6, 7)
    y[2, 3] = y[4, 1] = bad
    problem = check_problem(post(client, y, {"engine": engine}), 422, "invalid-tensor")
    assert "2, 3" in problem["detail"]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ({"radius": "-1.0"}, "radius"),
        ({"radius": "nan"}, "radius"),
        ({"norm": "l1,l7"}, "norm"),
        ({"norm": "l1,l1,l1,l1"}, None),
        ({"axes": "0,7"}, None),
        ({"engine": "gpu"}, "engine"),
        ({"workers": "99"}, "workers"),
        ({"rdius": "1"}, "rdius"),
    ],
)
def test_wrong_parameter(client: httpx.Client, query: dict[str, str], pointer: str | None) -> None:
    problem = check_problem(post(client, secret(2, 3), query), 422, "invalid-parameter")
    assert pointer is None or problem["pointer"] == pointer
    if pointer == "rdius":
        assert "did you mean radius?" in problem["detail"]
    if query.get("radius") == "-1.0":
        assert problem["detail"] == "radius must be finite and >= 0, got -1.0"
        assert problem["got"] == -1.0


def test_rank(client: httpx.Client) -> None:
    check_problem(post(client, secret(*(1,) * 9)), 422, "invalid-tensor")


@pytest.mark.parametrize("change", [-1, 1])
def test_length_that_is_not_the_headers(client: httpx.Client, change: int) -> None:
    body = npy(secret(20, 30))
    content = body[:change] if change < 0 else body + b"\0"
    answer = client.post("/v1/project?radius=2", content=content, headers=NPY)
    problem = check_problem(answer, 400, "malformed-body")
    assert (problem["limit"], problem["got"]) == (len(body), len(body) + change)
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("kept", [0, 5, 9, 60])
def test_truncated_header(client: httpx.Client, kept: int) -> None:
    answer = client.post("/v1/project?radius=2", content=npy(secret(2, 3))[:kept], headers=NPY)
    check_problem(answer, 400, "malformed-body")


@pytest.mark.parametrize("kept", [0, 60, 400])
def test_client_that_ends_in_its_body(service: str, kept: int) -> None:
    body = npy(secret(200, 300))
    length = f"Content-Length: {len(body)}"
    answer = talk(service, head("Content-Type: application/x-npy", length), body[:kept], close=True)
    assert answer is not None
    problem = check_problem(answer, 400, "malformed-body")
    assert problem["detail"].startswith("body: truncated: ")
    assert answer.headers["connection"] == "close"


def test_too_large_is_refused_before_it_is_read(service: str) -> None:
    answer = talk(service, head("Content-Type: application/x-npy", f"Content-Length: {2**28 + 1}"))
    assert answer is not None
    problem = check_problem(answer, 413, "body-too-large")
    assert (problem["limit"], problem["got"]) == (2**28, 2**28 + 1)
    assert answer.headers["connection"] == "close"


def test_length_is_required(service: str) -> None:
    answer = talk(service, head("Content-Type: application/x-npy", "Transfer-Encoding: chunked"), b"0\r\n\r\n")
    assert answer is not None
    check_problem(answer, 411, "length-required")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/x-npy", "Content-Encoding": "gzip"},
        {"Content-Type": "application/octet-stream"},
    ],
)
def test_media_types_we_do_not_read(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post("/v1/project?radius=2", content=b"PK\x03\x04" + npy(secret(2, 3)), headers=headers)
    check_problem(answer, 415, "unsupported-media-type")
    assert answer.headers["accept-post"].startswith("application/x-npy, ")


def test_media_types_we_do_not_write(client: httpx.Client) -> None:
    for accept in ("application/json", "application/x-npy;q=0", "*/*;q=0", "application/x-npy;q=x"):
        check_problem(post(client, secret(2, 3), headers={"Accept": accept}), 406, "not-acceptable")


def test_unknown_path(client: httpx.Client) -> None:
    for path in ("/v1/nothing", "/v1/project/"):
        assert check_problem(client.get(path), 404, "not-found")["instance"] == path


def test_wrong_method(client: httpx.Client) -> None:
    answer = client.put("/v1/project", content=npy(secret(2, 3)))
    check_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


def test_request_id(client: httpx.Client) -> None:
    kept = client.get("/v2/health/live", headers={"X-Request-Id": "job-7/3"})
    assert kept.headers["x-request-id"] == "job-7/3"
    for unfit in ("x" * 129, "a b", "ü"):
        answer = client.get("/v1/nothing", headers=[(b"X-Request-Id", unfit.encode("latin-1"))])
        assert len(check_problem(answer, 404, "not-found")["request_id"]) == 32


def test_health_and_info(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    info = client.get("/v1/info").json()
    assert info["versions"].keys() == {"normtree", "python", "numpy", "numba", "ray"}
    assert info["limits"]["body_limit_bytes"] == 2**28
    assert info["engine"]["workers"] == 2


def test_openapi_tells_of_bodies_and_errors(client: httpx.Client) -> None:
    project = client.get("/openapi.json").json()["paths"]["/v1/project"]["post"]
    assert project["requestBody"]["content"]["application/x-npy"]["schema"]["format"] == "binary"
    statuses = "200 400 403 406 408 411 413 415 421 422 429 500 503 504"
    assert set(statuses.split()) == set(project["responses"])
    assert "application/problem+json" in project["responses"]["422"]["content"]


def test_health_is_answered_while_work_goes_on(client: httpx.Client) -> None:
    y = noise(2048, 4096)
    answers: list[httpx.Response] = []
    worker = threading.Thread(
        target=lambda: answers.append(post(client, y, {"norm": "l1,l1", "radius": 10, "baseline": "measure"}))
    )
    worker.start()
    answered = 0
    while worker.is_alive():
        assert client.get("/v2/health/live").status_code == 200
        answered += 1
    np.testing.assert_array_equal(tensor(answers[0]), nk.project(y, "l1,l1", 10.0))
    assert answered > 1


def test_slow_reader_gets_its_own_bytes(service: str, client: httpx.Client) -> None:
    """The answer waits in shared memory while others come and go."""
    y = noise(1024, 2048)
    body = npy(y)
    place = urlsplit(service)
    lines = head("Content-Type: application/x-npy", f"Content-Length: {len(body)}", f"Host: {place.netloc}", "", "")
    with socket.create_connection((place.hostname, place.port), timeout=20) as line:
        line.sendall("\r\n".join(lines).encode() + body)
        time.sleep(0.5)
        for scale in (2, 3, 4):
            assert post(client, scale * y).status_code == 200
        answer = http.client.HTTPResponse(line)
        answer.begin()
        x = np.load(io.BytesIO(answer.read()), allow_pickle=False)
    np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))
