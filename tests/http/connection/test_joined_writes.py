"""Joined writes: what is short leaves with what follows, all leaves in order, and a view leaves at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from normtree.http.connection.joined_writes import Joining


class Recorder(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []
        self.closing = False

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        self.calls.append(b"+".join(bytes(part) for part in parts))

    def is_closing(self) -> bool:
        return self.closing


LONG = b"b" * 10_000
CASES: dict[str, tuple[list[Any], list[bytes]]] = {
    "head and body": ([b"head", LONG], [b"head+" + LONG]),
    "head and view": ([b"head", memoryview(LONG)], [b"head+" + LONG]),
    "head and short body": ([b"head", b"body", b"next"], [b"head+body", b"next"]),
    "head and empty body": ([b"head", b""], [b"head+"]),
    "a long one waits for nothing": ([LONG, b"rest"], [LONG, b"rest"]),
    "nor does a view": ([memoryview(b"view"), memoryview(b"more")], [b"view", b"more"]),
}


@pytest.mark.parametrize("name", CASES)
def test_leaves_in_order_and_within_the_turn(name: str) -> None:
    written, wanted = CASES[name]

    async def main() -> None:
        transport = Recorder()
        joining = Joining(transport)
        for data in written:
            joining.write(data)
        await asyncio.sleep(0)
        assert transport.calls == wanted

    asyncio.run(main())


@pytest.mark.parametrize("end", [lambda joining: None, lambda joining: joining.flush()], ids=["turn", "flush"])
def test_writes_nothing_to_what_is_gone(end: Callable[[Joining], None]) -> None:
    async def main() -> None:
        transport = Recorder()
        joining = Joining(transport)
        joining.write(b"head")
        transport.closing = True
        end(joining)
        await asyncio.sleep(0)
        assert transport.calls == []

    asyncio.run(main())
