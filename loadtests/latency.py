"""Latency against offered rate, from nearly idle to three times what the service can do."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import Any

from flows import Flow, large, small
from service import Service

GENERATOR = Path(__file__).with_name("openloop.py")
# Of the capacity: up to saturation, and three times beyond.
SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
BURST_S, REST_S, GRACE_S = 3.0, 1.0, 8.0
LEAST_SENT = 60


def measure(service: Service, seconds: float, shares: Sequence[float] = SHARES) -> list[dict[str, Any]]:
    """Measure the curves of a small and of a large tensor, each rate for so many seconds."""
    return [curve(service, flow, seconds, shares) for flow in (small(), large())]


def curve(service: Service, flow: Flow, seconds: float, shares: Sequence[float]) -> dict[str, Any]:
    """Find what the service can do of one request, then offer shares and multiples of that."""
    with tempfile.TemporaryDirectory() as folder:
        body, expected = Path(folder, "body"), Path(folder, "expected")
        body.write_bytes(flow.body)
        expected.write_bytes(flow.answer or b"")
        command = [sys.executable, str(GENERATOR), "--url", service.url + flow.path]
        command += ["--body", str(body), "--expect", str(expected)]

        def run(*options: str) -> dict[str, Any]:
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        run("--closed", "4", "--seconds", "1")  # warm
        capacity = run("--closed", "4", "--seconds", str(BURST_S))["goodput_per_s"]
        rates = []
        for share in shares:
            sleep(REST_S)
            rate = share * capacity
            lasts = max(seconds, min(4 * seconds, LEAST_SENT / rate))
            timed = ("--rate", f"{rate:.3f}", "--seconds", f"{lasts:.2f}", "--grace", str(GRACE_S))
            rates.append({"share": share, **run(*timed)})
    return {"name": flow.name, "path": flow.path, "body_bytes": len(flow.body), "capacity_per_s": capacity,
            "seconds": seconds, "rates": rates}  # fmt: skip
