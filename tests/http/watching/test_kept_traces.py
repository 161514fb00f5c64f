"""``trace=1``: the trace of a request's work, kept for whoever asked for it."""

import io
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from safetensors.numpy import save

import normtree
from normtree.engine.timing.schema import Span, Timing
from normtree.errors import TraceNotFound
from normtree.http.access.auth import Caller
from normtree.http.watching.kept_traces import Traces

ADA, BOB = (Caller(name, admin=False) for name in ("ada", "bob"))
Y = np.random.default_rng(0).standard_normal((600, 300), dtype=np.float32)
TIMING = Timing(
    engine="inline", reason="asked", norm="l1,linf", axes="0,1", radius=1.0, shape=(2, 2), dtype="float32", blocks=1,
    workers=1, nodes=1, stages_ms={}, levels=(), work_ms=1.0, span_ms=1.0, wall_ms=1.0, serial_ms=1.0,
    serial_is="modelled", retries=0, bytes_moved=0, trace_id="a",
)  # fmt: skip


def pieces(trace: dict[str, object]) -> list[dict[str, Any]]:
    events = trace["traceEvents"]
    assert isinstance(events, list)
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    found = [event for event in events if event["ph"] == "X"]
    assert found
    assert {event["tid"] for event in found} == named  # a row a worker
    assert all(event["ts"] >= 0.0 and event["dur"] >= 0.0 for event in found)
    return found


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_the_header_tells_where_it_is(client: httpx.Client, engine: str) -> None:
    body = io.BytesIO()
    np.save(body, Y)
    answer = client.post(
        "/v1/project",
        params={"sparsity": 0.5, "trace": 1, "engine": engine, "workers": 2},
        content=body.getvalue(),
        headers={"Content-Type": "application/x-npy"},
    )
    fetched = client.get(answer.headers["X-Normtree-Trace"])
    assert fetched.status_code == 200
    found = pieces(fetched.json())
    assert {event["cat"] for event in found} == {"up", "root", "down"}
    wall_us = 1e3 * float(answer.headers["Server-Timing"].split("total;dur=")[1].split(",")[0])
    assert max(event["ts"] + event["dur"] for event in found) <= wall_us


def test_several_tensors_have_one(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/project",
        params={"sparsity": 0.5, "trace": 1, "engine": "inline", "workers": 1},
        content=save({"a": Y, "b": Y}),
        headers={"Content-Type": "application/vnd.safetensors"},
    )
    found = pieces(client.get(answer.headers["X-Normtree-Trace"]).json())
    assert sum(event["cat"] == "root" for event in found) == 2


def test_nobody_who_did_not_ask_gets_one(client: httpx.Client) -> None:
    body = io.BytesIO()
    np.save(body, Y)
    answer = client.post(
        "/v1/project", params={"radius": 1}, content=body.getvalue(), headers={"Content-Type": "application/x-npy"}
    )
    assert "X-Normtree-Trace" not in answer.headers
    missing = client.get("/v1/traces/none")
    assert (missing.status_code, missing.json()["code"]) == (404, "trace-not-found")


def test_python_clients_fetch_it(service: str) -> None:
    with normtree.Client(service) as client:
        pieces(client.trace(client.project(Y, sparsity=0.5, trace=True)))
        with pytest.raises(ValueError, match="ask with trace=True"):
            client.trace(client.project(Y, sparsity=0.5))


def test_the_protocol_s_clients_find_it_in_the_parameters(service: str) -> None:
    given = triton.InferInput("y", list(Y.shape), "FP32")
    given.set_data_from_numpy(Y)
    with triton.InferenceServerClient(service.removeprefix("http://")) as client:
        answer = client.infer("multilevel", [given], parameters={"sparsity": 0.5, "trace": True})
    pieces(httpx.get(service + answer.get_response()["parameters"]["trace"], timeout=60).json())


def test_it_is_for_the_client_that_asked() -> None:
    traces = Traces()
    name = traces.keep("ada", TIMING).rpartition("/")[2]
    assert traces.find(name, ADA) is TIMING
    with pytest.raises(TraceNotFound, match="of this client"):
        traces.find(name, BOB)
    assert traces.find(name, Caller("root", admin=True)) is TIMING


def test_a_client_s_traces_push_out_none_of_another_s() -> None:
    traces = Traces()
    first = traces.keep("ada", TIMING).rpartition("/")[2]
    others = [traces.keep("bob", TIMING).rpartition("/")[2] for _ in range(300)]
    assert traces.find(first, ADA) is TIMING
    assert traces.find(others[-1], BOB) is TIMING
    with pytest.raises(TraceNotFound):
        traces.find(others[0], BOB)


def test_new_ones_push_old_ones_out() -> None:
    traces, span = Traces(), Span("up", 0, 0, 1, 8, 1)
    first = traces.keep("ada", TIMING._replace(spans=(span,) * 150_000)).rpartition("/")[2]
    second = traces.keep("ada", TIMING._replace(spans=(span,) * 150_000)).rpartition("/")[2]
    with pytest.raises(TraceNotFound):
        traces.find(first, ADA)
    assert len(traces.find(second, ADA).spans) == 150_000
