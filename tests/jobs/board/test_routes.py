"""``/v1/jobs`` over HTTP: jobs run beside the service, are watched, cancelled and remembered, and stay inside."""

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

RULE = {"tensors": r".*up\.weight", "sparsity": 0.5}
Serving = Callable[..., Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Any) -> Path:
    folder = tmp_path_factory.mktemp("root")
    make_checkpoint(folder / "in")
    (folder.parent / "secret").mkdir(exist_ok=True)
    (folder.parent / "secret" / "model.safetensors").write_bytes((folder / "in" / "config.json").read_bytes())
    return folder


@contextmanager
def opened(serve: Serving, log: Path, **settings: object) -> Iterator[httpx.Client]:
    with (
        serve(log, workers=2, inline_only=True, arena_bytes=2**24, **settings) as (base, _),
        httpx.Client(base_url=base, timeout=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(serve: Serving, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with opened(serve, tmp_path_factory.mktemp("log") / "log.txt", jobs_roots=root) as found:
        yield found


@pytest.fixture(scope="module")
def there(client: httpx.Client, reach: Any, way: str) -> Iterator[httpx.Client]:
    """A client that reaches the service in some way."""
    with httpx.Client(base_url=reach(str(client.base_url), way), timeout=60) as found:
        yield found


def recipe(output: str, **changes: Any) -> dict[str, Any]:
    return {"input": "in", "output": output, "rules": [RULE], **changes}


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    end_s = time.monotonic() + 240  # kernels may have to be compiled
    while time.monotonic() < end_s:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
        if job["ended"]:
            return job
        time.sleep(0.05)
    pytest.fail(f"the job did not end: {job}")


def until(found: Callable[[], object]) -> None:
    end_s = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize("way", ["direct", "rechunked", "forked"], scope="module")
def test_a_job_is_taken_runs_and_reports(there: httpx.Client, way: str, root: Path, loaded: Any) -> None:
    client = there
    answer = client.post("/v1/jobs", json=recipe(f"one-{way}"))
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert ended(client, job["id"])["state"] == "completed"
    assert (loaded(root / f"one-{way}")["layers.0.up.weight"] == 0).all(axis=1).sum() == 150
    report = client.get(f"/v1/jobs/{job['id']}/report")
    assert report.json()["rules"][0]["zero_share"] == 0.5
    page = client.get(f"/v1/jobs/{job['id']}/report", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.text.startswith("<!doctype html>")
    assert job["id"] in [each["id"] for each in client.get("/v1/jobs").json()["jobs"]]


@pytest.mark.parametrize("way", ["direct", "rechunked", "forked"], scope="module")
def test_events_tell_of_it_until_it_ends(there: httpx.Client, way: str) -> None:
    client = there
    job = client.post("/v1/jobs", json=recipe(f"events-{way}")).json()
    told: list[tuple[str, dict[str, Any]]] = []
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                told.append((name, json.loads(line.removeprefix("data: "))))
    assert told[-1][0] == "completed"
    progress = told[-1][1]["progress"]
    assert progress["bytes_done"] == progress["bytes_total"] > 0
    assert progress["shards_done"] == 3


def test_a_recipe_may_come_as_toml(client: httpx.Client) -> None:
    text = "input = 'in'\noutput = 'toml'\n[[rules]]\ntensors = '.*up\\.weight'\nsparsity = 0.5\n"
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/toml"})
    assert ended(client, answer.json()["id"])["state"] == "completed"
    wrong = client.post("/v1/jobs", content=text + "spar = 1\n", headers={"Content-Type": "application/toml"})
    assert wrong.status_code == 422
    assert wrong.json()["detail"].startswith("body, line 6: rules[0].spar: unknown key: did you mean sparsity?")


def test_an_idempotency_key_takes_a_job_once(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "k1"}
    first = client.post("/v1/jobs", json=recipe("once"), headers=key)
    again = client.post("/v1/jobs", json=recipe("once"), headers=key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    other = client.post("/v1/jobs", json=recipe("other"), headers=key)
    assert other.status_code == 409
    assert other.json()["code"] == "job-conflict"
    ended(client, first.json()["id"])


def test_a_job_that_fails_tells_why(client: httpx.Client, root: Path) -> None:
    rule = {"tensors": "nothing", "sparsity": 0.5}
    job = ended(client, client.post("/v1/jobs", json=recipe("failing", rules=[rule])).json()["id"])
    assert job["state"] == "failed"
    assert job["error"]["code"] == "invalid-recipe"
    assert "'nothing' matches none of the 24 tensors" in job["error"]["detail"]
    assert client.get(f"/v1/jobs/{job['id']}/report").status_code == 409
    assert not (root / "failing").exists()


def test_a_job_that_waits_is_cancelled(client: httpx.Client, root: Path) -> None:
    first, second = (client.post("/v1/jobs", json=recipe(name)).json()["id"] for name in ("busy", "waits"))
    assert client.delete(f"/v1/jobs/{second}").json()["state"] == "cancelled"
    ended(client, first)
    assert client.get(f"/v1/jobs/{second}").json()["state"] == "cancelled"
    assert not (root / "waits").exists()


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"input": "../secret"}, "input: wanted a path inside the service's folders, got '../secret'"),
        ({"input": "/etc"}, "input: wanted a path inside"),
        ({"output": "../out"}, "output: wanted a path inside"),
        ({"output": "linked/out"}, "output: wanted a path inside"),
        ({"input": "linked"}, "input: wanted a path inside"),
        ({"input": "with_link"}, "model.safetensors is a link that leads out of the service's folders"),
        ({"input": "s3://bucket/in"}, "input: wanted a path inside the service's folders, got a URL"),
        ({"output": "s3://bucket/out"}, "output: wanted a path inside the service's folders, got a URL"),
        ({"input": "file:///etc"}, "input: wanted a path inside"),
        ({"output": "."}, "output: wanted a path inside"),
        ({"output": ".normtree-jobs/x"}, "output: wanted a path inside"),
        ({"rules": [{"tensors": "a", "spasity": 1}]}, "rules[0].spasity: unknown key: did you mean sparsity?"),
        ({"rules": []}, "rules: Tuple should have at least 1 item"),
    ],
)
def test_no_path_leads_out_of_the_folders(client: httpx.Client, root: Path, changes: Any, detail: str) -> None:
    if not (root / "linked").exists():
        (root / "linked").symlink_to(root.parent / "secret")
        (root / "with_link").mkdir()
        (root / "with_link" / "model.safetensors").symlink_to(root.parent / "secret" / "model.safetensors")
    answer = client.post("/v1/jobs", json=recipe("out", **{k: v for k, v in changes.items() if k == "rules"}) | changes)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid-recipe"
    assert detail in answer.json()["detail"]


def outside(root: Path) -> Path:
    """Return a folder beside the root with a file of somebody else's."""
    folder = root.parent / "outside"
    folder.mkdir(exist_ok=True)
    (folder / "victim").write_bytes(b"mine")
    return folder


def test_a_folder_that_was_planted_in_the_output_leads_no_file_out(client: httpx.Client, root: Path) -> None:
    (root / "nested" / "deep").mkdir(parents=True)
    shutil.copy(root / "in" / "model-00001-of-00003.safetensors", root / "nested" / "deep" / "model.safetensors")
    (root / "planted").mkdir()
    (root / "planted" / "deep").symlink_to(outside(root))
    job = ended(client, client.post("/v1/jobs", json=recipe("planted", input="nested")).json()["id"])
    assert job["error"]["code"] == "job-conflict"
    assert "deep is there already" in job["error"]["detail"]
    assert os.listdir(outside(root)) == ["victim"]


def test_what_was_planted_in_the_state_leads_no_write_out(client: httpx.Client, root: Path, files: Any) -> None:
    state, out = root / "links.normtree", root / "links"
    state.mkdir()
    (state / "journal.jsonl").touch()
    out.mkdir()
    names = ("config.json", "model-00001-of-00003.safetensors")
    for name in names:
        (out / f".{name}.partial").symlink_to(outside(root) / "victim")
    for name in ("lock", "report.json", ".report.html.partial"):
        (state / name).symlink_to(outside(root) / "victim")
    job = ended(client, client.post("/v1/jobs", json=recipe("links")).json()["id"])
    assert job["state"] == "failed"
    for name in names:
        (out / f".{name}.partial").unlink()
    (state / "lock").unlink()
    job = ended(client, client.post("/v1/jobs", json=recipe("links")).json()["id"])
    assert job["state"] == "completed"
    assert files(outside(root)) == {"victim": b"mine"}
    assert client.get(f"/v1/jobs/{job['id']}/report").json()["tensors"]


def test_a_report_that_is_a_link_is_not_told(client: httpx.Client, root: Path) -> None:
    job = ended(client, client.post("/v1/jobs", json=recipe("told")).json()["id"])
    (root / "told.normtree" / "report.json").unlink()
    (root / "told.normtree" / "report.json").symlink_to(outside(root) / "victim")
    answer = client.get(f"/v1/jobs/{job['id']}/report")
    assert answer.status_code == 503
    assert "wanted a file, got a link" in answer.json()["detail"]


@pytest.mark.parametrize("swapped", ["input", "above the input", "above the output"])
def test_a_folder_that_becomes_a_link_while_the_job_waits_leads_nowhere(
    serve: Serving, client: httpx.Client, root: Path, swapped: str
) -> None:
    place = swapped.replace(" ", "-")
    shutil.copytree(root / "in", root / place / "a" / "in")
    (root / place / "b").mkdir()
    shutil.copytree(root / "in", outside(root) / "in", dirs_exist_ok=True)
    first = client.post("/v1/jobs", json=recipe(f"{place}-before")).json()["id"]
    waits = client.post("/v1/jobs", json=recipe(f"{place}/b/out", input=f"{place}/a/in")).json()["id"]
    moved = root / place / {"input": "a/in", "above the input": "a", "above the output": "b"}[swapped]
    moved.rename(moved.with_name("moved"))
    moved.symlink_to(outside(root) / "in" if swapped == "input" else outside(root))
    ended(client, first)
    job = ended(client, waits)
    shutil.rmtree(outside(root) / "in")
    assert os.listdir(outside(root)) == ["victim"]
    assert job["error"]["code"] == "invalid-recipe"
    assert "wanted a path inside the service's folders" in job["error"]["detail"]


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"output": "./in"}, "output"),
        ({"output": "none/../in"}, "output"),
        ({"output": "file://in"}, "output"),
        ({"output": "in/sub"}, "output"),
        ({"input": "in/1_Pooling", "output": "in"}, "output"),
        ({"input": "a\0b"}, "input"),
        ({"output": "a\0b"}, "output"),
        ({"input": "circle"}, "input"),
        ({"output": "circle/out"}, "output"),
        ({"output": "n" * 5000}, "output"),
        ({"output": "n" * 250}, "output"),
        ({"output": "in/config.json/out"}, "output"),
    ],
)
def test_places_that_are_none_or_overlap_are_the_clients_mistake(
    client: httpx.Client, root: Path, changes: Any, pointer: str
) -> None:
    if not (root / "circle").is_symlink():
        (root / "circle").symlink_to("circle")
    body = json.dumps(recipe("never") | changes)
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid-recipe"
    assert answer.json()["pointer"] == pointer


