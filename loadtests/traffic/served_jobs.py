"""Jobs that a service runs: posted, followed over server-sent events to their end, every output compared.

What is right is made here by the library, tensor by tensor, and not by another job.
"""

import json
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import load_file, save_file

import normtree_kernels as nk

INPUT, NORM, SPARSITY = "served-in", "l1,linf", 0.5
STATE_SUFFIX = ".normtree"
TIMEOUT_S = 120


@dataclass(frozen=True)
class ServedCheckpoint:
    """A checkpoint in one of the folders of a service, and what each job on it must write.

    Args:
        root: folder of the service (`jobs_roots`).
    """

    root: Path

    @classmethod
    def make(cls, root: Path, shards: int = 2, shard_bytes: int = 1 << 20) -> "ServedCheckpoint":
        """Write the input."""
        (root / INPUT).mkdir(parents=True)
        for number in range(shards):
            y = np.random.default_rng(number).standard_normal((shard_bytes // 4 // 512, 512), dtype=np.float32)
            save_file({f"layer.{number}.weight": y}, root / INPUT / f"part-{number}.safetensors")
        return cls(root)

    @cached_property
    def right(self) -> Mapping[str, bytes]:
        """The projected tensors, by name."""
        return {
            name: nk.project(y, NORM, sparsity=SPARSITY).tobytes()
            for path in (self.root / INPUT).glob("*.safetensors")
            for name, y in load_file(path).items()
        }

    def recipe(self, output: str) -> dict[str, Any]:
        """What to post for a job that writes to a folder of that name."""
        return {"input": INPUT, "output": output, "rules": [{"tensors": ".*", "norm": NORM, "sparsity": SPARSITY}]}

    def complaint(self, output: str, event: str, told: Mapping[str, Any]) -> str:
        """Say what is wrong with a job that has ended; empty where nothing is. Its output is removed."""
        try:
            if event != "completed":
                return f"wanted the event completed, got {event!r}: {told.get('error')}"
            found = {
                name: x.tobytes()
                for path in (self.root / output).glob("*.safetensors")
                for name, x in load_file(path).items()
            }
            return "" if found == self.right else f"other bytes than the library's in {sorted(found)}"
        finally:
            for name in (output, output + STATE_SUFFIX):
                shutil.rmtree(self.root / name, ignore_errors=True)


def last_event(lines: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """Read server-sent events until the service ends them; return the last one's name and data."""
    name, event, told = "", "", {}
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            event, told = name, json.loads(line.removeprefix("data: "))
    return event, told


@dataclass
class ServedTally:
    """What became of the jobs; ``lost`` names each that was not taken, or did not end in the right bytes."""

    done: int = 0
    lost: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Counts as plain values, for JSON."""
        return asdict(self)


class ServedJobs:
    """Has a service run one job after the other, on a thread, until told to stop.

    Args:
        url: of the service.
        root: one of its folders.
        pause_s: rest between two jobs.
    """

    def __init__(self, url: str, root: Path, pause_s: float = 0.0) -> None:
        self.tally = ServedTally()
        self._url, self._pause_s = url, pause_s
        self._checkpoint = ServedCheckpoint.make(root)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "ServedJobs":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S) as client:
            number = 0
            while not self._stop.is_set():
                output, number = f"served-{number}", number + 1
                try:
                    complaint = self._one(client, output)
                except httpx.TransportError as error:
                    complaint = f"{output}: {error!r}"
                if complaint:
                    self.tally.lost.append(complaint)
                else:
                    self.tally.done += 1
                self._stop.wait(self._pause_s)

    def _one(self, client: httpx.Client, output: str) -> str:
        taken = client.post("/v1/jobs", json=self._checkpoint.recipe(output))
        if taken.status_code != 202:
            return f"{output}: {taken.status_code} {taken.text[:200]}"
        with client.stream("GET", f"{taken.headers['location']}/events") as stream:
            return self._checkpoint.complaint(output, *last_event(stream.iter_lines()))
