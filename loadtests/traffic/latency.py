"""Latency against offered rate, from nearly idle to three times what the service can do.

Two services are loaded. The first may hold 256 MiB of tensors and lets 16 requests wait: small tensors never fill that,
so that all that is offered beyond its capacity waits, and large ones do, so that it refuses the rest (503). The second
bounds the rate of each client to 0.8 of that capacity, as an operator would, and refuses what is beyond it (429).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

from tools.service import Service, running

from traffic.flows import Flow, large, small

GENERATOR = Path(__file__).with_name("openloop.py")
# Of the capacity: up to saturation, and three times beyond.
SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 3.0)
BOUNDED_SHARES = (0.5, 0.7, 0.8, 1.0, 1.5, 2.0, 3.0)
BURST_S, REST_S, GRACE_S = 3.0, 1.0, 5.0
LEAST_SENT = 60
SETTINGS = {"arena_bytes": 2**28, "queue_limit": 16}
BOUND_SHARE = 0.8


def measure(seconds: float, shares: Sequence[float], say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Measure the curves of a small and of a large tensor, and of a small one where the rate is bounded.

    Args:
        seconds: of each rate.
        shares: of the capacity that are offered.
        say: is told how far it is.
    """
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt"), SETTINGS) as service:
        found = [curve(service, flow, seconds, shares, say) for flow in (small(), large())]
    capacity = found[0]["capacity_per_s"]
    settings = {**SETTINGS, "key_rate_per_s": BOUND_SHARE * capacity}
    with tempfile.TemporaryDirectory() as folder, running(Path(folder, "log.txt"), settings) as service:
        few = [share for share in shares if share in BOUNDED_SHARES]
        bounded = curve(service, small(), seconds, few, say, capacity)
    return [*found, {**bounded, "name": "small, rate bounded", "bound_per_s": BOUND_SHARE * capacity}]


def curve(
    service: Service,
    flow: Flow,
    seconds: float,
    shares: Sequence[float],
    say: Callable[[str], None] = print,
    capacity: float | None = None,
) -> dict[str, Any]:
    """Find what the service can do of one request, unless that is given; then offer shares and multiples of that."""
    with tempfile.TemporaryDirectory() as folder:
        body, expected = Path(folder, "body"), Path(folder, "expected")
        body.write_bytes(flow.body)
        expected.write_bytes(flow.answer or b"")
        command = [sys.executable, str(GENERATOR), "--url", service.url + flow.path]
        command += ["--body", str(body), "--expect", str(expected)]

        def run(*options: str) -> dict[str, Any]:
            done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
            found: dict[str, Any] = json.loads(done.stdout)
            return found

        run("--closed", "4", "--seconds", "1")  # warm
        capacity = capacity or run("--closed", "4", "--seconds", str(BURST_S))["goodput_per_s"]
        rates = []
        for share in shares:
            rate = share * capacity
            say(f"{flow.name}, {share:g} of {capacity:.0f}/s")
            sleep(REST_S)
            lasts = max(seconds, min(4 * seconds, LEAST_SENT / rate))
            timed = ("--rate", f"{rate:.3f}", "--seconds", f"{lasts:.2f}", "--grace", str(GRACE_S))
            rates.append({"share": share, "seconds": lasts, **run(*timed)})
    return {"name": flow.name, "path": flow.path, "body_bytes": len(flow.body), "capacity_per_s": capacity,
            "rates": rates}  # fmt: skip
