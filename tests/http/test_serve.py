"""The server's end: what is in flight is finished, and nothing is left behind."""

import http.client
import io
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

import normtree_kernels as nk


def test_request_in_flight_is_finished(serve: Any, tmp_path: Path) -> None:
    y = np.random.default_rng(0).standard_normal((200, 300))
    body = io.BytesIO()
    np.save(body, y)
    content = body.getvalue()
    with serve(tmp_path / "log.txt", inline_only=True, workers=2, arena_bytes=2**26) as (base, process):
        place = urlsplit(base)
        with socket.create_connection((place.hostname, place.port), timeout=20) as line:
            head = (
                f"POST /v1/project?radius=2 HTTP/1.1\r\nHost: {place.netloc}\r\n"
                f"Content-Type: application/x-npy\r\nContent-Length: {len(content)}\r\n\r\n"
            )
            line.sendall(head.encode() + content[:1000])
            time.sleep(0.2)  # so that the request has begun
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{base}/v2/health/live")
            line.sendall(content[1000:])
            answer = http.client.HTTPResponse(line)
            answer.begin()
            x = np.load(io.BytesIO(answer.read()), allow_pickle=False)
        np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))
        assert process.wait(20) == 0
