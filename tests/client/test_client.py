"""The clients against the real service: every kind of array in and out, errors by class, retries, progress."""

import asyncio
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from time import monotonic
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import normtree
import normtree_kernels as nk
from normtree import AsyncClient, Client, errors
from normtree.client import Projected, UnexpectedAnswer, Unreachable
from normtree.client.retry import Retry
from normtree.processes.starting import free_port

WAYS = ("direct", "rechunked", "gzip", "deflate", "forked")
Y = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the service is reached; with `forked` the test itself runs in a child of this process."""
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def base(service: str, way: str, reach: Any) -> str:
    found: str = reach(service, way)
    return found


@pytest.fixture(scope="module")
def near(base: str) -> Iterator[Client]:
    """A client that has been used, so that a child inherits a connection."""
    with Client(base) as client:
        client.wait_until_ready()
        yield client


class OnlyArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return Y


class OnlyDlpack:
    def __dlpack__(self, **given: Any) -> Any:
        return Y.__dlpack__(**given)

    def __dlpack_device__(self) -> Any:
        return Y.__dlpack_device__()


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_type_comes_back_as_it_went(near: Client, dtype: Any, compact: bool) -> None:
    y = Y.astype(dtype)
    got = near.project(y, norm="l1,linf", radius=2.0, axes="1,0", compact=compact)
    assert (got.x.dtype, got.x.shape) == (y.dtype, y.shape)
    np.testing.assert_array_equal(got.x, nk.project(y, "l1,linf", 2.0, axes="1,0"))
    assert got.x.flags.writeable
    assert got.timing["wall_ms"] > 0
    assert got.request_id


@pytest.mark.parametrize(
    "y",
    [Y.T, Y[::2, ::-1], np.asfortranarray(Y), Y.astype(">f4"), OnlyArray(), OnlyDlpack(), np.empty((0, 5), np.float32)],
    ids=["transposed", "strided", "fortran", "big-endian", "__array__", "__dlpack__", "empty"],
)
def test_whatever_is_an_array(near: Client, y: Any) -> None:
    plain = y if isinstance(y, np.ndarray) else Y
    expected = nk.project(plain.astype(np.float32), "l1,linf", 2.0)
    np.testing.assert_array_equal(near.project(y, radius=2.0).x, expected)


@pytest.mark.parametrize("radius", [np.float64(0.1), np.float32(0.1), np.int64(1), 0.1, 1])
def test_numpy_s_scalars_are_numbers(near: Client, radius: Any) -> None:
    got = near.project(Y, radius=radius, certificate=np.True_)  # type: ignore[arg-type]
    np.testing.assert_array_equal(got.x, nk.project(Y, "l1,linf", float(radius)))
    assert got.certificate is not None


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "ftp://127.0.0.1", "http://", ""])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_that_is_none_is_told_at_once(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match="url: wanted http:// or https:// and a host, got"):
        kind(url)


def test_names_are_texts(near: Client) -> None:
    with pytest.raises(TypeError, match="tensors: wanted texts as names, got 1"):
        near.project_tensors({1: Y}, radius=1.0)  # type: ignore[dict-item]


def test_input_is_not_changed(near: Client) -> None:
    y = Y.copy()
    y.flags.writeable = False
    near.project(y, radius=2.0)
    np.testing.assert_array_equal(y, Y)


@pytest.mark.parametrize("given", [{"radius": np.array(2.0)}, {"radius": np.float32(2)}, {"radius": Fraction(2)}])
def test_numbers_of_other_libraries_are_numbers(near: Client, given: dict[str, Any]) -> None:
    np.testing.assert_array_equal(near.project(Y, **given).x, nk.project(Y, "l1,linf", 2.0))


def test_an_answer_tells_where_no_group_is_left(near: Client) -> None:
    got = near.project(np.ones_like(Y), groups=3)
    assert got.warning == "no group is left of the 3 asked for: the largest are tied, and ties share one fate"
    assert (got.timing["groups_asked"], got.timing["groups_left"]) == (3, 0)
    assert near.project(Y, groups=3).warning == ""
    several = near.project_tensors({"a": Y, "b": np.ones_like(Y)}, groups=3)
    assert several.warning == f"b: {got.warning}"


@pytest.mark.parametrize("compact", [False, True])
def test_heads_are_groups(near: Client, compact: bool) -> None:
    y = Y[:24].copy()
    heads = nk.project(y.reshape(6, 4, -1), "l1,linf", groups=2).reshape(y.shape)
    one = near.project(y, split="0:6", groups=2, compact=compact, certificate=True)
    np.testing.assert_array_equal(one.x, heads)
    assert one.certificate
    assert (one.certificate["groups"][0], one.certificate["zero_groups"][0]) == (6, 4)
    two = near.project_tensors({"a": y, "b": 2 * y}, split="0:6", groups=2, scope="global", compact=compact)
    assert two["a"].shape == y.shape
    assert sum(x.reshape(6, -1).any(axis=1).sum() for x in two.tensors.values()) <= 2
    with pytest.raises(errors.InvalidParameter, match="split: 7 must divide axis 0"):
        near.project(y, split="0:7", groups=2)


def test_several_tensors_at_once(near: Client) -> None:
    tensors = {"a": Y, "b.w": 2 * Y.T, "step": np.array(7), "kept": np.arange(6, dtype=np.int32).reshape(2, 3)}
    got = near.project_tensors(tensors, radius=2.0, certificate=True)
    assert got.tensors.keys() == tensors.keys()
    for name in ("a", "b.w"):
        np.testing.assert_array_equal(got[name], nk.project(tensors[name], "l1,linf", 2.0))
        assert got.certificates[name]["feasible"]
    for name in ("step", "kept"):
        np.testing.assert_array_equal(got[name], tensors[name])
        assert got[name].dtype == tensors[name].dtype
    only = near.project_tensors(tensors, pattern=r"b\..*", radius=2.0)
    np.testing.assert_array_equal(only["a"], Y)
    assert only["b.w"].any(axis=1).sum() < len(Y.T)


@pytest.mark.parametrize("compact", [False, True])
def test_one_ball_for_several_tensors(near: Client, compact: bool) -> None:
    tensors = {"a": Y, "b": 2 * Y[:10]}
    got = near.project_tensors(tensors, sparsity=0.5, scope="global", certificate=True, compact=compact)
    stacked = np.concatenate([got["a"], got["b"]])
    np.testing.assert_array_equal(stacked, nk.project(np.concatenate(list(tensors.values())), "l1,linf", sparsity=0.5))
    assert got.certificate
    assert got.certificate["norm_after"] <= got.certificate["radius"] == got.timing["radius"]
    assert near.project_tensors(tensors, sparsity=0.5, certificate=True).certificate is None


@pytest.mark.parametrize("asked", [{"compact": True}, {"certificate": True}], ids=str)
def test_many_tensors_at_once(service: str, asked: Any) -> None:
    """A compact answer has three tensors for each, and certificates are longer than a request's header may be."""
    tensors = dict.fromkeys((f"layers.{i}.{'experts.' * 8}weight" for i in range(2000)), Y[:4, :3])
    with Client(service) as client:
        got = client.project_tensors(tensors, radius=1.0, **asked)
    assert got.tensors.keys() == tensors.keys()
    np.testing.assert_array_equal(got[next(reversed(tensors))], nk.project(Y[:4, :3], "l1,linf", 1.0))
    assert len(got.certificates) == (2000 if "certificate" in asked else 0)


