"""``POST /v1/plan``: what would be done, without a tensor."""

import socket
from typing import Any

import httpx
import numpy as np
import pytest


def ask(client: httpx.Client, **given: Any) -> httpx.Response:
    return client.post("/v1/plan", json=given)


def test_tells_what_a_projection_would_do(client: httpx.Client) -> None:
    found = ask(client, shape=[3000, 400], norm="l1,l2", axes="1,0", sparsity=0.9, workers=2, engine="inline").json()
    assert (found["shape"], found["dtype"], found["norm"], found["axes"]) == ([3000, 400], "float32", "l1,l2", "1,0")
    assert (found["goal"], found["engine"]) == ("sparsity 0.9", "inline")
    assert found["predicted_ms"] == pytest.approx(found["engines_ms"]["inline"])
    assert found["serial_ms"] > 0
    assert "3000 × 400 float32" in found["table"]


def test_agrees_with_the_projection(client: httpx.Client) -> None:
    plan = ask(client, shape=[64, 64], radius=2).json()
    tensor = {"name": "y", "shape": [64, 64], "datatype": "FP32", "data": np.ones((64, 64)).tolist()}
    answer = client.post("/v2/models/multilevel/infer", json={"inputs": [tensor], "parameters": {"radius": 2}}).json()[
        "parameters"
    ]
    assert (plan["engine"], plan["blocks"]) == (answer["timing_engine"], answer["timing_blocks"])


@pytest.mark.parametrize(
    ("given", "status", "pointer"),
    [
        ({}, 422, "shape"),
        ({"shape": 3}, 422, "shape"),
        ({"shape": [3, -1], "radius": 1}, 422, "shape"),
        ({"shape": [1] * 9, "radius": 1}, 422, "shape"),
        ({"shape": [2**34], "radius": 1}, 422, "shape"),
        ({"shape": [3, 4], "dtype": "int8", "radius": 1}, 422, "dtype"),
        ({"shape": [3, 4]}, 422, "radius"),
        ({"shape": [3, 4], "radius": 1, "axis": "0"}, 422, "axis"),
        ({"shape": [3, 4], "groups": 4}, 422, "groups"),
        ({"shape": [3, 4], "radius": 1, "norm": "l1,l7"}, 422, None),
    ],
)
def test_wrong_questions(client: httpx.Client, given: dict[str, Any], status: int, pointer: str | None) -> None:
    answer = ask(client, **given)
    assert answer.status_code == status, answer.text
    assert pointer in (None, answer.json()["pointer"])


@pytest.mark.parametrize(("body", "status"), [(b"", 400), (b"[]", 400), (b"{", 400), (b" " * 70_000, 413)])
def test_bodies_that_are_no_question(client: httpx.Client, body: bytes, status: int) -> None:
    assert client.post("/v1/plan", content=body).status_code == status


def test_body_without_a_length_or_cut_off(client: httpx.Client) -> None:
    assert client.post("/v1/plan", content=iter([b"{}"])).status_code == 411
    place = (client.base_url.host, client.base_url.port)
    with socket.create_connection(place, timeout=30) as line:
        line.sendall(b"POST /v1/plan HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        line.shutdown(socket.SHUT_WR)
    assert client.get("/v2/health/live").status_code == 200


def test_openapi_describes_it(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()["paths"]["/v1/plan"]["post"]
    schema = found["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["shape"]
    assert {"norm", "axes", "radius", "sparsity", "groups", "exact", "engine", "workers"} < set(schema["properties"])
    assert {"200", "400", "413", "422", "503"} <= set(found["responses"])
