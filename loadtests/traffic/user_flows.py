"""Runs the user flows under Locust and reads what it found."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tools.service import Service

from traffic.served_jobs import ServedCheckpoint

USERS = Path(__file__).parents[1] / "users.py"
STOP_S = 60
METHOD = (
    "Locust, users who each send about five requests a second and wait for each answer, but for one, who posts jobs, "
    "follows each over server-sent events to its end and compares what it wrote. Every answer is checked, and a wrong "
    "request that is not refused as it should be is a failure."
)


def measure(service: Service, root: Path, users: int, seconds: float) -> dict[str, Any]:
    """Let so many users come for a while, one of whom posts jobs.

    Args:
        service: that runs.
        root: folder that its jobs may use.
        users: at once.
        seconds: how long.
    """
    ServedCheckpoint.make(root)
    command = [sys.executable, "-m", "locust", "-f", str(USERS), "--headless", "--json", "--loglevel", "WARNING"]
    command += ["-u", str(users), "-r", str(users), "-t", f"{seconds:.0f}s", "-H", service.url]
    command += ["--jobs-root", str(root)]
    done = subprocess.run(
        [*command, "--exit-code-on-error", "0"], capture_output=True, text=True, timeout=seconds + STOP_S, check=True
    )
    flows = [_flow(plain, seconds) for plain in json.loads(done.stdout)]
    return {"method": f"{users} users for {seconds:.0f} s. {METHOD}", "flows": flows}


def _flow(plain: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """One flow's counts and percentiles; Locust keeps a histogram of times, rounded as they grow."""
    times = sorted((float(ms), count) for ms, count in plain["response_times"].items())
    values = np.repeat([ms for ms, _ in times], [count for _, count in times])
    p50, p90, p99 = (float(cut) for cut in np.quantile(values, (0.5, 0.9, 0.99)))
    return {
        "name": plain["name"],
        "requests": plain["num_requests"],
        "failures": plain["num_failures"],
        "per_s": plain["num_requests"] / seconds,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "worst_ms": float(plain["max_response_time"]),
    }
