"""The Open Inference Protocol: unmodified clients get the projection, and what is wrong is said as they expect it."""

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

import normtree_kernels as nk

Array = NDArray[Any]
DATATYPES = {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16}
INFER = "/v2/models/multilevel/infer"
LENGTH = "Inference-Header-Content-Length"


def noise(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def given_input(y: Array, datatype: str = "FP32", *, binary: bool = True) -> triton.InferInput:
    found = triton.InferInput("y", list(y.shape), datatype)
    found.set_data_from_numpy(y, binary_data=binary)
    return found


def wanted(*, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("x", binary_data=binary)]


@pytest.fixture(scope="module")
def server(service: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(service).netloc) as found:
        yield found


def body(y: Array, *, header: dict[str, Any] | None = None, **parameters: Any) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "y", "shape": y.shape, "datatype": "FP32", "parameters": {"binary_data_size": y.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"radius": 2, **parameters}, **(header or {})}).encode()
    return text + y.tobytes(), {LENGTH: str(len(text))}


def split(answer: httpx.Response) -> tuple[dict[str, Any], bytes]:
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(LENGTH, len(answer.content)))
    return json.loads(answer.content[:length]), answer.content[length:]


def check(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["code"] == code
    assert problem["error"] == problem["detail"]
    return problem


def test_triton_asks_for_health_and_descriptions(server: triton.InferenceServerClient) -> None:
    assert server.is_server_live()
    assert server.is_server_ready()
    assert server.is_model_ready("multilevel")
    assert server.is_model_ready("euclidean", "1")
    assert {"binary_tensor_data", "parameters", "model_configuration", "statistics"} <= set(
        server.get_server_metadata()["extensions"]
    )
    for model in ("multilevel", "euclidean"):
        for version in ("", "1"):
            described = server.get_model_metadata(model, version)
            assert described["name"] == model
            assert (described["inputs"][0]["name"], described["outputs"][0]["name"]) == ("y", "x")
            assert server.get_model_config(model, version)["input"][0]["dims"] == [-1]
    assert {(model["name"], model["state"]) for model in server.get_model_repository_index()} == {
        ("multilevel", "READY"),
        ("euclidean", "READY"),
    }


def test_triton_reads_statistics(server: triton.InferenceServerClient) -> None:
    def counts() -> dict[str, int]:
        (found,) = server.get_inference_statistics("multilevel")["model_stats"]
        return {name: one["count"] for name, one in found["inference_stats"].items()}

    before = counts()
    server.infer("multilevel", [given_input(noise(3, 4))], parameters={"radius": 1.0})
    with pytest.raises(InferenceServerException):
        server.infer("multilevel", [given_input(noise(3, 4))], parameters={"radius": -1.0})
    after = counts()
    assert after == {name: count + 1 for name, count in before.items()}
    assert len(server.get_inference_statistics()["model_stats"]) == 2


@pytest.mark.parametrize("datatype", DATATYPES)
def test_triton_infers_in_binary(server: triton.InferenceServerClient, datatype: str) -> None:
    y = noise(40, 30, dtype=DATATYPES[datatype])
    answer = server.infer("multilevel", [given_input(y, datatype)], outputs=wanted(), parameters={"sparsity": 0.5})
    np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,linf", sparsity=0.5))


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_triton_infers_in_json(
    server: triton.InferenceServerClient, datatype: str, binary_in: bool, binary_out: bool
) -> None:
    y = noise(5, 6, dtype=DATATYPES[datatype])
    answer = server.infer(
        "multilevel",
        [given_input(y, datatype, binary=binary_in)],
        outputs=wanted(binary=binary_out),
        request_id="r 7",
        parameters={"radius": 2, "norm": "l1,l2", "axes": "1,0", "certificate": True},
    )
    np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,l2", 2.0, axes="1,0"))
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("r 7", "multilevel", "1")
    parameters = told["parameters"]
    assert parameters["timing_norm"] == "l1,l2"
    assert parameters["timing_stages_ms_total"] > 0
    assert parameters["certificate_feasible"] is True
    assert all(isinstance(value, str | int | float | bool) for value in parameters.values())


def test_triton_asks_the_exact_model(server: triton.InferenceServerClient) -> None:
    y = noise(20, 30)
    answer = server.infer("euclidean", [given_input(y)], model_version="1", parameters={"radius": 3.0})
    np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,linf", 3.0, exact=True))


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_triton_compresses(server: triton.InferenceServerClient, coding: str) -> None:
    y = noise(200, 300)
    answer = server.infer(
        "multilevel",
        [given_input(y)],
        outputs=wanted(),
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
        parameters={"radius": 2.0},
    )
    np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,linf", 2.0))


def test_triton_infers_asynchronously(service: str) -> None:
    y = noise(60, 50)

    async def main() -> list[Any]:
        async with triton_aio.InferenceServerClient(urlsplit(service).netloc) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("multilevel"))["name"] == "multilevel"
            with pytest.raises(InferenceServerException, match="model: wanted multilevel or euclidean, got"):
                await client.infer("nothing", [given_input(y)])
            asked = [client.infer("multilevel", [given_input(y)], parameters={"radius": r}) for r in (1.0, 2.0, 3.0)]
            return list(await asyncio.gather(*asked))

    for answer, radius in zip(asyncio.run(main()), (1.0, 2.0, 3.0), strict=True):
        np.testing.assert_array_equal(answer.as_numpy("x"), nk.project(y, "l1,linf", radius))


