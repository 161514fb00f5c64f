"""What operators see: metrics, one log line a request, ids and traces; and that none of it holds data or secrets."""

import io
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from random import randbytes
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from normtree.engine.timing.schema import STAGES
from normtree.http.head.trace_context import TraceContext
from normtree.http.watching.exchange import Exchange
from normtree.http.watching.log import JsonLines, RequestLines, log_request
from normtree.keys.key import new_key

NPY = {"Content-Type": "application/x-npy"}
SECRET, KEY = new_key("ada")
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
# interface.md's names; a counter's samples end in _total.
NAMES = {
    "normtree_requests_total", "normtree_request_seconds_bucket", "normtree_inflight_requests",
    "normtree_inflight_bytes", "normtree_arena_bytes", "normtree_queue_depth", "normtree_rejected_total",
    "normtree_cancelled_total", "normtree_leaf_seconds_sum", "normtree_parallel_efficiency_bucket",
    "normtree_plans_total", "normtree_workers_ready", "normtree_build_info",
}  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("observed") / "log.txt"


@pytest.fixture(scope="module")
def observed(serve: Any, log: Path) -> Iterator[httpx.Client]:
    with (
        serve(log, inline_only=True, workers=2, arena_bytes=2**26, deadline_s=20, keys=str(KEY)) as (base, _),
        httpx.Client(base_url=base, timeout=60, headers={"Authorization": f"Bearer {SECRET}"}) as client,
    ):
        yield client


def npy(shape: tuple[int, ...]) -> bytes:
    body = io.BytesIO()
    np.save(body, np.full(shape, 48271.25, np.float32))
    return body.getvalue()


def post(client: httpx.Client, **headers: str) -> httpx.Response:
    return client.post("/v1/project?radius=2", content=npy((200, 300)), headers={**NPY, **headers})


