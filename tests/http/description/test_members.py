"""Every member of a problem is filled in where there is something to tell: where, the bound, and what was given."""

import io
import json
import os
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

from normtree.http.body_formats.registry import FORMATS
from normtree.http.problems import Problem

NPY = {"Content-Type": "application/x-npy"}
SAFETENSORS = {"Content-Type": "application/vnd.safetensors"}
PROJECT, PLAN, INFER = "/v1/project", "/v1/plan", "/v2/models/multilevel/infer"
READ = ", ".join(FORMATS.readable)
NORM = "norms from the outer level to the inner, of l1 l2 linf"


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def headed(header: Any, size: int = 16) -> bytes:
    """A safetensors body with that header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


def inferred(**changes: Any) -> bytes:
    given = {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}
    return json.dumps({"inputs": [given], "parameters": {"radius": 1}}).encode()


def holding(element: float) -> Any:
    """Ones, but for one element."""
    array = np.ones((4, 3), np.float32)
    array[2, 1] = element
    return array


def no_json(constant: str) -> Any:
    raise ValueError(f"JSON has no {constant}")


ONES, SEVERAL = npy(np.ones((4, 3))), save({"a": np.ones((4, 5)), "b": np.ones(7)})
UNROUTED = [
    ("GET", "/nothing", 404, "not-found", "path", None, "/nothing"),
    ("GET", PROJECT, 405, "method-not-allowed", "method", "POST", "GET"),
    ("DELETE", "/v1/info", 405, "method-not-allowed", "method", "GET, HEAD", "DELETE"),
    ("GET", "/v2/models/nope", 404, "model-not-found", "model", "multilevel, euclidean", "nope"),
    ("GET", "/v2/models/euclidean/versions/2/ready", 404, "model-not-found", "version", "1", "2"),
    ("GET", "/v1/jobs/nope", 404, "job-not-found", "id", None, "nope"),
    ("GET", "/v1/traces/nope", 404, "trace-not-found", "trace", None, "nope"),
]
QUERIES = [
    ("", "radius", 1, 0),
    ("radius=1&sparsity=0.5", "sparsity", 1, 2),
    ("radius=-1", "radius", "finite and >= 0", -1.0),
    ("radius=1&radius=2", "radius", 1, 2),
    ("radius=1&raduis=2", "raduis", None, "raduis"),
    ("groups=9", "groups", "0 to 4, the outermost groups there are", 9),
    ("radius=1&workers=99", "workers", "1 to 2", 99),
    ("radius=1&engine=gpu", "engine", "auto, inline or ray", "gpu"),
    ("radius=1&norm=l3", "norm", "one of l1, l2, linf", "l3"),
    ("radius=1&norm=l1,l1,l1", "norm", 2, 3),
    ("radius=1&axes=x", "axes", "integers, levels by commas and axes by dots", "x"),
    ("radius=1&axes=0,0", "axes", "each axis in exactly one level", "0,0"),
    ("radius=1&split=0:5", "split", "a multiple of 5", 4),
    ("sparsity=0.5&norm=l2,l1", "sparsity", "an outermost l1 level", "l2"),
    ("groups=1&exact=1", "exact", "a radius", "1 groups"),
    ("radius=1&tensors=a(", "tensors", "a regular expression in the syntax of RE2", "a("),
    ("radius=1&tensors=b", "tensors", None, "b"),
    ("radius=1&output=thin", "output", "dense or compact (the surviving outermost groups only)", "thin"),
]
JSON = {"Content-Type": "application/json"}
BODIES = [
    (PROJECT, NPY, ONES[:-1], 400, "body", len(ONES), len(ONES) - 1),
    (PROJECT, NPY, npy(np.ones((1,) * 9)), 422, "shape", 8, 9),
    (PROJECT, NPY, npy(np.arange(4)), 422, "dtype", "<f8, >f8, <f4, >f4, <f2, >f2", "<i8"),
    (PROJECT, NPY, npy(holding(np.nan)), 422, "tensor", "finite elements", "nan"),
    (PROJECT, NPY, npy(holding(-np.inf)), 422, "tensor", "finite elements", "-inf"),
    (PROJECT, NPY, npy(np.full((4, 3), 1e308)), 422, "tensor", "a finite norm", "inf"),
    (PROJECT, SAFETENSORS, save({"a": np.ones((4, 5)), "b": holding(np.nan)}), 422, "tensor", "finite elements", "nan"),
    (PROJECT, {"Content-Type": "text/plain"}, ONES, 415, "Content-Type", READ, "text/plain"),
    (PROJECT, {**NPY, "Content-Encoding": "br"}, ONES, 415, "Content-Encoding", "identity", "br"),
    (PROJECT, {**NPY, "Accept": "text/html"}, ONES, 406, "Accept", READ, "text/html"),
    (PROJECT, SAFETENSORS, headed(tensor(data_offsets=[4, 20]), 20), 400, "body", 0, 4),
    (PROJECT, SAFETENSORS, headed(tensor(shape=[2, 3])), 400, "body", 24, 16),
    (PROJECT, SAFETENSORS, (1).to_bytes(8, "little") + b"{", 400, "body", 2, 1),
    (PLAN, {}, b'{"radius": 1}', 422, "shape", "a list of integers >= 0", "none"),
    (PLAN, {}, b'{"shape": [3, 4], "radius": 1, "dtype": "int8"}', 422, "dtype",
     "float64, float32, float16, bfloat16", "int8"),
    (PLAN, {}, b'{"shape": [3, 4], "radius": 1, "norm": 5}', 422, "norm", NORM, 5),
    (PLAN, {}, b'{"shape": [3, 4], "radius": 1, "norm": "l1,l7"}', 422, "norm", "one of l1, l2, linf", "l7"),
    (INFER, {}, inferred(datatype="FP64", data=[1e308] * 4), 422, "tensor", "a finite norm", "inf"),
    (INFER, {}, inferred(data=[1, 2, 3]), 400, "inputs[0].data", 4, 3),
    (INFER, {}, inferred(datatype="INT8"), 422, "inputs[0].datatype", "FP64, FP32, FP16, BF16", "INT8"),
    (INFER, {"Inference-Header-Content-Length": "x"}, b"{}", 400, "Inference-Header-Content-Length", None, "x"),
    (INFER, {}, inferred(data=None, parameters={"binary_data_size": 15}), 400,
     "inputs[0].parameters.binary_data_size", 16, 15),
    (INFER, {"Content-Encoding": "br"}, b"{}", 415, "Content-Encoding", "identity, gzip, deflate", "br"),
    ("/v1/jobs", JSON, b'{"input": "x"}', 422, "output", None, None),
    ("/v1/jobs", JSON, b'{"input": "x", "output": "y", "rules": [{"tensors": ".*", "sparsity": 2}]}', 422,
     "rules[0].sparsity", 1.0, 2),
    ("/v1/jobs", JSON, b'{"input": "x", "output": "y", "rules": [{"tensors": "a", "radius": 1, "norm": "l1,l7"}]}', 422,
     "rules[0].norm", "some of l1, l2, linf, separated by commas", "l7"),
    ("/v1/jobs", JSON, b'{"input": "x", "output": "y", "rules": [{"tensors": ".*"}]}', 422,
     "rules[0]", "exactly one of radius, sparsity, groups, relative_radius", "none"),
    ("/v1/jobs", {"Content-Type": "text/xml"}, b"<x/>", 415, "Content-Type",
     "application/json, application/toml", "text/xml"),
]  # fmt: skip


REGION = "/v2/systemsharedmemory/region/"
REGIONS = [
    ("r/register", {}, 422, "key", None, None),
    ("r/register", {"key": "/other", "byte_size": 8}, 400, "key", "/tensor-", "/other"),
    ("r/register", {"key": "/tensor-none", "byte_size": 8}, 400, "key", None, "/tensor-none"),
    ("r/register", {"key": "/tensor-none", "byte_size": -8}, 422, "byte_size", 1, -8),
    ("r/register", {"key": "/tensor-none", "byte_size": "many"}, 422, "byte_size", None, "many"),
]


def told(answer: httpx.Response, status: int) -> tuple[Any, Any, Any]:
    problem = json.loads(answer.content, parse_constant=no_json)
    assert problem.keys() == Problem.model_fields.keys()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == problem["status"] == status
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert problem["detail"] == problem["error"]
    return problem["pointer"], problem["limit"], problem["got"]


@pytest.mark.parametrize(("method", "path", "status", "code", "pointer", "limit", "got"), UNROUTED)
def test_of_what_is_not_there(
    client: httpx.Client, method: str, path: str, status: int, code: str, pointer: str, limit: Any, got: Any
) -> None:
    answer = client.request(method, path)
    assert told(answer, status) == (pointer, limit, got)
    assert (answer.json()["code"], answer.json()["instance"]) == (code, path)
    assert (status == 405) == ("allow" in answer.headers)


@pytest.mark.parametrize(("query", "pointer", "limit", "got"), QUERIES)
def test_of_a_parameter(client: httpx.Client, query: str, pointer: str, limit: Any, got: Any) -> None:
    answer = client.post(f"{PROJECT}?{query}", content=ONES, headers=NPY)
    assert told(answer, 422) == (pointer, limit, got)


@pytest.mark.parametrize(("path", "headers", "body", "status", "pointer", "limit", "got"), BODIES)
def test_of_a_body(
    client: httpx.Client, path: str, headers: Any, body: bytes, status: int, pointer: str, limit: Any, got: Any
) -> None:
    query = "?radius=1" if path == PROJECT else ""
    answer = client.post(path + query, content=body, headers=headers)
    assert told(answer, status) == (pointer, limit, got)
    if status == 415:
        assert answer.headers["accept-post"] == (limit if pointer == "Content-Type" else READ)
        assert answer.headers.get("accept-encoding") == (limit if pointer == "Content-Encoding" else None)


def test_of_a_tensor_that_no_pattern_matches(client: httpx.Client) -> None:
    answer = client.post(f"{PROJECT}?radius=1&tensors=z.*", content=SEVERAL, headers=SAFETENSORS)
    assert told(answer, 422) == ("tensors", None, "z.*")


@pytest.mark.parametrize(("path", "asked", "status", "pointer", "limit", "got"), REGIONS)
def test_of_a_region(
    client: httpx.Client, path: str, asked: Any, status: int, pointer: str, limit: Any, got: Any
) -> None:
    assert told(client.post(REGION + path, json=asked), status) == (pointer, limit, got)


def test_of_a_region_that_is_not_registered(client: httpx.Client) -> None:
    assert told(client.get(f"{REGION}nope/status"), 400) == ("name", None, "nope")


def test_of_a_segment_that_is_too_short(client: httpx.Client) -> None:
    path = Path(f"/dev/shm/tensor-{os.getpid()}-short")
    path.write_bytes(bytes(16))
    try:
        answer = client.post(f"{REGION}short/register", json={"key": f"/{path.name}", "byte_size": 24})
    finally:
        path.unlink()
    assert told(answer, 400) == ("byte_size", 16, 24)
