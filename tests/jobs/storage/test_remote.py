"""Jobs over URLs: an S3 server on loopback that knows ranges, parts and conditional writes; and memory."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from normtree.errors import InvalidRecipe, JobConflict, StorageFailed
from normtree.jobs.plan import job_plan as job_plan
from normtree.jobs.run import JobOptions, run_job
from normtree.jobs.storage import remote

moto_server = pytest.importorskip("moto.server", reason="moto, of the dev extra, is not installed")
s3fs = pytest.importorskip("s3fs", reason="s3fs, of the s3 extra, is not installed")

INLINE = JobOptions(workers=2, engine="inline")
RULES = (
    "tensors = '.*(up|down)\\.weight'\nsparsity = 0.7\nscope = 'global'",
    "tensors = '.*(half|conv|wide)\\.weight'\nnorm = 'l1,l2'\nsparsity = 0.3",
)
BUCKET = "s3://models"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Start a server, have jobs find it as they find any, by the environment, and return a client."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patched.setenv("AWS_ACCESS_KEY_ID", "key")
        patched.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield s3fs.S3FileSystem()
    server.stop()


@pytest.fixture
def store(client: Any) -> Iterator[Any]:
    """Return a client of a server with an empty bucket."""
    client.mkdir("models")
    yield client
    client.invalidate_cache()
    client.rm("models", recursive=True)


def objects(store: Any, folder: str) -> dict[str, bytes]:
    store.invalidate_cache()
    return {path.removeprefix(f"{folder}/"): store.cat_file(path) for path in store.find(folder)}


@pytest.fixture
def uploaded(store: Any, checkpoint: Path) -> Path:
    store.put(str(checkpoint), "models/in", recursive=True)
    return checkpoint


def test_from_s3_to_s3_the_bytes_are_those_of_local_files(
    uploaded: Path, store: Any, tmp_path: Path, make_recipe: Any, files: Any
) -> None:
    before = objects(store, "models/in")
    outcome = run_job(make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES), INLINE)
    run_job(make_recipe(uploaded, tmp_path / "local", *RULES), INLINE)
    assert objects(store, "models/out") == files(tmp_path / "local")
    assert objects(store, "models/in") == before
    assert outcome.state_url == f"{BUCKET}/out.normtree"
    assert len(outcome.facts) == 15


@pytest.mark.parametrize("way", ["up", "down"])
def test_one_end_may_be_local(
    uploaded: Path, store: Any, tmp_path: Path, make_recipe: Any, files: Any, way: str
) -> None:
    run_job(make_recipe(uploaded, tmp_path / "local", *RULES), INLINE)
    if way == "up":
        run_job(make_recipe(uploaded, f"{BUCKET}/out", *RULES), INLINE)
        assert objects(store, "models/out") == files(tmp_path / "local")
    else:
        run_job(make_recipe(f"{BUCKET}/in", tmp_path / "out", *RULES), INLINE)
        assert files(tmp_path / "out") == files(tmp_path / "local")


def test_files_are_read_by_ranges_and_written_in_parts(
    store: Any, tmp_path: Path, make_recipe: Any, make_checkpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    monkeypatch.setattr(remote, "PART_BYTES", 6 << 20)  # S3 wants 5 MiB at least
    y = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    save_file({"w": y}, tmp_path / "big.safetensors")
    store.put_file(str(tmp_path / "big.safetensors"), "models/big.safetensors")
    rule = "tensors = 'w'\nsparsity = 0.5"
    recipe = make_recipe(f"{BUCKET}/big.safetensors", f"{BUCKET}/small.safetensors", rule)
    run_job(recipe, JobOptions(workers=2, engine="inline", memory_bytes=16 << 20))
    run_job(make_recipe(tmp_path / "big.safetensors", tmp_path / "small.safetensors", rule), INLINE)
    assert store.cat_file("models/small.safetensors") == (tmp_path / "small.safetensors").read_bytes()
    assert store.info("models/small.safetensors")["ETag"].strip('"').endswith("-3")  # as S3 marks three parts


@pytest.mark.parametrize("rule", ["norm = 'l1,l1'\nrelative_radius = 0.3", "relative_radius = 0.2\nexact = true"])
def test_columns_are_split_in_the_order_of_the_file(
    store: Any, tmp_path: Path, make_recipe: Any, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    y = np.random.default_rng(0).standard_normal((6145, 7)).astype(np.float32)
    save_file({"w": y}, tmp_path / "in.safetensors")
    store.put_file(str(tmp_path / "in.safetensors"), "models/in.safetensors")
    rule = f"tensors = 'w'\naxes = '1,0'\n{rule}"
    run_job(make_recipe(tmp_path / "in.safetensors", tmp_path / "whole.safetensors", rule), INLINE)
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 15)
    recipe = make_recipe(f"{BUCKET}/in.safetensors", f"{BUCKET}/out.safetensors", rule)
    outcome = run_job(recipe, JobOptions(workers=2, engine="inline", memory_bytes=1 << 20))
    assert {"up", "round", "down"} <= {stint["kind"] for stint in outcome.stints}
    assert store.cat_file("models/out.safetensors") == (tmp_path / "whole.safetensors").read_bytes()


def test_what_fails_half_way_shows_nothing_and_resumes(
    uploaded: Path, store: Any, tmp_path: Path, make_recipe: Any, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES)
    with monkeypatch.context() as patched:
        real, left = remote.RemoteSink.write, [12]

        def write(self: Any, start: int, data: memoryview) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise StorageFailed("the line is dead")
            real(self, start, data)

        patched.setattr(remote.RemoteSink, "write", write)
        with pytest.raises(StorageFailed, match="the line is dead"):
            run_job(recipe, INLINE)
    run_job(make_recipe(uploaded, tmp_path / "local", *RULES), INLINE)
    wanted = files(tmp_path / "local")
    assert all(wanted[name] == data for name, data in objects(store, "models/out").items())
    assert run_job(recipe, INLINE).resumed
    assert objects(store, "models/out") == wanted


def test_two_runs_on_one_output_refuse_each_other_and_a_dead_ones_lease_ends(
    uploaded: Path, store: Any, make_recipe: Any
) -> None:
    recipe = make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES)
    state = remote.RemoteState(f"{BUCKET}/out.normtree")
    with state.lock(), pytest.raises(JobConflict, match="another run is writing this output"):
        run_job(recipe, INLINE)
    dead = {"host": "elsewhere", "process": 1, "alive": time.time() - 1000}
    store.pipe_file("models/out.normtree/lease", json.dumps(dead).encode())
    assert run_job(recipe, INLINE).facts


def test_a_changed_object_is_not_resumed(uploaded: Path, store: Any, make_recipe: Any) -> None:
    recipe = make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES)
    run_job(recipe, INLINE)
    store.pipe_file("models/in/config.json", b'{"a": 1}')
    with pytest.raises(JobConflict, match=r"another input: config.json changed"):
        run_job(recipe, INLINE)


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["gone", "another"])
def test_an_object_that_is_gone_or_another_is_made_again_and_no_more(
    uploaded: Path, store: Any, make_recipe: Any, change: str, name: str
) -> None:
    recipe = make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES)
    run_job(recipe, INLINE)
    assert run_job(recipe, INLINE).was_completed
    wanted = objects(store, "models/out")
    times = {name: store.info(f"models/out/{name}")["LastModified"] for name in wanted}
    if change == "gone":
        store.rm_file(f"models/out/{name}")
    else:
        store.pipe_file(f"models/out/{name}", bytes(len(wanted[name])))
    time.sleep(1.1)  # the store tells whole seconds
    assert not run_job(recipe, INLINE).was_completed
    assert objects(store, "models/out") == wanted
    again = {name for name in wanted if store.info(f"models/out/{name}")["LastModified"] != times[name]}
    assert again == {name}


def test_a_state_that_goes_while_the_job_runs_ends_it(uploaded: Path, store: Any, make_recipe: Any) -> None:
    def remove(_: object) -> None:
        store.invalidate_cache()
        if store.exists("models/out.normtree/journal.jsonl"):
            store.rm_file("models/out.normtree/journal.jsonl")

    with pytest.raises(JobConflict, match=r"journal\.jsonl: removed or changed while the job ran"):
        run_job(make_recipe(f"{BUCKET}/in", f"{BUCKET}/out", *RULES), INLINE, remove)


@pytest.mark.parametrize(
    ("source", "target"),
    [("in", "in/out"), ("in/part", "in"), ("out.normtree", "out"), ("in/m.safetensors", "in")],
)
def test_an_output_that_overlaps_the_input_is_refused(
    uploaded: Path, store: Any, make_recipe: Any, source: str, target: str
) -> None:
    before = objects(store, "models/in")
    with pytest.raises(InvalidRecipe, match="wanted a place apart from the input"):
        run_job(make_recipe(f"{BUCKET}/{source}", f"{BUCKET}/{target}", *RULES), INLINE)
    assert objects(store, "models/in") == before


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("s3://none/in", StorageFailed, "s3://none/in"),
        ("nothing://x/in", InvalidRecipe, "Protocol not known: nothing"),
    ],
)
def test_a_url_that_leads_nowhere_is_told(
    store: Any, tmp_path: Path, make_recipe: Any, url: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_job(make_recipe(url, tmp_path / "out", *RULES), INLINE)