def test_triton_sees_what_is_wrong(server: triton.InferenceServerClient) -> None:
    y = noise(3, 4)
    for parameters, message in (
        ({"radius": -1.0}, "radius must be finite and >= 0, got -1.0"),
        ({"rdius": 1.0}, "did you mean radius?"),
        ({"radius": 1.0, "output": "compact"}, "unknown parameter 'output'"),
        ({}, "exactly one of radius, sparsity, groups"),
        ({"radius": 1.0, "exact": True}, "exact is the model's"),
    ):
        with pytest.raises(InferenceServerException, match=message) as caught:
            server.infer("multilevel", [given_input(y)], parameters=parameters)
        assert caught.value.status() == "422"
    with pytest.raises(InferenceServerException, match="deadline"):
        server.infer("multilevel", [given_input(noise(2048, 2048))], parameters={"radius": 1.0}, timeout=1)
    for ask in (server.get_model_config, server.get_model_metadata, server.get_inference_statistics):
        with pytest.raises(
            InferenceServerException, match="model: wanted multilevel or euclidean, got nothing"
        ) as caught:
            ask("nothing")
        assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match="version: of multilevel there is 1, got 2"):
        server.get_model_config("multilevel", "2")


def test_answer_aligns_the_tensor(client: httpx.Client) -> None:
    y = noise(7, 9)
    content, headers = body(y, binary_data_output=True)
    told, data = split(client.post(INFER, content=content, headers=headers))
    assert told["outputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [7, 9], "parameters": {"binary_data_size": y.nbytes}}
    ]
    assert "id" not in told
    np.testing.assert_array_equal(np.frombuffer(data, np.float32).reshape(7, 9), nk.project(y, "l1,linf", 2.0))
    length = int(client.post(INFER, content=content, headers=headers).headers[LENGTH])
    assert length % 64 == 0


def test_json_without_any_header(client: httpx.Client) -> None:
    y = noise(3, 4)
    request = {
        "inputs": [{"name": "y", "shape": [3, 4], "datatype": "FP32", "data": y.tolist()}],
        "parameters": {"radius": 2, "priority": 1, "sequence_id": 3, "triton_enable": True},
    }
    told, rest = split(client.post(INFER, content=json.dumps(request).encode(), headers={"Content-Type": ""}))
    assert rest == b""
    x = np.array(told["outputs"][0]["data"], np.float32).reshape(3, 4)
    np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), ()])
