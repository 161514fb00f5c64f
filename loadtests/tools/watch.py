"""What a service holds while it is loaded: memory, segments and descriptors of all its processes, from /proc."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import getloadavg
from pathlib import Path
from statistics import median
from time import monotonic

PERIOD_S = 0.5
MIB = 2**20
SAMPLES = 1000  # of a long run
JOB, DRIVER = "normtree.jobs.child", "normtree.engine.cluster.driver"
# What may grow and still be called flat. Allocators keep some memory. The pool of segments holds what the busiest
# moment needed, and a busier one may come late; every segment is a few descriptors. A leak of one a request would be
# thousands.
MEMORY_SLACK, MEMORY_SLACK_MIB, SEGMENT_SLACK, DESCRIPTOR_SLACK = 0.05, 48.0, 12, 64


@dataclass(frozen=True)
class Sample:
    """What all processes of a service held at one moment.

    A job's process comes and goes with the job: it counts among the processes, but what it holds is left out.

    Args:
        at_s: seconds since the watch began.
        anonymous_mib: memory of their own, shared memory not counted.
        segments: pieces of shared memory.
        segments_mib: their size.
        descriptors: open files and sockets.
        processes: how many there were.
    """

    at_s: float
    anonymous_mib: float
    segments: int
    segments_mib: float
    descriptors: int
    processes: int


def tree(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            found += [int(child) for child in _text(children).split()]
    return found


def command(pid: int) -> str:
    """The command line of a process, or what it calls itself; empty when it is gone."""
    return _text(Path(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()


def ray_workers(pid: int) -> list[int]:
    """Ray's worker processes below a process, its own agents left out."""
    named = [(each, command(each)) for each in tree(pid)]
    return [each for each, name in named if name.startswith("ray::") and not name.endswith("Agent")]


def raylets(pid: int) -> list[int]:
    """Ray's node processes below a process."""
    return [each for each in tree(pid) if Path(command(each).partition(" ")[0]).name == "raylet"]


def ray_parts(pid: int) -> dict[str, int]:
    """The driver below a service and the processes of its Ray, by name; of workers one."""
    return {_name(command(each)): each for each in tree(pid) if session_of(each) not in (session_of(pid), 0)}


def session_of(pid: int) -> int:
    """The session of a process; 0 when it has ended."""
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[3]) if fields and fields[0] not in "ZX" else 0


def load_average() -> list[float]:
    """The machine's load over one, five and fifteen minutes."""
    return [round(each, 2) for each in getloadavg()]


def _name(line: str) -> str:
    """What a process is called: by its title, its script or its program."""
    words = line.split() or [""]
    if DRIVER in line:
        return "driver"
    name = next((word for word in words[:3] if word.endswith(".py")), words[0])  # later ones are arguments
    return Path(name.removeprefix("ray::")).stem


def sample(pid: int, at_s: float) -> Sample:
    """Look at a service once."""
    pids = tree(pid)
    lasting = [each for each in pids if JOB not in command(each)]
    segments = [size for path in Path("/dev/shm").glob(f"normtree-{pid}-*") if (size := _size(path)) is not None]
    return Sample(
        at_s=round(at_s, 2),
        anonymous_mib=round(sum(_anonymous(each) for each in lasting) / MIB, 1),
        segments=len(segments),
        segments_mib=round(sum(segments) / MIB, 1),
        descriptors=sum(_count(Path(f"/proc/{each}/fd")) for each in lasting),
        processes=len(pids),
    )


class Watch:
    """Samples a service twice a second until told to stop."""

    def __init__(self, pid: int, period_s: float = PERIOD_S) -> None:
        self.samples: list[Sample] = []
        self._pid, self._period_s = pid, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._start_s = monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait(self, seconds: float) -> None:
        """Let so much time pass."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self.samples.append(sample(self._pid, monotonic() - self._start_s))


@dataclass(frozen=True)
class Growth:
    """What a service held in the second fifth of a run, and in the last."""

    what: str
    early: float
    late: float
    allowed: float

    @property
    def flat(self) -> bool:
        return self.late - self.early <= self.allowed


def growth(samples: Sequence[Sample]) -> list[Growth]:
    """Compare the second fifth of a run, when it is warm, with the last.

    Raises:
        ValueError: fewer than ten samples tell nothing.
    """
    if len(samples) < 10:
        raise ValueError(f"samples: wanted at least 10, got {len(samples)}")
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]

    def of(what: str, slack: float) -> Growth:
        before, after = (median(_column(part, what)) for part in (early, late))
        return Growth(what, before, after, slack)

    memory = max(MEMORY_SLACK_MIB, MEMORY_SLACK * median(_column(early, "anonymous_mib")))
    slack = {"anonymous_mib": memory, "segments": SEGMENT_SLACK, "descriptors": DESCRIPTOR_SLACK, "processes": 1}
    return [of(what, allowed) for what, allowed in slack.items()]


def _column(samples: Iterable[Sample], name: str) -> list[float]:
    return [float(getattr(each, name)) for each in samples]


def _anonymous(pid: int) -> int:
    for line in _text(Path(f"/proc/{pid}/status")).splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _count(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
