"""Results as data: a measured point with its rounds and its timing, and files that are whole or not there."""

import csv
import io
import json
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results"

CSV_FIELDS = (
    "scaling", "engine", "workers", "norm", "dtype", "shape", "nbytes", "rounds",
    "wall_ms", "wall_lower_ms", "wall_upper_ms", "serial_ms", "speedup", "speedup_lower", "speedup_upper",
    "efficiency", "floor_ms", "predicted_ms", "work_ms", "span_ms", "overhead_ms", "bytes_moved",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One engine with so many workers on one tensor.

    Args:
        scaling: ``strong`` (the tensor is the same for all workers) or ``weak`` (it grows with them).
        nbytes: of the tensor.
        walls_ms: of the rounds, in order.
        serials_ms: of the serial reference in the same rounds: strong, of the same tensor; weak, of one worker's part.
        floor_ms: what as many threads need to read as many bytes twice and write them once, by plain loops.
        predicted_ms: what the plan said beforehand.
        timing: of the round with the middle wall, in the service's schema.
    """

    scaling: str
    nbytes: int
    walls_ms: tuple[float, ...]
    serials_ms: tuple[float, ...]
    floor_ms: float
    predicted_ms: float
    timing: Mapping[str, Any]

    @property
    def wall_ms(self) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile of the walls."""
        return quartiles(self.walls_ms)

    @property
    def speedups(self) -> tuple[float, float, float]:
        """The same of the rounds' speed-ups; for weak scaling, of the work done in the time of one worker."""
        grown = self.workers if self.scaling == "weak" else 1
        return quartiles([grown * s / w for s, w in zip(self.serials_ms, self.walls_ms, strict=True)])

    @property
    def workers(self) -> int:
        return int(self.timing["workers"])

    @property
    def engine(self) -> str:
        return str(self.timing["engine"])

    @property
    def norm(self) -> str:
        return str(self.timing["norm"])

    def row(self) -> dict[str, object]:
        """The point as a line of the CSV file."""
        lower, wall, upper = self.wall_ms
        less, speedup, more = self.speedups
        taken = {
            "scaling": self.scaling, "engine": self.engine, "workers": self.workers, "norm": self.norm,
            "dtype": self.timing["dtype"], "shape": "x".join(map(str, self.timing["shape"])), "nbytes": self.nbytes,
            "rounds": len(self.walls_ms), "wall_ms": wall, "wall_lower_ms": lower, "wall_upper_ms": upper,
            "serial_ms": statistics.median(self.serials_ms), "speedup": speedup, "speedup_lower": less,
            "speedup_upper": more, "efficiency": speedup / self.workers, "floor_ms": self.floor_ms,
            "predicted_ms": self.predicted_ms,
            **{name: self.timing[name] for name in ("work_ms", "span_ms", "overhead_ms", "bytes_moved")},
        }  # fmt: skip
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in taken.items()}

    def as_dict(self) -> dict[str, Any]:
        """The point as plain values, for JSON."""
        return {
            "scaling": self.scaling,
            "nbytes": self.nbytes,
            "walls_ms": [round(wall, 4) for wall in self.walls_ms],
            "serials_ms": [round(wall, 4) for wall in self.serials_ms],
            "floor_ms": round(self.floor_ms, 4),
            "predicted_ms": round(self.predicted_ms, 4),
            "timing": self.timing,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "Point":
        """Read back what `as_dict` gave."""
        return cls(
            plain["scaling"], plain["nbytes"], tuple(plain["walls_ms"]), tuple(plain["serials_ms"]),
            plain["floor_ms"], plain["predicted_ms"], plain["timing"],
        )  # fmt: skip


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile; of a single value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, middle, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, middle, upper


def csv_text(rows: Iterable[Mapping[str, object]], fields: Sequence[str]) -> str:
    """Write rows as CSV, a header line first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def write_json(path: Path, plain: Mapping[str, object]) -> None:
    """Write JSON: a line for every member, and one for every member of a list in it, so that two runs can be diffed."""
    lines = []
    for name, value in plain.items():
        if isinstance(value, list) and value:
            items = ",\n  ".join(json.dumps(item) for item in value)
            lines.append(f" {json.dumps(name)}: [\n  {items}\n ]")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    write(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read results; None where there are none yet."""
    if not path.exists():
        return None
    plain: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return plain


def write(path: Path, text: str) -> None:
    """Write a file beside, and then into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as beside:
        beside.write(text)
    os.chmod(beside.name, 0o644)
    os.replace(beside.name, path)
