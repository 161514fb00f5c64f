"""The client that waits."""

from collections.abc import Callable, Mapping
from time import monotonic, sleep
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


class Client:
    """Projects arrays by a service. Threads may share it, and so may forked processes: each has its own connections.

    Of the environment it takes the proxy for the URL (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``); to
    a service on this machine it connects itself.

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
        hooks: dict[str, list[Callable[..., Any]]] = {"request": [tag], "response": [check_tag]}
        self._url = httpx.URL(url)
        self._connections = OfProcess(lambda: httpx.Client(**options, event_hooks=hooks))
        self._retry = Retry(retries)

    def project(
        self,
        y: Any,
        norm: str = "l1,linf",
        radius: float | None = None,
        *,
        compact: bool = False,
        progress: Progress | None = None,
        **options: Unpack[Options],
    ) -> Projected:
        """Project one tensor onto the ball that the options describe.

        Args:
            y: an array, a torch tensor, or anything with ``__array__`` or ``__dlpack__``; float64, float32, float16
                or bfloat16. Not changed.
            norm: norms of the levels from outer to inner.
            radius: radius of the ball, in the units of the elements, unless sparsity or groups are given.
            compact: let the answer carry the surviving outermost groups only. The result is the same.
            progress: called with ``"sent"`` or ``"received"``, the bytes so far, and the bytes of all.
            options: as the query of ``POST /v1/project``; exactly one of radius, sparsity and groups.

        Raises:
            NormtreeError: what the service answered, by its own classes; `Unreachable` where it did not.
            TypeError: ``y`` is no tensor.
        """
        call = Call.of({ONLY: y}, {"norm": norm, "radius": radius, **options}, compact=compact, progress=progress)
        return call.one(self._run(call))

    def project_tensors(
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
        """Project several tensors in one request, each onto its own ball; with ``scope="global"`` all onto one.

        Args:
            tensors: by name; as for `project`, or of other types, which come back as they are.
            norm: as for `project`.
            radius: as for `project`.
            pattern: regular expression (RE2) that the whole name of a tensor must match; default: all that the norm
                fits.
            compact: as for `project`.
            progress: as for `project`.
            options: as for `project`.

        Raises:
            NormtreeError, TypeError: as `project`.
        """
        chosen = {"norm": norm, "radius": radius, "tensors": pattern, **options}
        call = Call.of(tensors, chosen, compact=compact, progress=progress)
        return call.several(self._run(call))

    def info(self) -> dict[str, Any]:
        """Return what runs there: versions, limits, machine profile.

        Raises:
            NormtreeError: as `project`.
        """
        return self._get("/v1/info")

    def trace(self, answer: Projected | ProjectedTensors) -> dict[str, Any]:
        """Return the trace of an answer asked for with ``trace=True``; saved as JSON, ui.perfetto.dev opens it.

        Raises:
            ValueError: none was asked for.
            NormtreeError: as `project`; `TraceNotFound` some minutes later.
        """
        if answer.trace_path is None:
            raise ValueError("trace: the answer has none; ask with trace=True")
        return self._get(answer.trace_path)

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until the service takes tensors.

        Raises:
            Unreachable: it did not in that time.
        """
        end_s = monotonic() + timeout_s
        while not self._is_ready():
            if monotonic() > end_s:
                raise not_ready_in(timeout_s, self._url)
            sleep(LOOK_S)

    def close(self) -> None:
        """Close the connections of this process."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _http(self) -> httpx.Client:
        return self._connections.get()

    def _get(self, path: str) -> dict[str, Any]:
        with told(self._url):
            return read_json(self._http.get(path))

    def _is_ready(self) -> bool:
        try:
            return self._http.get(READY_PATH).is_success
        except httpx.TransportError:
            return False

    def _run(self, call: Call) -> Receipt:
        """Make a call, again where that may help."""
        attempt = 0
        while True:
            try:
                return self._attempt(call)
            except NormtreeError as error:
                delay_s = self._retry.delay_s(attempt, error)
            sleep(delay_s)
            attempt += 1

    def _attempt(self, call: Call) -> Receipt:
        with (
            told(self._url),
            self._http.stream(
                "POST", PATH, params=dict(call.params), headers=call.headers, content=call.body()
            ) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise failure(answer.status_code, answer.headers, answer.read())
            receipt = Receipt(answer.headers, tag_of(answer), call.progress)
            for part in answer.iter_bytes():
                receipt.take(part)
            return receipt
