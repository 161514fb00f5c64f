"""The application that KubeRay's RayService names: its configuration is Serve's, and it answers with the right bits."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import normtree_kernels as nk
from normtree.keys.key import new_key
from normtree.processes.ending import ending_with_us
from normtree.processes.starting import free_port

# A process of its own: Ray is started once a process, and Serve brings its warnings.
RUN = """
import importlib, json, os, sys
import httpx, ray
from ray import serve

config, body = json.loads(sys.argv[1]), open(sys.argv[2], "rb").read()
application = config["applications"][0]
ray.init(address="local", num_cpus=2, object_store_memory=2**28, include_dashboard=False, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[3])})
module, name = application["import_path"].split(":")
serve.run(getattr(importlib.import_module(module), name), route_prefix=application["route_prefix"])
url = f"http://127.0.0.1:{sys.argv[3]}/v1/project?norm=l1,linf&radius=2"
kind = {"Content-Type": "application/x-npy"}
refused = httpx.post(url, content=body, headers=kind, timeout=60)
answer = httpx.post(url, content=body, headers={**kind, "Authorization": "Bearer " + os.environ["KEY"]}, timeout=60)
assert httpx.get(f"http://127.0.0.1:{sys.argv[3]}/-/healthz", timeout=60).status_code == 200
open(sys.argv[4], "wb").write(answer.content)
serve.shutdown()
ray.shutdown()
print(json.dumps({"refused": refused.status_code, "answered": answer.status_code,
                  "timing": answer.headers.get("x-normtree-timing")}))
"""


@pytest.fixture(scope="module")
def configuration(kubernetes: list[dict[str, Any]]) -> dict[str, Any]:
    (service,) = (item for item in kubernetes if item["kind"] == "RayService")
    found: dict[str, Any] = yaml.safe_load(service["spec"]["serveConfigV2"])
    return found


CHECK = """
import json, sys
from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

def check(config):
    ServeDeploySchema.model_validate(config)
    application = config["applications"][0]
    for given, schema in (  # Serve passes over what it does not know
        (config, ServeDeploySchema), (config["http_options"], HTTPOptionsSchema),
        (application, ServeApplicationSchema), (application["deployments"][0], DeploymentSchema),
    ):
        if unknown := given.keys() - schema.model_fields.keys():
            raise ValueError(f"unknown: {unknown}")

told = []
for config in json.loads(sys.argv[1]):
    try:
        check(config)
        told.append("")
    except ValueError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def test_serve_takes_the_configuration_and_no_other(configuration: dict[str, Any]) -> None:
    misspelt, empty = {**configuration, "proxy_locations": "x"}, {**configuration, "applications": [{}]}
    command = [sys.executable, "-W", "ignore", "-c", CHECK, json.dumps([configuration, misspelt, empty])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    right, unknown, missing = json.loads(done.stdout)
    assert right == ""
    assert unknown == "unknown: {'proxy_locations'}"
    assert "import_path" in missing


@pytest.mark.slow
def test_the_application_answers_whoever_has_a_key(configuration: dict[str, Any], tmp_path: Path) -> None:
    y = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)  # more than one message of Serve's
    source, target = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(source, y)
    secret, key = new_key("test")
    (tmp_path / "keys").write_text(f"{key}\n")
    environment = {
        **os.environ, "KEY": secret, "NORMTREE_KEYS_FILE": str(tmp_path / "keys"), "NORMTREE_WORKERS": "2",
        "NORMTREE_ARENA_BYTES": str(2**26), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }  # fmt: skip
    before = set(Path("/dev/shm").glob("normtree-*"))
    port = str(free_port())
    command = [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(configuration), str(source), port, str(target)]
    done = subprocess.run(
        ending_with_us(command),
        env=environment, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["refused"], told["answered"]) == (401, 200)
    assert json.loads(told["timing"])["engine"] == "inline"
    x = np.load(io.BytesIO(target.read_bytes()), allow_pickle=False)
    np.testing.assert_array_equal(x, nk.project(y, "l1,linf", 2.0))
    left = {path for path in set(Path("/dev/shm").glob("normtree-*")) - before if owner_is_gone(path)}
    assert not left


def owner_is_gone(segment: Path) -> bool:
    """Tell whether a segment is nobody's: others on this machine have theirs."""
    return not Path(f"/proc/{segment.name.split('-')[1]}").exists()