def test_options_are_the_services(near: Client) -> None:
    got = near.project(Y, "l1,l2", sparsity=0.5, engine="inline", workers=1, baseline="measure", certificate=True)
    np.testing.assert_array_equal(got.x, nk.project(Y, "l1,l2", sparsity=0.5))
    exact = near.project(Y, "l1,linf", 2.0, exact=True)
    np.testing.assert_array_equal(exact.x, nk.project(Y, "l1,linf", 2.0, exact=True))
    assert (got.timing["engine"], got.timing["serial_is"]) == ("inline", "measured")
    assert got.certificate
    assert got.certificate["feasible"]
    tiny = float(np.nextafter(np.float64(0.1), 1))
    assert near.project(Y, radius=tiny).timing["radius"] == tiny


EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def test_types_that_are_not_projected_keep_their_bits(near: Client) -> None:
    bits = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensors = {name: bits.view(name) for name in EIGHT_BITS} | {"complex": Y.astype(np.complex64), "zero-d": bits[1, 1]}
    got = near.project_tensors({**tensors, "w": Y}, pattern="w", radius=2.0)
    for name, tensor in tensors.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert got[name].tobytes() == tensor.tobytes()


@pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
def test_torch_s_types_that_are_not_projected_keep_their_bits(near: Client) -> None:
    import torch

    bits = torch.arange(256, dtype=torch.int16).to(torch.uint8).reshape(16, 16)
    eight = {name: bits.view(getattr(torch, name)) for name in EIGHT_BITS}
    got = near.project_tensors({**eight, "w": torch.from_numpy(Y.copy())}, pattern="w", radius=2.0)
    for name, tensor in eight.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name].view(torch.uint8), bits)
    spiral = torch.complex(torch.from_numpy(Y.copy()), torch.ones(Y.shape))
    lazy = {"conjugate": spiral.conj(), "negative": spiral.conj().imag, "w": torch.ones(2, 3)}
    assert lazy["conjugate"].is_conj()
    assert lazy["negative"].is_neg()
    got = near.project_tensors(lazy, pattern="w", radius=2.0)
    assert all(torch.equal(got[name], tensor.clone()) for name, tensor in lazy.items() if name != "w")


@pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
@pytest.mark.parametrize("kind", ["sparse", "meta", "half complex", "double complex"])
def test_torch_tensors_that_cannot_be_sent_are_named(near: Client, kind: str) -> None:
    import torch

    tensor, told = {
        "sparse": (torch.eye(3).to_sparse(), r"torch.float32, torch.sparse_coo, cpu.*to_dense\(\) makes it so"),
        "meta": (torch.empty(3, 4, device="meta"), "torch.float32, torch.strided, meta"),
        "half complex": (torch.zeros(3, dtype=torch.uint8).repeat(4).view(torch.complex32), "torch.complex32"),
        "double complex": (torch.ones(3, dtype=torch.complex128), "dtype complex128 cannot be sent"),
    }[kind]
    with pytest.raises(TypeError, match=f"layers.0.w: .*{told}"):
        near.project_tensors({"a": Y, "layers.0.w": tensor}, radius=1.0)


def test_arrays_that_cannot_be_made_are_named(near: Client) -> None:
    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RuntimeError("it lies on another device")

    with pytest.raises(TypeError, match=r"b: Broken cannot be sent.*it lies on another device"):
        near.project_tensors({"a": Y, "b": Broken()}, radius=1.0)


@pytest.mark.skipif(not find_spec("torch"), reason="needs PyTorch")
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_torch_in_torch_out(near: Client, dtype: str) -> None:
    import torch

    y = torch.from_numpy(Y.copy()).to(getattr(torch, dtype)).requires_grad_()
    got = near.project(y, radius=2.0)
    assert isinstance(got.x, torch.Tensor)
    assert (got.x.dtype, got.x.device, got.x.shape) == (y.dtype, y.device, y.shape)
    host = Y.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    expected = nk.project(host, "l1,linf", 2.0).astype(np.float64)
    np.testing.assert_array_equal(got.x.to(torch.float64).numpy(), expected)
    mixed = near.project_tensors({"t": y, "n": Y}, radius=2.0)
    assert isinstance(mixed["t"], torch.Tensor)
    assert isinstance(mixed["n"], np.ndarray)


def test_progress_is_told(near: Client) -> None:
    y = np.random.default_rng(0).random((1024, 1024), np.float32)
    told: list[tuple[str, int, int]] = []
    near.project(y, radius=1e9, progress=lambda *what: told.append(what))
    for direction in ("sent", "received"):
        steps = [(done, whole) for way, done, whole in told if way == direction]
        assert len(steps) >= 4
        assert [done for done, _ in steps] == sorted({done for done, _ in steps})
        assert steps[-1][0] == steps[-1][1] > y.nbytes


def test_errors_are_the_services_own(near: Client) -> None:
    with pytest.raises(errors.InvalidParameter, match="radius must be finite and >= 0, got -1") as caught:
        near.project(Y, radius=-1.0)
    assert (caught.value.pointer, caught.value.got) == ("radius", -1.0)
    assert "request" in caught.value.__notes__[0]
    with pytest.raises(errors.InvalidTensor, match="3, 4"):
        near.project(np.where(np.arange(1200).reshape(40, 30) == 94, np.nan, Y), radius=1.0)
    with pytest.raises(errors.InvalidTensor, match="got I64"):
        near.project(np.arange(6).reshape(2, 3), radius=1.0)


