"""Jobs on Ray: the same bytes as on threads, on two nodes, when a worker dies, and as a submitted job."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from normtree.errors import InvalidTensor
from normtree.jobs import run
from normtree.jobs.open_places import Places, open_places
from normtree.jobs.plan import job_plan as job_plan
from normtree.jobs.run import JobOptions, run_job
from normtree.jobs.storage.local import LocalFolder, LocalReader

INLINE = JobOptions(workers=2, engine="inline")
RAY = JobOptions(engine="ray")
RULES = (
    "tensors = '.*(up|down)\\.weight'\nsparsity = 0.7\nscope = 'global'",
    "tensors = '.*(half|conv|wide)\\.weight'\nnorm = 'l1,l2'\nsparsity = 0.3",
)
DEATHS = 2
HANG_S = 240  # less than a test has: beyond that all tests of its process would end with it
pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut tensors of the tests' size as if they were large."""
    monkeypatch.setattr(job_plan, "LEAST_TASK_BYTES", 1 << 13)


def test_two_nodes_write_what_one_process_writes_and_reach_the_share_over_all_shards(
    tmp_path: Path, make_checkpoint: Any, make_recipe: Any, files: Any, cluster: Any, small_tasks: None
) -> None:
    make_checkpoint(tmp_path / "in", 4)
    outcome = run_job(make_recipe(tmp_path / "in", tmp_path / "ray", *RULES), RAY)
    assert (outcome.summary["nodes"], outcome.summary["workers"]) == (2, 2)
    run_job(make_recipe(tmp_path / "in", tmp_path / "one", *RULES), INLINE)
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    together = [facts for facts in outcome.facts if facts.rule == 0]
    assert len({facts.shard for facts in together}) == 4
    groups, zero = (sum(getattr(facts, name)[0] for facts in together) for name in ("groups", "zero_groups"))
    assert (groups, zero) == (2000, 1400)


@pytest.mark.kills
def test_a_worker_that_dies_costs_one_more_attempt(
    tmp_path: Path,
    checkpoint: Path,
    make_recipe: Any,
    files: Any,
    cluster: Any,
    small_tasks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import a test
    monkeypatch.setattr(run, "open_places", lambda recipe, roots: deadly(open_places(recipe, roots), tmp_path))
    run_job(make_recipe(checkpoint, tmp_path / "ray", *RULES), RAY)
    monkeypatch.undo()
    run_job(make_recipe(checkpoint, tmp_path / "one", *RULES), INLINE)
    assert len(list(tmp_path.glob("killed-*"))) == DEATHS
    assert files(tmp_path / "ray") == files(tmp_path / "one")


def deadly(places: Places, marks: Path) -> Places:
    return replace(places, source=Deadly(places.source.url, None, str(marks)))


@dataclass(frozen=True)
class Deadly(LocalFolder):
    """A folder in which the first workers that read a shard are killed, each in the middle of its task."""

    marks: str = ""

    @contextmanager
    def reader(self, name: str) -> Iterator[LocalReader]:
        with super().reader(name) as reader:
            yield reader
            if os.environ.get("RAY_WORKER_MODE") or "ray::" in Path("/proc/self/cmdline").read_text():
                self._kill_once()

    def _kill_once(self) -> None:
        for death in range(DEATHS):
            try:
                (Path(self.marks) / f"killed-{death}").touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_task_raises_is_told_in_our_words(
    tmp_path: Path, checkpoint: Path, make_recipe: Any, cluster: Any
) -> None:
    shard = sorted(checkpoint.glob("*.safetensors"))[2]
    data = bytearray(shard.read_bytes())
    data[-400:] = b"\xff" * 400
    shard.write_bytes(bytes(data))
    with pytest.raises(InvalidTensor, match="every element must be finite"):
        run_job(make_recipe(checkpoint, tmp_path / "out", "tensors = '.*weight'\nsparsity = 0.1"), RAY)


def submit(address: str, program: str, *arguments: str) -> str:
    """Submit a program of this environment and return what it printed; one that hangs fails its test, with its words.

    `ray job submit` waits for the job's end, and Ray for a quarter of an hour for its beginning.
    """
    ray_, program = (str(Path(sys.executable).with_name(name)) for name in ("ray", program))
    command = [ray_, "job", "submit", "--address", address, "--", program, *arguments]
    end_s = monotonic() + HANG_S
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as submitting:
            try:
                shown, _ = submitting.communicate(timeout=max(0.0, end_s - monotonic()))
            except subprocess.TimeoutExpired:
                submitting.kill()
                pytest.fail(f"{command} did not end within {HANG_S} s:\n{submitting.communicate()[0]}")
        if "No available agent" not in shown:  # a node's agent starts after the node
            assert submitting.returncode == 0, shown
            return shown
        sleep(1)


def test_the_job_is_submitted_to_a_cluster_as_the_readme_says(
    tmp_path: Path, checkpoint: Path, make_recipe: Any, files: Any, cluster: str
) -> None:
    rules = "\n".join(f"[[rules]]\n{rule}" for rule in RULES)
    (tmp_path / "recipe.toml").write_text(f"input = 'in'\noutput = 'out'\n{rules}")
    shown = submit(f"http://{cluster}", "normtree", "job", "run", str(tmp_path / "recipe.toml"), "--address", "auto")
    assert "2 workers on ray, 2 nodes; tasks run again: not counted;" in shown
    run_job(make_recipe(checkpoint, tmp_path / "one", *RULES), INLINE)
    assert files(tmp_path / "out") == files(tmp_path / "one")