def samples(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def total(client: httpx.Client, name: str, **labels: str) -> float:
    return sum(
        v for (found, has), v in samples(client).items() if found == name and labels.items() <= dict(has).items()
    )


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def line_of(log: Path, request_id: str) -> dict[str, Any]:
    """Return the request's only line; it is written after the answer, which may be here before it."""
    for _ in range(600):
        found = [line for line in lines(log) if line.get("request_id") == request_id]
        if found:
            break
        time.sleep(0.05)
    assert len(found) == 1, found
    return found[0]


def id_of(answer: httpx.Response) -> str:
    found: str = answer.headers["x-request-id"]
    return found


def test_every_metric_of_the_interface_is_there(observed: httpx.Client) -> None:
    assert post(observed).status_code == 200
    observed.get("/v1/info", headers={"Authorization": "Bearer x"})
    found = {name for name, _ in samples(observed)}
    assert NAMES - {"normtree_cancelled_total"} <= found
    text = observed.get("/metrics").text
    assert "# TYPE normtree_cancelled_total counter" in text
    assert "# TYPE normtree_task_retries_total counter" in text
    assert observed.get("/metrics", headers={"Accept": "application/openmetrics-text"}).text.endswith("# EOF\n")


def test_every_stage_that_answers_tell_is_there_from_the_start_and_counted(observed: httpx.Client) -> None:
    def counts(route: str) -> dict[str, float]:
        name = "normtree_request_seconds_count"
        return {
            dict(labels)["stage"]: count
            for (found, labels), count in samples(observed).items()
            if found == name and dict(labels)["route"] == route
        }

    version, infer = "/v2/models/{name}/versions/{version}/infer", "/v2/models/{name}/infer"
    assert set(counts(version)) == set(STAGES)
    assert sum(counts(version).values()) == 0
    y = {"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
    parameters = {"radius": 1}
    for route, ask in (
        ("/v1/project", lambda: post(observed)),
        (infer, lambda: observed.post("/v2/models/multilevel/infer", json={"inputs": [y], "parameters": parameters})),
    ):
        before = counts(route)
        answer = ask()
        assert answer.status_code == 200
        told = [stage.partition(";")[0] for stage in answer.headers["server-timing"].split(", ")]
        assert set(told) == set(STAGES)
        assert counts(route) == {stage: count + 1 for stage, count in before.items()}


def test_requests_are_counted_by_route_and_code(observed: httpx.Client) -> None:
    before = total(observed, "normtree_requests_total", route="/v1/project", code="200")
    unmatched = total(observed, "normtree_requests_total", route="unmatched", code="404")
    timed = total(observed, "normtree_request_seconds_count", route="/v1/project", stage="up")
    sent = 300  # more than are noted before they are counted
    for _ in range(sent):
        assert post(observed).status_code == 200
    observed.get("/v1/nothing/48271.25")
    assert total(observed, "normtree_requests_total", route="/v1/project", code="200") == before + sent
    assert total(observed, "normtree_requests_total", route="unmatched", code="404") == unmatched + 1
    assert total(observed, "normtree_request_seconds_count", route="/v1/project", stage="up") == timed + sent
    assert total(observed, "normtree_plans_total", engine="inline") >= sent
    assert total(observed, "normtree_workers_ready") == 2
    assert total(observed, "normtree_arena_bytes") == 2**26
    assert total(observed, "normtree_inflight_bytes") == total(observed, "normtree_inflight_requests") == 0


def test_those_turned_away_are_counted_by_reason(observed: httpx.Client) -> None:
    before = {
        reason: total(observed, "normtree_rejected_total", reason=reason) for reason in ("key-refused", "key-missing")
    }
    observed.get("/v1/info", headers={"Authorization": "Bearer x"})
    observed.get("/v1/info", headers={"Authorization": ""})
    for reason, count in before.items():
        assert total(observed, "normtree_rejected_total", reason=reason) == count + 1


def test_one_line_a_request(observed: httpx.Client, log: Path) -> None:
    answer = post(observed)
    line = line_of(log, id_of(answer))
    assert line["logger"] == "normtree.request"
    assert (line["client"], line["route"], line["code"]) == ("ada", "/v1/project", 200)
    assert (line["engine"], line["shape"], line["dtype"]) == ("inline", [200, 300], "float32")
    assert line["bytes_in"] == line["bytes_out"] == int(answer.headers["content-length"])
    assert line["seconds"].keys() >= {"receive", "queue", "up", "root", "down", "total"}
    assert line["seconds"]["total"] > 0
    refused = line_of(log, id_of(observed.get("/v1/info", headers={"Authorization": ""})))
    assert (refused["client"], refused["code"], refused["problem"]) == ("anonymous", 401, "key-missing")


def test_client_that_went_away_is_noted(observed: httpx.Client, log: Path) -> None:
    before = total(observed, "normtree_cancelled_total", cause="disconnect")
    body = npy((1000, 1000))

    def stop_midway() -> Iterator[bytes]:
        yield body[:100_000]
        raise KeyError

    headers = {**NPY, "Content-Length": str(len(body)), "X-Request-Id": "gone-1"}
    with pytest.raises(KeyError):
        observed.post("/v1/project?radius=2", content=stop_midway(), headers=headers)
    assert post(observed).status_code == 200
    line = line_of(log, "gone-1")
    assert line["route"] == "/v1/project"
    assert (line["code"], line["gone"]) == (499, True)
    assert total(observed, "normtree_cancelled_total", cause="disconnect") == before + 1


def test_log_and_metrics_hold_neither_data_nor_secrets(observed: httpx.Client, log: Path) -> None:
    observed.get("/v1/project?token=hunter2&radius=48271.25")
    text = log.read_text() + observed.get("/metrics").text
    for secret in (SECRET, KEY.digest.hex(), "hunter2", "48271.25"):
        assert secret not in text
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines(log))
    assert all(line.startswith("{") for line in log.read_text().splitlines())


def test_trace_goes_on(observed: httpx.Client, log: Path) -> None:
    answer = post(observed, traceparent=f"00-{TRACE}-{PARENT}-01")
    version, trace, span, flags = answer.headers["traceparent"].split("-")
    assert (version, trace, flags) == ("00", TRACE, "01")
    assert span != PARENT
    assert json.loads(answer.headers["x-normtree-timing"])["trace_id"] == TRACE
    assert line_of(log, id_of(answer))["trace_id"] == TRACE


@pytest.mark.parametrize(
    "given",
    ["", "00", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01",
     f"00-{TRACE.upper()}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-x", f" 00-{TRACE}-{PARENT}-01"],
)  # fmt: skip
def test_trace_that_cannot_be_read_is_replaced(given: str) -> None:
    found = TraceContext.of(given, randbytes)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", str(found))
    assert found.trace_id != TRACE


def test_trace_of_a_later_version_is_read() -> None:
    assert TraceContext.of(f"cc-{TRACE}-{PARENT}-01-what-comes", randbytes).trace_id == TRACE


def test_lines_of_log_tell_of_exceptions() -> None:
    try:
        raise ValueError("line 1\nline 2")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "%s failed", ("it",), sys.exc_info())
    (line,) = JsonLines().format(record).splitlines()
    found = json.loads(line)
    assert (found["message"], found["level"]) == ("it failed", "error")
    assert "line 1\nline 2" in found["exception"]


