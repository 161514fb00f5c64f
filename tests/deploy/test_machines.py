"""What starts a cluster on bare machines: Ray's cluster file, systemd's units, the firewall."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

INSTALLED = "/opt/normtree/bin"
UNITS = ("normtree-ray-head", "normtree-ray-node", "normtree")
LARGEST_EXPOSURE = 16  # tenths, of systemd's own scale of ten


def ray_ports(command: str) -> dict[str, int]:
    return {name: int(port) for name, port in re.findall(r"--([a-z-]*port)=(\d+)", command)}


def unit(deploy: Path, name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    text = (deploy / "systemd" / f"{name}.service").read_text().replace("\\\n", " ")
    parser.read_string(text)
    return parser


def test_ray_takes_its_cluster_file(read_yaml: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.autoscaler._private.util import prepare_config, validate_config
    config = read_yaml("ray", "cluster.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "setup_comands": []}, schema)


def test_ray_is_started_with_a_token_in_a_file_of_its_owner(read_yaml: Any) -> None:
    config = read_yaml("ray", "cluster.yaml")
    (token,) = config["file_mounts"]
    assert f"chmod 0600 {token}" in config["setup_commands"]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        stop, start = config[key]
        assert stop == f"{INSTALLED}/ray stop"
        assert start.startswith(f"RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token} ")


def test_machines_use_the_same_ports_whoever_starts_them(read_yaml: Any, deploy: Path, compose: dict[str, Any]) -> None:
    config = read_yaml("ray", "cluster.yaml")
    heads = [
        config["head_start_ray_commands"][1],
        unit(deploy, "normtree-ray-head")["Service"]["ExecStart"],
        " ".join(compose["services"]["head"]["command"]),
    ]
    nodes = [
        config["worker_start_ray_commands"][1],
        unit(deploy, "normtree-ray-node")["Service"]["ExecStart"],
        " ".join(compose["services"]["worker"]["command"]),
    ]
    assert ray_ports(heads[0]) == ray_ports(heads[1]) == ray_ports(heads[2])
    assert ray_ports(nodes[0]) == ray_ports(nodes[1]) == ray_ports(nodes[2])
    assert ray_ports(nodes[0]).items() <= ray_ports(heads[0]).items()
    assert all("--dashboard-host=127.0.0.1" in head for head in heads)


def test_firewall_shuts_every_port_of_ray(deploy: Path) -> None:
    text = (deploy / "systemd" / "firewall.nft").read_text()
    (shut,) = re.findall(r"tcp dport \{ ([^}]*) \} drop", text)
    ranges = [[int(end) for end in part.strip().split("-")] for part in shut.split(",")]
    ports = ray_ports(unit(deploy, "normtree-ray-head")["Service"]["ExecStart"]).values()
    assert all(any(low[0] <= port <= low[-1] for low in ranges) for port in ports)
    if not shutil.which("nft"):
        pytest.skip("nft is not installed: the rules' syntax was not checked")
    checked = subprocess.run(
        ["nft", "--check", "--file", str(deploy / "systemd" / "firewall.nft")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "Operation not permitted" in checked.stderr:
        pytest.skip("nft may not be used here: the rules' syntax was not checked")
    assert checked.returncode == 0, checked.stderr


@pytest.fixture(scope="module")
def units(deploy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The units, with the programs where they are on this machine."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    folder = tmp_path_factory.mktemp("units")
    here = str(Path(sys.executable).parent)
    for path in (deploy / "systemd").glob("*.service"):
        (folder / path.name).write_text(path.read_text().replace(INSTALLED, here))
    assert {path.stem for path in folder.iterdir()} == set(UNITS)
    return sorted(folder.iterdir())


def test_systemd_verifies_the_units(units: list[Path]) -> None:
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_units_are_hardened(name: str, units: list[Path]) -> None:
    path = next(path for path in units if path.stem == name)
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={LARGEST_EXPOSURE}", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout


def test_units_agree_with_their_environment(deploy: Path) -> None:
    lines = (deploy / "systemd" / "normtree.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given["RAY_AUTH_MODE"] == "token"
    assert given["NORMTREE_RAY_ADDRESS"] == given["HEAD_ADDRESS"]
    for name in UNITS:
        service = unit(deploy, name)["Service"]
        assert service["EnvironmentFile"] == "/etc/normtree/normtree.env"
        assert set(re.findall(r"\$\{(\w+)\}", service["ExecStart"])) <= given.keys()
        assert service["IPAddressDeny"] == "any"
        assert service["User"] == "normtree"
    assert int(unit(deploy, "normtree")["Service"]["TimeoutStopSec"]) > int(given["NORMTREE_DRAIN_S"])


def test_user_has_the_images_number(deploy: Path, dockerfile: list[tuple[str, str]]) -> None:
    (line,) = re.findall(r"^u normtree (\d+)", (deploy / "systemd" / "normtree.sysusers.conf").read_text(), re.M)
    assert f"{line}:{line}" in [rest for word, rest in dockerfile if word == "USER"]
