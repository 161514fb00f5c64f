"""Batch jobs as a load: run, killed, resumed, and every output compared with that of a job that was left alone."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import monotonic

import numpy as np
from safetensors.numpy import save_file

JOB_S = 120


@dataclass
class JobTally:
    """What became of the jobs; ``lost`` names each that did not end in the right bytes."""

    done: int = 0
    killed: int = 0
    lost: list[str] | None = None

    def as_dict(self) -> dict[str, object]:
        """Counts as plain values, for JSON."""
        return {**asdict(self), "lost": self.lost or []}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of noise in shards, and a recipe that takes half the rows out of each tensor.

    Args:
        folder: that holds the input, ``in``.
        output: where the recipe writes.
    """

    folder: Path
    output: Path

    @classmethod
    def make(cls, folder: Path, shards: int, shard_bytes: int, output: Path | None = None) -> "Checkpoint":
        """Write the input and the recipe."""
        source = folder / "in"
        source.mkdir(parents=True)
        for number in range(shards):
            shape = (shard_bytes // 4 // 1024, 1024)
            y = np.random.default_rng(number).standard_normal(shape, dtype=np.float32)
            save_file({f"layer.{number}.weight": y}, source / f"part-{number}.safetensors")
        made = cls(folder, output or folder / "out")
        rule = 'tensors = ".*"\nnorm = "l1,linf"\nsparsity = 0.5'
        made.recipe.write_text(f'input = "{source}"\noutput = "{made.output}"\n[[rules]]\n{rule}\n')
        return made

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    def digests(self, folder: Path) -> dict[str, str]:
        """Digest of every shard in a folder."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}

    def clear(self) -> None:
        """Remove the output and what the job keeps of itself."""
        for folder in (self.output, self.output.with_name(self.output.name + ".normtree")):
            shutil.rmtree(folder, ignore_errors=True)

    def start(self, *options: str, before: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Start the job in a process group of its own."""
        command = [*before, sys.executable, "-m", "normtree.cli", "job", "run", str(self.recipe), *options]
        return subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, *options: str) -> str:
        """Run the job to its end; return what it complained of, empty where it did not fail."""
        process = self.start(*options)
        _, complaint = process.communicate(timeout=JOB_S)
        return complaint.strip() or f"status {process.returncode}" if process.returncode else ""


def kill(process: "subprocess.Popen[str]") -> bool:
    """SIGKILL a job's process group; tell whether it was still running."""
    running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return running


class JobLoad:
    """Runs one job after the other on a thread, kills every other one at some moment, and resumes it.

    Args:
        folder: for the checkpoint.
        shards: of it.
        shard_bytes: of each.
        pause_s: rest between two jobs.
    """

    def __init__(self, folder: Path, shards: int = 2, shard_bytes: int = 1 << 22, pause_s: float = 0.0) -> None:
        self.tally = JobTally()
        self._pause_s = pause_s
        self._checkpoint = Checkpoint.make(folder, shards, shard_bytes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "JobLoad":
        self._complaint = self._checkpoint.run("--engine", "inline")
        self._right = self._checkpoint.digests(self._checkpoint.output)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        random, lost = Random(0), [self._complaint] if self._complaint else []
        while not self._stop.is_set():
            self._checkpoint.clear()
            if random.random() < 0.5:
                process, end_s = self._checkpoint.start("--engine", "inline"), monotonic() + random.uniform(0.5, 4)
                while process.poll() is None and monotonic() < end_s:
                    self._stop.wait(0.02)
                self.tally.killed += kill(process)
            complaint = self._checkpoint.run("--engine", "inline")
            if complaint or self._checkpoint.digests(self._checkpoint.output) != self._right:
                lost.append(complaint or "other bytes than the job that was left alone")
            else:
                self.tally.done += 1
            self._stop.wait(self._pause_s)
        self.tally.lost = lost
