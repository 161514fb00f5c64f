"""Two hosts with a wire between them: what crosses is a small share of the tensor."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "loadtests"))

from hosts.nodes import PORT, _environment, cluster
from hosts.wire import missing, wire

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

DRIVER = Path(__file__).with_name("wire_driver.py")


def test_norms_and_radii_cross_and_the_tensor_does_not() -> None:
    if lacks := missing():
        pytest.skip(lacks)
    with tempfile.TemporaryDirectory(prefix="nt", dir="/tmp") as folder, wire() as made, cluster(made, Path(folder)):
        command = made.command(0, sys.executable, str(DRIVER), f"{made.addresses[0]}:{PORT}")
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["equal"]
    assert found["nodes"] == 2
    assert found["share"] <= 0.01
