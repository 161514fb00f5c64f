"""The compose file: its schema, what it publishes, and what its services share."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

GIB = 2**30
OURS = {"head", "worker", "api-node", "api"}


def test_fits_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = json.loads(files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validators.validator_for(schema)(schema).validate({**compose, "servces": {}})


def test_publishes_on_loopback_only_and_nothing_of_ray(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["target"] for port in ports} == {8000, 9090, 3000}


def test_services_are_closed(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert not service.get("privileged"), name


def test_ray_asks_for_a_token_everywhere(compose: dict[str, Any]) -> None:
    for name in OURS:
        environment = compose["services"][name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token", name
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray-token", name
        assert "ray-token" in compose["services"][name]["secrets"], name


def test_api_shares_all_of_its_node(compose: dict[str, Any]) -> None:
    api, node = compose["services"]["api"], compose["services"]["api-node"]
    assert {api[key] for key in ("network_mode", "ipc", "pid")} == {"service:api-node"}
    assert api["volumes"] == node["volumes"]
    assert node["ipc"] == "shareable"
    assert api["depends_on"]["api-node"]["condition"] == "service_healthy"


def test_shared_memory_holds_arena_and_store(compose: dict[str, Any]) -> None:
    node, api = compose["services"]["api-node"], compose["services"]["api"]
    arena = int(api["environment"]["NORMTREE_ARENA_BYTES"])
    assert int(node["shm_size"].removesuffix("g")) * GIB > 1.1 * (arena + 2**28)
    assert int(api["stop_grace_period"].removesuffix("s")) > int(api["environment"]["NORMTREE_DRAIN_S"])


def test_every_reference_is_defined(compose: dict[str, Any], deploy: Path) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("secrets", ())) <= compose["secrets"].keys(), name
        assert set(service.get("networks", ())) <= compose["networks"].keys(), name
        assert set(service.get("depends_on", ())) <= compose["services"].keys(), name
        for volume in service.get("volumes", ()):
            if volume["type"] == "volume":
                assert volume["source"] in compose["volumes"], name
            elif not volume["source"].startswith("$"):
                assert (deploy / volume["source"]).exists(), name
    used = {s["source"] for v in compose["services"].values() for s in v.get("volumes", ()) if s["type"] == "volume"}
    assert used == compose["volumes"].keys()


def test_image_is_built_from_here(compose: dict[str, Any], deploy: Path) -> None:
    for name in OURS:
        build = compose["services"][name]["build"]
        assert (deploy / build["context"] / build["dockerfile"]).resolve() == deploy / "Dockerfile"
        assert build["args"]["PYTHON_DIGEST"].startswith("${PYTHON_DIGEST:?")


def test_prometheus_scrapes_services_that_exist(compose: dict[str, Any], read_yaml: Any) -> None:
    config = read_yaml("prometheus", "prometheus.yaml")
    hosts: dict[str, dict[str, int]] = {}
    for job in config["scrape_configs"]:
        for static in job["static_configs"]:
            for target in static["targets"]:
                host, port = target.split(":")
                hosts.setdefault(job["job_name"], {})[host] = int(port)
        for names in job.get("dns_sd_configs", ()):
            hosts[job["job_name"]] |= dict.fromkeys(names["names"], names["port"])
    assert hosts["normtree"] == {"api-node": int(compose["services"]["api"]["environment"]["NORMTREE_PORT"])}
    assert hosts["ray"] == {"head": 6385, "api-node": 6385, "worker": 6385}
    assert hosts["ray"].keys() <= compose["services"].keys()


def test_grafana_finds_what_it_is_given(compose: dict[str, Any], read_yaml: Any, deploy: Path) -> None:
    (source,) = read_yaml("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = read_yaml("grafana", "provisioning", "dashboards", "normtree.yaml")["providers"]
    grafana = compose["services"]["grafana"]
    mounted = {volume["target"]: volume["source"] for volume in grafana["volumes"]}
    folder = deploy / mounted[provider["options"]["path"]]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    assert Path(home).parent == Path(provider["options"]["path"])