def test_requests_are_logged_alike_by_records_and_by_lines(caplog: pytest.LogCaptureFixture) -> None:
    done = Exchange("id", TRACE, "ada", "POST", "/v1/project", 500, True, "internal", 0.0123456789, 5, 7, None)
    stream = io.StringIO()
    with caplog.at_level(logging.INFO, "normtree.request"):
        log_request(done)
        RequestLines(stream)(done)
    by_record, by_line = (json.loads(line) for line in (JsonLines().format(caplog.records[0]), stream.getvalue()))
    assert by_record | {"time": ""} == by_line | {"time": ""}
    assert by_line["seconds"] == {"total": 0.012346}
    assert (by_line["level"], by_line["message"], by_line["gone"]) == ("error", "POST /v1/project 500", True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", by_line["time"])


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    done = Exchange("id", TRACE, "ada", "GET", "/v2", 200, False, None, 0.1, None, 7, None)
    closed = io.StringIO()
    closed.close()
    with caplog.at_level(logging.INFO, "normtree.request"), Path("/dev/full").open("w", buffering=1) as full:
        for stream in (full, closed):
            RequestLines(stream)(done)
        with suppress(OSError):
            full.close()


LOGGING = """
import logging
from normtree.http.watching.log import log_to_stderr
log_to_stderr("info")
for i in range(100_000):
    logging.getLogger("test").info("line %d of many that nobody reads for a while", i)
print("done", flush=True)
input()
logging.getLogger("test").info("the last one")
"""


def test_nobody_waits_for_who_reads_the_log_and_what_is_dropped_is_told() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", LOGGING], text=True, stdin=pipe, stdout=pipe, stderr=pipe) as logging_:
        assert logging_.stdout
        assert logging_.stdout.readline() == "done\n"  # before a line is read
        shown = logging_.communicate("\n", 60)[1]
    assert logging_.returncode == 0
    found = [json.loads(line) for line in shown.splitlines()]
    dropped = sum(line.get("dropped", 0) for line in found)
    assert dropped > 10_000
    assert dropped + sum("dropped" not in line for line in found) == 100_001
    assert any(line["message"].startswith(f"{line.get('dropped')} lines were dropped before this") for line in found)


def test_lines_that_were_taken_are_written_before_the_end() -> None:
    program = "import logging\nfrom normtree.http.watching.log import log_to_stderr\nlog_to_stderr('info')\n"
    program += "for i in range(5000): logging.getLogger('test').info('line %d', i)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == [f"line {i}" for i in range(5000)]


def test_a_full_disk_ends_nothing() -> None:
    program = "import logging\nfrom normtree.http.watching.log import log_to_stderr\nlog_to_stderr('info')\n"
    program += "logging.getLogger('test').info('a line')\nprint('done')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, "done\n")


TRACED = """
import asyncio, httpx
from normtree.engine.projector import Projector
from normtree.http.app import create_app
from normtree.settings import Settings

async def main(app):
    async with app.router.lifespan_context(app), httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://127.0.0.1"
    ) as client:
        await client.get("/v2/health/live")
        answer = await client.get("/v1/info", headers={"traceparent": "00-TRACE-PARENT-01"})
        print("answered", answer.headers["traceparent"])

settings = Settings(inline_only=True, arena_bytes=2**20)
with Projector.start(settings) as projector:
    asyncio.run(main(create_app(projector, settings)))
""".replace("TRACE", TRACE).replace("PARENT", PARENT)


@pytest.mark.skipif(
    not find_spec("opentelemetry.instrumentation"), reason="needs the extra: pip install normtree[otel]"
)
def test_spans_are_exported_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spans = [json.loads(part) for part in re.findall(r"^\{.*?^\}", done.stdout, re.DOTALL | re.MULTILINE)]
    (span,) = spans
    assert span["name"] == "GET /v1/info"
    assert span["context"]["trace_id"] == f"0x{TRACE}"
    assert span["parent_id"] == f"0x{PARENT}"
    shown = re.search(r"answered 00-(\w+)-(\w+)-01", done.stdout)
    assert shown
    assert (shown[1], f"0x{shown[2]}") == (TRACE, span["context"]["span_id"])
