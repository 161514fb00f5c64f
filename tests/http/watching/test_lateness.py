"""Whether the event loop is held up: by the worst that each route can be sent, health would be answered late."""

import asyncio
import io
import json
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from normtree.http.watching.lateness import lateness_told

KIB, MIB = 2**10, 2**20
HANG_S = 120
BOUND_S, TIMES_IDLE, TRIES = 0.25, 4, 3
NPY, JSON = {"Content-Type": "application/x-npy"}, {"Content-Type": "application/json"}
SAFETENSORS, TOML = {"Content-Type": "application/vnd.safetensors"}, {"Content-Type": "application/toml"}
PROJECT, INFER = "/v1/project", "/v2/models/{name}/infer"
LONG = "a" * 60_000


def npy(array: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def tensors(shapes: list[tuple[int, ...]]) -> bytes:
    header, end = {}, 0
    for number, shape in enumerate(shapes):
        nbytes = 4 * int(np.prod(shape))
        header[f"t{number}"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def tensor(**more: Any) -> dict[str, Any]:
    return {"name": "y", "shape": [1, 1], "datatype": "FP32", "data": [1.0], **more}


def infer(**given: Any) -> bytes:
    return json.dumps({"inputs": [tensor()], **given}).encode()[:MIB]


class Worst(NamedTuple):
    """One of the worst requests of a route."""

    method: str
    route: str
    query: str = ""
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes | None = None
    part: str = "multilevel"

    @property
    def url(self) -> str:
        return re.sub(r"{\w+}", self.part, self.route) + self.query


MANY = "?radius=1&certificate=1&output=compact&trace=1"
EIGHT = "?radius=1&norm=" + ",".join(["l1"] * 8)
RECIPE = {"input": "/nowhere/in", "output": "/nowhere/out"}
WORST = {
    "many tensors": Worst("post", PROJECT, MANY, SAFETENSORS, tensors([(2, 2)] * 4096)),
    "tensors of many shapes": Worst(
        "post", PROJECT, EIGHT, SAFETENSORS, tensors(list(product((1, 2, 3), repeat=8))[:1500])
    ),
    "much metadata": Worst(
        "post", PROJECT, "?radius=1", SAFETENSORS,
        header(json.dumps({"__metadata__": {f"k{i}": "" for i in range(60_000)}}).encode()),
    ),
    "header of lists": Worst("post", PROJECT, "?radius=1", SAFETENSORS, header(b"{" + b'"a":[' * 200_000)),
    "header of parentheses": Worst(
        "post", PROJECT, "?radius=1", NPY, b"\x93NUMPY\x02\x00" + struct.pack("<I", 9990) + b"(" * 9990
    ),
    "many parameters": Worst("post", PROJECT, "?" + "&".join(f"a{i}" for i in range(8000)), NPY, npy(np.ones((2, 2)))),
    "long parameter": Worst("post", PROJECT, f"?{'radiu' * 12_000}=1", NPY, npy(np.ones((2, 2)))),
    "many levels": Worst("post", PROJECT, "?radius=1&norm=" + "l1," * 19_000, NPY, npy(np.ones((2, 2)))),
    "many axes": Worst("post", PROJECT, "?radius=1&axes=" + "1," * 29_000, NPY, npy(np.ones((2, 2)))),
    "many types": Worst(
        "post", PROJECT, "?radius=1", {**NPY, "Accept": "a/b;q=.1," * 6000}, npy(np.ones((2, 2)))
    ),
    "much JSON": Worst("post", INFER, "", JSON, infer(inputs=[tensor()] * 14_000)),
    "many numbers": Worst("post", INFER, "", JSON, infer(inputs=[tensor(shape=[1, 10**5], data=[0.1234] * 10**5)])),
    "long numbers": Worst("post", INFER, "", JSON, infer(inputs=[tensor(data=[10**4000] * 250)])),
    "deep JSON": Worst("post", INFER, "", JSON, b'{"inputs":' + b"[" * 500_000),
    "many options": Worst("post", INFER, "", JSON, infer(parameters={f"p{i}": 1 for i in range(60_000)})),
    "a version": Worst("post", "/v2/models/{name}/versions/{version}/infer", "", JSON, infer(outputs=[{}] * 40_000)),
    "long shape": Worst("post", "/v1/plan", "", JSON, json.dumps({"shape": [1] * 20_000, "radius": 1}).encode()),
    "dotted recipe": Worst("post", "/v1/jobs", "", TOML, b".".join([b"a"] * 32_000) + b"=1"),
    "recipe of mistakes": Worst("post", "/v1/jobs", "", TOML, b"\n".join(b"k%d=1" % i for i in range(7000))),
    "recipe of rules": Worst(
        "post", "/v1/jobs", "", JSON, json.dumps({**RECIPE, "rules": [{"tensors": "(a|b)*"}] * 2000}).encode()
    ),
    "an index": Worst("post", "/v2/repository/index", "", JSON, b"[" * 60_000),
    "a region": Worst(
        "post", "/v2/systemsharedmemory/region/{name}/register", "", JSON,
        json.dumps({"key": "/tensor-" + LONG, "byte_size": 1}).encode(),
    ),
}  # fmt: skip
# What takes no body: a long part of its path, and a head as large as is taken.
HEADERS = {"Authorization": f"Bearer {LONG[:15_000]}", "traceparent": "00-" * 5000, "X-Request-Id": LONG[:15_000]}


@pytest.fixture(scope="module")
def base(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log, root = tmp_path_factory.mktemp("late") / "log.txt", tmp_path_factory.mktemp("late-jobs")
    given = {"workers": 2, "arena_bytes": 2**28, "jobs_roots": root, "shared_memory": True}
    with serve(log, inline_only=True, **given) as (found, _):
        yield found


def late(base: str) -> dict[float, float]:
    """How often the loop was later than each bound."""
    text = httpx.get(f"{base}/metrics", timeout=HANG_S).text
    (count,) = re.findall(r"^normtree_loop_late_seconds_count (\S+)$", text, re.MULTILINE)
    buckets = re.findall(r'^normtree_loop_late_seconds_bucket{le="([\d.]+)"} (\S+)$', text, re.MULTILINE)
    return {float(bound): float(count) - float(at_most) for bound, at_most in buckets}


def latest_s(base: str, before: dict[float, float]) -> float:
    """The largest bound that the loop has been later than since then."""
    time.sleep(0.15)  # until the clock on the loop has rung
    now = late(base)
    return max((bound for bound in now if now[bound] > before.get(bound, 0.0)), default=0.0)


@pytest.fixture(scope="module")
def bound_s(base: str) -> float:
    """What is late: more than an idle loop is on a machine that is busy besides."""
    before = late(base)
    time.sleep(2)
    return max(BOUND_S, TIMES_IDLE * latest_s(base, before))


def check(base: str, bound_s: float, send: Any) -> None:
    seen = []
    for _ in range(TRIES):  # one that is late by itself is so each time
        before = late(base)
        send()
        seen.append(latest_s(base, before))
        if seen[-1] < bound_s:
            return
    pytest.fail(f"the event loop was late by more than {seen} s, wanted at most {bound_s} s")


def test_a_loop_that_is_held_up_is_told_to_be_late() -> None:
    told: list[float] = []

    async def main() -> None:
        async with lateness_told(told.append):
            await asyncio.sleep(0.2)
            time.sleep(0.5)
            await asyncio.sleep(0.2)

    asyncio.run(main())
    assert len(told) > 1
    assert max(told) > 0.3


@pytest.mark.parametrize("name", WORST)
def test_bodies_hold_up_nobody(base: str, bound_s: float, name: str) -> None:
    worst = WORST[name]

    def send() -> None:
        answer = httpx.request(
            worst.method, f"{base}{worst.url}", headers=worst.headers, content=worst.body, timeout=HANG_S
        )
        assert answer.status_code < 500, answer.text

    check(base, bound_s, send)


def test_no_route_is_held_up_by_heads_and_every_route_with_a_body_is_tried(base: str, bound_s: float) -> None:
    paths = httpx.get(f"{base}/openapi.json", timeout=HANG_S).json()["paths"]
    taking = {(method, path) for path, item in paths.items() for method in item if "requestBody" in item[method]}
    assert taking <= {(worst.method, worst.route) for worst in WORST.values()}
    others = [(method, path) for path, item in paths.items() for method in item if (method, path) not in taking]
    assert len(others) > 10

    def send() -> None:
        with httpx.Client(base_url=base, headers=HEADERS, timeout=HANG_S) as client:
            for method, path in [*others, ("get", "/docs"), ("get", "/openapi.json"), ("get", "/{x}")]:
                answer = client.request(method, Worst(method, path, part=LONG[:15_000]).url)
                assert answer.status_code < 500, answer.text

    check(base, bound_s, send)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost:localhost\r\n\r\n" * 8000,
        b"POST / HTTP/1.1\r\nHost:localhost\r\nContent-Length:0\r\nUpgrade:h2c\r\nConnection:upgrade\r\n\r\n" * 3000,
        b"GET / HTTP/1.1\r\nHost:localhost\r\n" + b"a:b\r\n" * 9000 + b"\r\n",
    ],
    ids=["requests", "wishes", "headers"],
)
def test_packets_hold_up_nobody(base: str, bound_s: float, sent: bytes) -> None:
    place = urlsplit(base)

    def send() -> None:
        with socket.create_connection((place.hostname, place.port), timeout=0.2) as line, suppress(OSError):
            line.sendall(sent)
            line.recv(1)

    check(base, bound_s, send)