def test_empty_and_scalar(client: httpx.Client, shape: tuple[int, ...]) -> None:
    y = np.ones(shape, np.float32)
    content, headers = body(y, norm="l1", binary_data_output=True)
    told, data = split(client.post(INFER, content=content, headers=headers))
    assert told["outputs"][0]["shape"] == list(shape)
    assert data == y.tobytes()


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, lambda data: data])
def test_lengths_that_lie(client: httpx.Client, compress: Any) -> None:
    coding = "gzip" if compress is gzip.compress else "deflate" if compress is zlib.compress else "identity"
    content, headers = body(noise(20, 30))
    headers["Content-Encoding"] = coding
    good = client.post(INFER, content=compress(content), headers=headers)
    assert good.status_code == 200, good.text
    for changed in (content[:-1], content + b"\0", content[: int(headers[LENGTH])], content[:10], b""):
        answer = client.post(INFER, content=compress(changed), headers=headers)
        check(answer, 400, "malformed-body")
        assert answer.headers["connection"] == "close"
    for length in ("-1", "x", "10", str(len(content) + 1)):
        answer = client.post(INFER, content=compress(content), headers={**headers, LENGTH: length})
        check(answer, 400, "malformed-body")
    check(client.post(INFER, content=compress(content), headers={**headers, LENGTH: str(2**21)}), 413, "body-too-large")


def test_compressed_data_that_is_broken(client: httpx.Client) -> None:
    content, headers = body(noise(20, 30))
    for coding, data in (
        ("gzip", content),
        ("gzip", gzip.compress(content)[:-9]),
        ("gzip", gzip.compress(content) + b"more"),
        ("deflate", zlib.compress(content)[:-5]),
    ):
        answer = client.post(INFER, content=data, headers={**headers, "Content-Encoding": coding})
        check(answer, 400, "malformed-body")
    answer = client.post(INFER, content=content, headers={**headers, "Content-Encoding": "br"})
    check(answer, 415, "unsupported-media-type")


def test_bombs(client: httpx.Client) -> None:
    """A few bytes that stand for many are read no further than the request says they go."""
    zeros = gzip.compress(bytes(2**28), 9)
    answer = client.post(INFER, content=zeros, headers={"Content-Encoding": "gzip"})
    check(answer, 413, "body-too-large")
    content, headers = body(noise(2, 3))
    answer = client.post(INFER, content=gzip.compress(content) + zeros, headers={**headers, "Content-Encoding": "gzip"})
    check(answer, 400, "malformed-body")
    huge = {"name": "y", "shape": [2**30], "datatype": "FP32", "parameters": {"binary_data_size": 2**32}}
    text = json.dumps({"inputs": [huge], "parameters": {"radius": 1, "norm": "l1"}}).encode()
    answer = client.post(
        INFER, content=gzip.compress(text), headers={"Content-Encoding": "gzip", LENGTH: str(len(text))}
    )
    check(answer, 413, "body-too-large")


def test_output_that_json_cannot_hold(client: httpx.Client) -> None:
    half = noise(2, 3, dtype=np.float16)
    tensor = {"name": "y", "shape": [2, 3], "datatype": "FP16", "parameters": {"binary_data_size": 12}}
    text = json.dumps({"inputs": [tensor], "parameters": {"radius": 2}}).encode()
    answer = client.post(INFER, content=text + half.tobytes(), headers={LENGTH: str(len(text))})
    assert "float16 is written in binary only" in check(answer, 422, "invalid-parameter")["detail"]
    content, headers = body(noise(600, 500))
    answer = client.post(INFER, content=content, headers=headers)
    assert "ask for binary_data" in check(answer, 422, "invalid-parameter")["detail"]


@pytest.mark.parametrize("bad", [1e39, 1e999])
def test_json_numbers_that_float32_cannot_hold(client: httpx.Client, bad: float) -> None:
    text = json.dumps({"inputs": [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]})
    text = text.replace("4]", "1e39]" if bad == 1e39 else "1e999]").replace("[{", "[{").replace("]}]}", "]}]")
    answer = client.post(INFER, content=(text + ', "parameters": {"radius": 1}}').encode())
    assert "element [1, 1] is inf" in check(answer, 422, "invalid-tensor")["detail"]