@pytest.mark.parametrize("y", [[1.0, 2.0], "text", None, object()])
def test_what_is_no_tensor(near: Client, y: Any) -> None:
    with pytest.raises(TypeError, match="y: wanted an array"):
        near.project(y, radius=1.0)
    with pytest.raises(TypeError, match="a: dtype"):
        near.project_tensors({"a": np.array(["x"])}, radius=1.0)


def test_info(near: Client) -> None:
    assert near.info()["versions"]["normtree"] == normtree.__version__


def test_coroutines(base: str) -> None:
    async def main() -> None:
        async with AsyncClient(base) as client:
            await client.wait_until_ready()
            told = Counter[str]()
            answers = await asyncio.gather(
                *(client.project(k * Y, radius=2.0, progress=lambda way, *_: told.update([way])) for k in range(1, 9))
            )
            for k, got in enumerate(answers, start=1):
                assert isinstance(got, Projected)
                np.testing.assert_array_equal(got.x, nk.project(k * Y, "l1,linf", 2.0))
            assert told.keys() == {"sent", "received"}
            several = await client.project_tensors({"a": Y}, radius=2.0, compact=True)
            np.testing.assert_array_equal(several["a"], nk.project(Y, "l1,linf", 2.0))
            assert (await client.info())["engine"]
            with pytest.raises(errors.InvalidParameter):
                await client.project(Y, radius=-1.0)

    asyncio.run(main())


@contextmanager
def answering(*answers: tuple[int, dict[str, str], object]) -> Iterator[tuple[str, list[float]]]:
    """Serve canned answers, the last one for ever; yield the address, and when requests came."""
    came: list[float] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, content = answers[min(len(came), len(answers) - 1)]
            came.append(monotonic())
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", came
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


BUSY = {"code": "queue-full", "detail": "busy", "status": 503}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_busy_service_is_asked_again_when_it_says(kind: Any) -> None:
    rate = {"code": "rate-exceeded", "detail": "slowly"}
    wrong = {"code": "invalid-parameter", "detail": "so it is"}
    with answering((503, {}, BUSY), (429, {"Retry-After": "1"}, rate), (422, {}, wrong)) as (url, came):
        with pytest.raises(errors.InvalidParameter, match="so it is"):
            call(kind, url)
        assert len(came) == 3
        assert came[2] - came[1] >= 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_retries_end(kind: Any) -> None:
    with answering((503, {"Retry-After": "0"}, BUSY)) as (url, came):
        with pytest.raises(errors.QueueFull, match="busy"):
            call(kind, url, retries=2)
        assert len(came) == 3


@pytest.mark.parametrize(
    ("status", "content"), [(500, {"code": "internal-error", "detail": "x"}), (502, "gateway"), (404, [])]
)
def test_answers_of_no_class_of_ours(status: int, content: object) -> None:
    with answering((status, {}, content)) as (url, came):
        with pytest.raises(UnexpectedAnswer) as caught:
            call(Client, url)
        assert caught.value.answered == status
        assert len(came) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_service_that_is_not_there(kind: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable):
        call(kind, url, retries=1)

    async def wait() -> None:
        async with AsyncClient(url) as client:
            await client.wait_until_ready(timeout_s=0.3)

    with pytest.raises(Unreachable, match="not ready within"):
        asyncio.run(wait())
    with Client(url) as client, pytest.raises(Unreachable, match="not ready within"):
        client.wait_until_ready(timeout_s=0.3)


def test_delays_grow_and_are_bounded() -> None:
    delays = [Retry(100).delay_s(attempt, errors.QueueFull("busy")) for attempt in range(100)]
    assert all(0.05 <= delay <= 10 for delay in delays)
    assert min(delays[10:]) > max(delays[:3])
    with pytest.raises(ValueError, match="retries: wanted >= 0, got -1"):
        Retry(-1)


def call(kind: Any, url: str, **given: Any) -> None:
    if kind is Client:
        with Client(url, **given) as client:
            client.project(Y, radius=1.0)
        return

    async def main() -> None:
        async with AsyncClient(url, **given) as client:
            await client.project(Y, radius=1.0)

    asyncio.run(main())


def test_importing_stays_light() -> None:
    code = (
        "import sys, normtree; assert not {'httpx', 'numpy'} & sys.modules.keys(); normtree.Client;"
        "assert not {'fastapi', 'starlette', 'ray', 'numba'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        normtree.Server  # noqa: B018
