"""Keys separate clients: what one has made no other sees, uses or ends, but for an admin."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from safetensors.numpy import save_file

from normtree.engine.projector import Projector
from normtree.http.admission.admission import Admission
from normtree.http.app import create_app
from normtree.http.job_events import JobEvents
from normtree.jobs.board.board import JobBoard
from normtree.jobs.recipe import recipe_of
from normtree.keys.key import new_key
from normtree.keys.key_ring import KeyRing
from normtree.settings import Settings

SECRETS, KEYS = zip(*(new_key(name, admin=name == "root") for name in ("ada", "bob", "root")), strict=True)
ADA, BOB, ROOT = ({"Authorization": f"Bearer {secret}"} for secret in SECRETS)
HERE = "http://127.0.0.1"
Y = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
SHARED = "/v2/systemsharedmemory"


@pytest.fixture(scope="module")
def app(projector: Projector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    root = tmp_path_factory.mktemp("root")
    (root / "in").mkdir()
    save_file({"w": Y}, root / "in" / "m.safetensors")
    keys = ";".join(map(str, KEYS))
    settings = Settings(inline_only=True, shared_memory=True, jobs_roots=str(root), keys=keys)
    found = create_app(projector, settings)
    yield found

    async def end() -> None:
        async with found.router.lifespan_context(found):
            pass

    asyncio.run(end())


def ask(app: FastAPI, who: Mapping[str, str], method: str, path: str, **given: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        headers = {**who, **given.pop("headers", {})}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as client:
            return await client.request(method, path, headers=headers, **given)

    return asyncio.run(main())


@contextmanager
def segment(name: str, data: bytes) -> Iterator[str]:
    path = Path("/dev/shm") / f"tensor-{os.getpid()}-{name}"
    path.write_bytes(data)
    try:
        yield f"/{path.name}"
    finally:
        path.unlink()


def register(app: FastAPI, who: Mapping[str, str], name: str, key: str) -> httpx.Response:
    wanted = {"key": key, "byte_size": 2 * Y.nbytes}
    return ask(app, who, "POST", f"{SHARED}/region/{name}/register", json=wanted)


def names(app: FastAPI, who: Mapping[str, str]) -> list[str]:
    return [region["name"] for region in ask(app, who, "GET", f"{SHARED}/status").json()]


def infer(app: FastAPI, who: Mapping[str, str], region: str) -> httpx.Response:
    """Read a region's tensor as who is asked, and write it back behind itself."""
    part = {"shared_memory_region": region, "shared_memory_byte_size": Y.nbytes}
    request = {
        "inputs": [{"name": "y", "shape": list(Y.shape), "datatype": "FP32", "parameters": part}],
        "outputs": [{"name": "x", "parameters": {**part, "shared_memory_offset": Y.nbytes}}],
        "parameters": {"radius": 1e30, "engine": "inline"},
    }
    return ask(app, who, "POST", "/v2/models/multilevel/infer", content=json.dumps(request))


def test_shared_memory_is_its_client_s(app: FastAPI) -> None:
    with segment("a", Y.tobytes() + bytes(Y.nbytes)) as a, segment("b", bytes(2 * Y.nbytes)) as b:
        assert register(app, ADA, "mine", a).status_code == 200
        assert names(app, BOB) == []
        for answer in (ask(app, BOB, "GET", f"{SHARED}/region/mine/status"), infer(app, BOB, "mine")):
            assert (answer.status_code, answer.json()["code"]) == (400, "region-refused")
        stolen = register(app, BOB, "yours", a)
        assert (stolen.status_code, stolen.json()["detail"]) == (400, "key: the segment is another client's")
        assert register(app, BOB, "mine", b).status_code == 200  # names are each client's own
        ask(app, BOB, "POST", f"{SHARED}/unregister")
        assert (names(app, ADA), names(app, BOB)) == (["mine"], [])
        ask(app, BOB, "POST", f"{SHARED}/region/mine/unregister")
        assert infer(app, ADA, "mine").status_code == 200
        written = np.frombuffer((Path("/dev/shm") / a[1:]).read_bytes(), np.float32)
        np.testing.assert_array_equal(written, np.tile(Y.reshape(-1), 2))
        assert names(app, ROOT) == ["mine"]
        ask(app, ROOT, "POST", f"{SHARED}/region/mine/unregister")
        assert names(app, ADA) == []