def test_a_fifo_in_the_input_is_refused_and_holds_nobody_up(client: httpx.Client, root: Path) -> None:
    (root / "pipes").mkdir()
    os.mkfifo(root / "pipes" / "pipe")
    answer = client.post("/v1/jobs", json=recipe("never", input="pipes"))
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid-checkpoint"
    assert "wanted a file or a folder, got a FIFO" in answer.json()["detail"]


def test_an_input_that_a_job_before_will_make_may_be_missing_when_it_is_asked_for(client: httpx.Client) -> None:
    first = client.post("/v1/jobs", json=recipe("made")).json()["id"]
    second = client.post("/v1/jobs", json=recipe("made-of-made", input="made")).json()["id"]
    assert [ended(client, job)["state"] for job in (first, second)] == ["completed", "completed"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"\xff", {}, 400),
        (b"[]", {}, 422),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b" " * (2**16 + 1), {}, 413),
        (b'{"input": "a", "input": "b"}', {}, 400),
        (b'{"input": NaN}', {}, 400),
        (b'{"input": "\\ud800"}', {}, 400),
        (b'{"input": "a", "output": "b", "rules": [{"tensors": "a", "radius": %s}]}' % (b"9" * 5000), {}, 400),
        (b"[" * 60_000, {}, 400),
        (b".".join([b"a"] * 30_000) + b" = 1", {"Content-Type": "application/toml"}, 422),
        (b"".join(b"k%d = 1\n" % i for i in range(6_000)), {"Content-Type": "application/toml"}, 422),
        (b"input = '\xff'", {"Content-Type": "application/toml"}, 400),
        (b"x = " + b"9" * 5000, {"Content-Type": "application/toml"}, 422),
    ],
)
def test_a_body_that_is_no_recipe_is_refused(client: httpx.Client, body: bytes, headers: Any, status: int) -> None:
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"input": "in\0"}, "input"),
        ({"output": "out\0"}, "output"),
        ({"input": "x" * 5000}, "input"),
        ({"output": "y/" * 3000}, "output"),
        ({"output": "z" * 250}, "output"),
        ({"input": "circle"}, "input"),
        ({"output": "circle/out"}, "output"),
        ({"rules": [RULE | {"tensors": "a{99999999999999999999}("}]}, "rules[0].tensors"),
        ({"rules": [RULE | {"tensors": r"\pL" * 3000}]}, "rules[0].tensors"),
        ({"rules": [RULE | {"exclude": "("}]}, "rules[0].exclude"),
        ({"rules": [RULE | {"sparsity": 10**400}]}, "rules[0].sparsity"),
        ({"rules": [{"x": 1}] * 3000}, "rules[0].tensors"),
        ({"rules": 3}, "rules"),
        ({"overlap": "x" * 30_000}, "overlap"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_is_no_bug(
    client: httpx.Client, root: Path, changes: dict[str, Any], key: str
) -> None:
    if not (root / "circle").is_symlink():
        (root / "circle").symlink_to("circle")
    answer = client.post("/v1/jobs", json=recipe("mistaken") | changes)
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == "invalid-recipe"
    assert answer.json()["pointer"].startswith(key)
    assert len(answer.content) < 10_000


def test_a_recipe_may_begin_with_a_mark_of_its_order_of_bytes(client: httpx.Client) -> None:
    text = "\ufeffinput = 'in'\noutput = 'marked'\n[[rules]]\ntensors = 'nothing'\nsparsity = 0.5\n"
    answer = client.post("/v1/jobs", content=text.encode(), headers={"Content-Type": "application/toml"})
    assert answer.status_code == 202
    client.delete(f"/v1/jobs/{answer.json()['id']}")


def test_a_name_that_is_no_text_is_told_and_the_list_goes_on(client: httpx.Client, root: Path) -> None:
    folder = root / "odd"
    folder.mkdir()
    shutil.copy(
        os.fsencode(root / "in" / "model-00001-of-00003.safetensors"), os.fsencode(folder) + b"/caf\xe9.safetensors"
    )
    answer = client.post("/v1/jobs", json=recipe("odd-out", input="odd"))
    found = answer.json() if answer.is_error else ended(client, answer.json()["id"])["error"]
    assert found["status"] == 422
    assert "caf" in found["detail"]
    assert client.get("/v1/jobs").status_code == 200


def test_ready_tells_of_notes_that_cannot_be_written(client: httpx.Client, root: Path) -> None:
    notes, moved = root / ".normtree-jobs", root / ".moved"
    jobs = [client.post("/v1/jobs", json=recipe(f"noted-{i}")).json()["id"] for i in range(2)]
    notes.rename(moved)
    notes.touch()
    for each in jobs:
        client.delete(f"/v1/jobs/{each}")
    try:
        refused = client.post("/v1/jobs", json=recipe("noted"))
        assert (refused.status_code, refused.json()["code"]) == (503, "storage-failed")
        until(lambda: "jobs" in client.get("/v2/health/ready").json())
    finally:
        notes.unlink()
        moved.rename(notes)
    until(lambda: client.get("/v2/health/ready").json() == {"ready": True})
    assert client.post("/v1/jobs", json=recipe("noted")).status_code == 202


def test_the_list_comes_in_pages(client: httpx.Client) -> None:
    ids = [client.post("/v1/jobs", json=recipe(f"page-{i}")).json()["id"] for i in range(3)]
    for each in reversed(ids):
        client.delete(f"/v1/jobs/{each}")
    seen, path = [], "/v1/jobs?limit=2"
    while path:
        page = client.get(path).json()
        assert 1 <= len(page["jobs"]) <= 2
        seen += [job["id"] for job in page["jobs"]]
        path = page["next"]
    assert seen[:3] == ids[::-1]
    assert len(seen) == len(set(seen))
    assert seen == [job["id"] for job in client.get("/v1/jobs?limit=1000").json()["jobs"]]
    for query, status in (("limit=0", 422), ("limit=1001", 422), ("limit=x", 422), ("before=none", 404)):
        assert client.get(f"/v1/jobs?{query}").status_code == status


def test_many_hear_of_one_job(client: httpx.Client, root: Path) -> None:
    job_id = client.post("/v1/jobs", json=recipe("heard")).json()["id"]

    async def listen(many: httpx.AsyncClient) -> str:
        return (await many.get(f"/v1/jobs/{job_id}/events")).text

    async def gather() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=client.base_url, timeout=240, limits=limits) as many:
            return await asyncio.gather(*(listen(many) for _ in range(100)))

    texts = asyncio.run(gather())
    assert len(texts) == 100
    assert all(text.rpartition("event: ")[2].startswith("completed\ndata: {") for text in texts)
    assert client.get(f"/v1/jobs/{job_id}/events").text.startswith("event: completed\n")


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/report")])
def test_a_job_that_is_none_is_not_found(client: httpx.Client, method: str, path: str) -> None:
    answer = client.request(method, f"/v1/jobs/none{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "job-not-found"


@pytest.mark.slow
def test_a_service_that_ends_interrupts_its_job_and_the_next_one_resumes_it(
    serve: Serving, tmp_path: Path, make_checkpoint: Any, files: Any
) -> None:
    make_checkpoint(tmp_path / "root" / "in", 6)
    wide = recipe("out", rules=[{"tensors": r".*weight", "sparsity": 0.5, "norm": "l1,l1"}])
    with opened(serve, tmp_path / "log.txt", jobs_roots=tmp_path / "root") as client:
        job = client.post("/v1/jobs", json=wide).json()
        while not (job["ended"] or job["progress"].get("shards_done")):
            time.sleep(0.02)
            job = client.get(f"/v1/jobs/{job['id']}").json()
    with opened(serve, tmp_path / "log.txt", jobs_roots=tmp_path / "root") as client:
        before = client.get(f"/v1/jobs/{job['id']}").json()
        assert before["state"] in ("interrupted", "completed")
        again = client.post("/v1/jobs", json=wide).json()
        assert again["id"] != job["id"]
        assert ended(client, again["id"])["state"] == "completed"
        straight = client.post("/v1/jobs", json=wide | {"output": "straight"}).json()
        ended(client, straight["id"])
    assert files(tmp_path / "root" / "out") == files(tmp_path / "root" / "straight")


def test_a_service_without_folders_takes_no_jobs(serve: Serving, tmp_path: Path) -> None:
    with opened(serve, tmp_path / "log.txt") as client:
        answer = client.post("/v1/jobs", json=recipe("out"))
        assert answer.status_code == 422
        assert "this service runs no jobs" in answer.json()["detail"]
        assert client.get("/v1/jobs").json() == {"jobs": [], "next": None}
