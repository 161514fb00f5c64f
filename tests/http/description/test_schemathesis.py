"""The OpenAPI document against a real server: every operation, all checks of schemathesis."""

import io
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from normtree.keys.key import new_key

if not find_spec("schemathesis"):
    pytest.skip("needs schemathesis, which the extra dev brings", allow_module_level=True)
import schemathesis

SECRET, KEY = new_key("ada")
EXAMPLES, HOSTILE_EXAMPLES = 30, 20
HANG_S = 60
# No schema can say that exactly one of three parameters is wanted, or that axes must fit the tensor in the body: such
# requests are valid by the document, and 422 says what is wrong with them. 406 is for what Accept rules out.
CHECKS = {"checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", 404, 406, 422, 503]}}}

TENSORS = arrays.arrays(
    st.sampled_from([np.float32, np.float64]),
    arrays.array_shapes(min_dims=2, max_dims=3, max_side=4),
    elements=st.floats(-100, 100, width=32),
)


def npy(tensor: Any) -> bytes:
    body = io.BytesIO()
    np.save(body, tensor)
    return body.getvalue()


# What the document can only call bytes. The server refuses others, and is right to.
for name in ("application/x-npy", "application/vnd.numpy.npy", "application/octet-stream"):
    schemathesis.openapi.media_type(name, TENSORS.map(npy))
for name in ("application/vnd.safetensors", "application/x-safetensors"):
    schemathesis.openapi.media_type(
        name, st.dictionaries(st.sampled_from("abc"), TENSORS, min_size=1).map(safetensors.numpy.save)
    )


@pytest.fixture(scope="module")
def api(serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("schema") / "log.txt"
    with serve(log, inline_only=True, workers=2, arena_bytes=2**26, body_limit_bytes=2**24, keys=str(KEY)) as (base, _):
        yield schemathesis.openapi.from_url(f"{base}/openapi.json", config=schemathesis.Config.from_dict(CHECKS))


def test_every_operation_keeps_to_the_document(api: Any) -> None:
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) >= 5
    failures = []
    for operation in operations:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def keep(case: Any) -> None:
            case.call_and_validate(headers={"Authorization": f"Bearer {SECRET}"})

        try:
            keep()
        except schemathesis.core.failures.FailureGroup as group:
            failures += [f"{operation.label}: {failure}" for failure in group.exceptions]
    assert not failures, "\n\n".join(failures)


HOSTILE: dict[str, list[str]] = {
    "Host": ["", "x", "localhost, x", "a b", "[::1", "localhost:99999999999", "u@localhost", "%", "é", "x" * 9000],
    "Connection": ["close", "Upgrade", "keep-alive, Upgrade, TE", "Content-Length", "Host", ",,,", "\x7f"],
    "Upgrade": ["h2c", "websocket", "TLS/1.0, HTTP/1.1", "", "," * 900],
    "HTTP2-Settings": ["AAMAAABkAAQCAAAAAAIAAAAA", "?"],
    "TE": ["trailers", "gzip;q=0.5", "chunked", ""],
    "Transfer-Encoding": ["chunked", "xchunked", "identity", "gzip, chunked", "chunked, chunked", "chunked, gzip", ""],
    "Content-Length": ["0", "-1", "1, 1", "0x10", "9" * 40, "1_0", "²", ""],
    "Expect": ["100-continue", "200-ok", "100-continue, x", ""],
    "Content-Encoding": ["gzip", "deflate", "br", "identity, gzip", "gzip, gzip", "é", ""],
    "Content-Type": ["application/json", "text/plain", "application/x-npy", "a/b;" * 900, "é", ";", ""],
    "Accept": ["", "*", "*/*;q=nan", "a/b;q=1e999", "application/json;q=-1", "*/*;q=0", "," * 900, "é"],
    "Accept-Encoding": ["gzip", "*;q=0", "identity;q=0"],
    "traceparent": ["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff", "-" * 900, "é", ""],
    "tracestate": ["=" * 900],
    "X-Request-Id": ["a b", "é", "x" * 9000, "%0d%0aX: y", ""],
    "Authorization": ["Bearer", "Bearer é", "bearer  x", "Basic eDp5", f"Bearer {'x' * 9000}", "", "Bearer \t"],
    "Idempotency-Key": ["", "é", "x" * 9000],
    "Origin": ["null", "https://evil.example", "é", "http://[::1"],
    "Sec-Fetch-Site": ["cross-site", "x"],
    "Range": ["bytes=0-0", "bytes=" + "0-," * 900],
    "If-None-Match": ["*", "é"],
    "Inference-Header-Content-Length": ["-1", "0", "1", "9" * 40, "²", "x", ""],
    "Forwarded": ["for=é"],
    "X-Forwarded-Host": ["evil.example"],
}
HEADERS = st.lists(st.sampled_from(sorted(HOSTILE)), min_size=1, max_size=4, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(HOSTILE[name]) for name in names})
)


def raw(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """A request as no library would send it: its headers as they are, and beside those it must have."""
    own = {"Host": "localhost", "Content-Length": str(len(body)), "Authorization": f"Bearer {SECRET}", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def statuses(place: Any, sent: bytes) -> list[int]:
    """What all is answered to a client that has finished sending, until the server hangs up."""
    with socket.create_connection((place.hostname, place.port), timeout=HANG_S) as line:
        with suppress(OSError):
            line.sendall(sent)
            line.shutdown(socket.SHUT_WR)
        answered = b""
        with suppress(ConnectionError):
            while part := line.recv(2**16):
                answered += part
    return [int(status) for status in re.findall(rb"(?:^|(?<=\n))HTTP/1\.1 (\d{3}) ", answered)]


def test_every_operation_bears_hostile_headers(api: Any) -> None:
    """Whatever the headers are, one answer comes, and the connection's end; none of them is a bug's."""
    place = urlsplit(api.location)
    operations = [found.ok() for found in api.get_all_operations()]
    asked = [(operation.method.upper(), re.sub(r"{\w+}", "multilevel", operation.path)) for operation in operations]

    @settings(max_examples=HOSTILE_EXAMPLES * len(asked), deadline=None, suppress_health_check=list(HealthCheck))
    @given(to=st.sampled_from(asked), headers=HEADERS, body=st.sampled_from([b"", b"{}", npy(np.ones((2, 2)))]))
    def bear(to: tuple[str, str], headers: dict[str, str], body: bytes) -> None:
        found = statuses(place, raw(*to, headers, body))
        final = [status for status in found if status != HTTPStatus.CONTINUE]
        # Of a body that is declared too short, the rest is another request.
        assert len(final) == 1 or (len(final) == 2 and "Content-Length" in headers), found
        assert not {500, 502, 504} & set(final), found

    bear()
