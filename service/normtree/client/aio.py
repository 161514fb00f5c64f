"""The client for coroutines: arguments, results and errors are the other's, and it says what they mean."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from time import monotonic
from types import TracebackType
from typing import Any, Self, Unpack

import httpx

from normtree.client.answers import Projected, ProjectedTensors
from normtree.client.call import ONLY, PATH, Call, Options
from normtree.client.connection import (
    LOOK_S,
    READY_PATH,
    check_tag,
    connection_options,
    not_ready_in,
    read_json,
    tag,
    tag_of,
    told,
)
from normtree.client.failures import failure
from normtree.client.processes import OfProcess
from normtree.client.receipt import Progress, Receipt
from normtree.client.retry import Retry
from normtree.errors import NormtreeError


class AsyncClient:
    """Projects arrays by a service. Tasks of one event loop may share it.

    Args:
        url: where the service is.
        key: to be shown, where the service asks for one.
        timeout_s: seconds without a byte after which an attempt is given up.
        retries: attempts after the first, when the service is busy (429, 503) or cannot be reached.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", *, key: str | None = None, timeout_s: float = 120.0, retries: int = 4
    ) -> None:
        options = connection_options(url, key, timeout_s)
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [_tag], "response": [_check_tag]}
        self._url = httpx.URL(url)
        self._connections = OfProcess(lambda: httpx.AsyncClient(**options, event_hooks=hooks))
        self._retry = Retry(retries)

    async def project(
        self,
        y: Any,
        norm: str = "l1,linf",
        radius: float | None = None,
        *,
        compact: bool = False,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Projected:
        """Project one tensor onto the ball that the options describe; see `normtree.Client.project`."""
        call = Call.of({ONLY: y}, {"norm": norm, "radius": radius, **options}, compact=compact, progress=progress)
        return call.one(await self._run(call))

    async def project_tensors(
        self,
        tensors: Mapping[str, Any],
        norm: str = "l1,linf",
        radius: float | None = None,
        *,
        pattern: str | None = None,
        compact: bool = False,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> ProjectedTensors:
        """Project several tensors in one request; see `normtree.Client.project_tensors`."""
        chosen = {"norm": norm, "radius": radius, "tensors": pattern, **options}
        call = Call.of(tensors, chosen, compact=compact, progress=progress)
        return call.several(await self._run(call))

    async def info(self) -> dict[str, Any]:
        """Return what runs there; see `normtree.Client.info`."""
        return await self._get("/v1/info")

    async def trace(self, answer: Projected | ProjectedTensors) -> dict[str, Any]:
        """Return the trace of an answer; see `normtree.Client.trace`."""
        if answer.trace_path is None:
            raise ValueError("trace: the answer has none; ask with trace=True")
        return await self._get(answer.trace_path)

    async def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the service takes tensors; see `normtree.Client.wait_until_ready`."""
        end_s = monotonic() + timeout_s
        while not await self._is_ready():
            if monotonic() > end_s:
                raise not_ready_in(timeout_s, self._url)
            await asyncio.sleep(LOOK_S)

    async def aclose(self) -> None:
        """Close the connections of this process."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def _http(self) -> httpx.AsyncClient:
        return self._connections.get()

    async def _get(self, path: str) -> dict[str, Any]:
        with told(self._url):
            return read_json(await self._http.get(path))

    async def _is_ready(self) -> bool:
        try:
            return (await self._http.get(READY_PATH)).is_success
        except httpx.TransportError:
            return False

    async def _run(self, call: Call) -> Receipt:
        """Make a call, again where that may help."""
        attempt = 0
        while True:
            try:
                return await self._attempt(call)
            except NormtreeError as error:
                delay_s = self._retry.delay_s(attempt, error)
            await asyncio.sleep(delay_s)
            attempt += 1

    async def _attempt(self, call: Call) -> Receipt:
        with told(self._url):
            async with self._http.stream(
                "POST", PATH, params=dict(call.params), headers=call.headers, content=_awaited(call)
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise failure(answer.status_code, answer.headers, await answer.aread())
                receipt = Receipt(answer.headers, tag_of(answer), call.progress)
                async for part in answer.aiter_bytes():
                    receipt.take(part)
                return receipt


async def _tag(request: httpx.Request) -> None:
    tag(request)


async def _check_tag(answer: httpx.Response) -> None:
    check_tag(answer)


async def _awaited(call: Call) -> AsyncIterator[bytes]:
    """Yield the body as a coroutine wants it."""
    for part in call.body():
        yield part