def post(app: FastAPI, who: Mapping[str, str], output: str) -> httpx.Response:
    recipe = {"input": "in", "output": output, "rules": [{"tensors": "w", "sparsity": 0.5}]}
    return ask(app, who, "POST", "/v1/jobs", json=recipe, headers={"Idempotency-Key": "k"})


def test_jobs_are_their_client_s(app: FastAPI) -> None:
    mine = post(app, ADA, "out-a").json()
    path = f"/v1/jobs/{mine['id']}"
    hers = post(app, BOB, "out-b")  # an Idempotency-Key is each client's own
    assert (hers.status_code, hers.json()["owner"]) == (202, "bob")
    asked = [("GET", path), ("DELETE", path), ("GET", f"{path}/events"), ("GET", f"{path}/report"),
             ("GET", f"/v1/jobs?before={mine['id']}")]  # fmt: skip
    for method, where in asked:
        answer = ask(app, BOB, method, where)
        assert (answer.status_code, answer.json()["code"]) == (404, "job-not-found")
        assert answer.json()["detail"] == ask(app, BOB, "GET", "/v1/jobs/none").json()["detail"]
    listed = {who: [job["owner"] for job in ask(app, headers, "GET", "/v1/jobs").json()["jobs"]]
              for who, headers in (("ada", ADA), ("bob", BOB), ("root", ROOT))}  # fmt: skip
    assert listed == {"ada": ["ada"], "bob": ["bob"], "root": ["bob", "ada"]}
    assert "event: completed" in ask(app, ADA, "GET", f"{path}/events").text
    assert [ask(app, who, "GET", f"{path}/report").status_code for who in (ADA, ROOT, BOB)] == [200, 200, 404]


def test_events_end_when_their_key_is_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = tmp_path / "python"
    endless.write_text("#!/bin/sh\nexec sleep 100\n")
    endless.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(endless))
    file = tmp_path / "keys"
    file.write_text(f"{KEYS[0]}\n{KEYS[1]}\n")
    ring = KeyRing("", file)
    board = JobBoard(tmp_path / "board", 1, 2**26)
    rules = [{"tensors": "w", "sparsity": 0.5}]
    recipe = recipe_of({"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "rules": rules})
    job, _ = board.submit(recipe, None, "ada")

    async def main() -> None:
        events = JobEvents(board, Admission(Settings(inline_only=True)), ring)
        ada, bob = (events.follow(job.id, key) for key in KEYS[:2])
        for told in (ada, bob):
            assert (await anext(told)).event == "progress"
        file.write_text(f"{KEYS[1]}\n")
        ring.look_again()
        async with asyncio.timeout(60):
            assert [event async for event in ada if event.event != "progress"] == []
        await bob.aclose()

    try:
        asyncio.run(main())
    finally:
        board.close()


def test_traces_are_their_client_s(app: FastAPI) -> None:
    body = json.dumps({"inputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}],
                       "parameters": {"radius": 1, "trace": True, "engine": "inline"}})  # fmt: skip
    path = ask(app, ADA, "POST", "/v2/models/multilevel/infer", content=body).json()["parameters"]["trace"]
    assert [ask(app, who, "GET", path).status_code for who in (ADA, BOB, ROOT)] == [200, 404, 200]


def test_whatever_a_key_asks_for_has_a_rate(projector: Projector) -> None:
    keys = ";".join(map(str, KEYS))
    limited = create_app(projector, Settings(inline_only=True, keys=keys, key_rate_per_s=0.001, key_burst=1))
    plan = {"json": {"shape": [3, 4], "radius": 1}}
    answers = [ask(limited, ADA, "POST", "/v1/plan", **plan) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    assert answers[-1].json()["code"] == "rate-exceeded"
    assert int(answers[-1].headers["Retry-After"]) > 1
    assert ask(limited, ADA, "GET", "/v2/health/ready").status_code == 200
    assert ask(limited, BOB, "POST", "/v1/plan", **plan).status_code == 200
    body = json.dumps({"inputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}],
                       "parameters": {"radius": 1, "engine": "inline"}})  # fmt: skip
    tensors = [ask(limited, ADA, "POST", "/v2/models/multilevel/infer", content=body).status_code for _ in range(2)]
    assert tensors == [200, 429]  # looking takes nothing from working
