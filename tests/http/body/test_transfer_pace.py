"""Bodies that arrive and answers that are read keep up with the time they have, or give back what they hold."""

import asyncio
import gzip
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest
import uvicorn

from normtree.engine.projector import Projector
from normtree.http.admission.admission import Admission
from normtree.http.app import create_app
from normtree.http.body.inflate import Inflated
from normtree.http.body.receive import Body
from normtree.http.body.transfer_pace import Course, TransferPace
from normtree.http.server import server_config
from normtree.settings import Settings

MIB = 2**20
TIMEOUT_S, GRACE_S, HANG_S = 20.0, 0.3, 60.0
LENGTH = 8 * MIB + 128
NPY = {"Content-Type": "application/x-npy"}


@pytest.fixture(scope="module")
def served(projector: Projector, run: Any) -> Iterator[tuple[tuple[str, int], Admission]]:
    settings = Settings(
        inline_only=True, workers=2, arena_bytes=2**26, key_bytes_limit=40 * MIB,
        body_timeout_s=TIMEOUT_S, body_grace_s=GRACE_S, unread_timeout_s=TIMEOUT_S,
    )  # fmt: skip
    app = create_app(projector, settings)
    with run(uvicorn.Server(server_config(app, settings))) as place:
        yield place, app.state.admission


def tensor(nbytes: int) -> bytes:
    shape = (nbytes // 4096, 1024)
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(nbytes)


def head(length: int) -> bytes:
    text = "POST /v1/project?radius=1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
    return f"{text}Content-Length: {length}\r\n\r\n".encode()


def until_given_back(projector: Projector, admission: Admission) -> None:
    end_s = time.monotonic() + HANG_S
    while projector.arena.leased_bytes or admission.inside_bytes:
        assert time.monotonic() < end_s, (projector.arena.leased_bytes, admission.inside_bytes)
        time.sleep(0.02)


def test_a_part_of_the_bytes_has_a_part_of_the_time() -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time()
        course = Course(100, TransferPace(60.0, 10.0))
        assert [course.allowed_s(done) for done in (0, 50, 75, 90, 100)] == [10.0, 40.0, 55.0, 60.0, 60.0]
        assert Course(0, TransferPace(60.0, 10.0)).allowed_s(0) == 60.0
        assert now + 40 <= course.due(50) < now + 41
        course.put_off(5.0)
        assert now + 45 <= course.due(50) < now + 46

    asyncio.run(main())


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("begun", [0, 200])
def test_who_declares_much_and_sends_nothing_gives_it_back(
    served: tuple[tuple[str, int], Admission], projector: Projector, begun: int, drips: bool
) -> None:
    place, admission = served
    body = tensor(8 * MIB)
    with closing(socket.create_connection(place, HANG_S)) as line:
        line.sendall(head(LENGTH) + body[:begun])
        sent = begun
        line.settimeout(0.05 if drips else HANG_S)
        while True:
            with suppress(TimeoutError):
                line.recv(1, socket.MSG_PEEK)
                break
            line.sendall(body[sent : sent + 1])
            sent += 1
        line.settimeout(HANG_S)
        answer = http.client.HTTPResponse(line)
        answer.begin()
        problem = json.loads(answer.read())
    assert (answer.status, problem["code"]) == (408, "body-timeout")
    assert f"of {LENGTH} bytes arrived in 0.3" in problem["detail"]
    assert problem["detail"].endswith("of the 20 s that it may take")
    until_given_back(projector, admission)


def test_who_is_ahead_may_pause(served: tuple[tuple[str, int], Admission], projector: Projector) -> None:
    place, admission = served
    body = tensor(8 * MIB)
    with closing(socket.create_connection(place, HANG_S)) as line:
        line.sendall(head(LENGTH) + body[: 4 * MIB])
        time.sleep(3 * GRACE_S)
        line.sendall(body[4 * MIB :])
        answer = http.client.HTTPResponse(line)
        answer.begin()
        assert (answer.status, answer.read()) == (200, body)
    until_given_back(projector, admission)


@pytest.mark.parametrize("drips", [False, True])
def test_who_does_not_read_gives_it_back(
    served: tuple[tuple[str, int], Admission], projector: Projector, drips: bool
) -> None:
    place, admission = served
    nbytes = 16 * MIB
    with closing(socket.socket()) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)
        line.settimeout(HANG_S)
        line.connect(place)
        line.sendall(head(nbytes + 128) + tensor(nbytes))
        read = len(line.recv(1000))
        end_s = time.monotonic() + HANG_S
        while drips and (projector.arena.leased_bytes or admission.inside_bytes):
            assert time.monotonic() < end_s
            with suppress(ConnectionError):
                read += len(line.recv(1000))
            time.sleep(0.02)
        until_given_back(projector, admission)
        with suppress(ConnectionError):
            while part := line.recv(MIB):
                read += len(part)
    assert read < nbytes


def test_bytes_that_are_compressed_count_as_what_they_become(served: tuple[tuple[str, int], Admission]) -> None:
    place, _ = served
    for rows, status in ((1024, 200), (4096 + 2048, 413)):  # 4 and 24 MiB, and as much for the answer
        given = {"binary_data_size": 4096 * rows}
        tensor_ = {"name": "y", "datatype": "FP32", "shape": [rows, 1024], "parameters": given}
        outputs = [{"name": "x", "parameters": {"binary_data": True}}]
        text = json.dumps({"inputs": [tensor_], "outputs": outputs, "parameters": {"radius": 1.0}}).encode()
        body = gzip.compress(text + bytes(4096 * rows), 1)
        headers = {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(text))}
        url = f"http://{place[0]}:{place[1]}/v2/models/multilevel/infer"
        answer = httpx.post(url, content=body, headers=headers, timeout=HANG_S)
        assert answer.status_code == status, answer.text
        if status == 413:
            assert "may have 41943040 bytes, and this request wants" in answer.json()["detail"]


def test_inflating_leaves_the_event_loop_to_others() -> None:
    data = gzip.compress(bytes(64 * MIB), 1)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    async def main() -> None:
        turning = asyncio.create_task(turn())
        body = Body(receive, len(data), TransferPace(HANG_S, HANG_S))
        assert len(await Inflated(body, "gzip").read_all(64 * MIB)) == 64 * MIB
        turning.cancel()

    asyncio.run(main())
    assert turns >= 64  # one at least for each piece
