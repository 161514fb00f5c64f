"""Kubernetes' manifests, checked as an API server with KubeRay's definitions would, and by rules of our own."""

import gzip
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from normtree.jobs.recipe import read_recipe

ROOT = Path(__file__).parents[2]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the definitions are 100,000 lines
VERSION = "1.33"
KUBERAY = ["RayCluster", "RayService", "RayJob", "RayCronJob"]
GIB = 2**30
UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def size(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def strict(schema: Any) -> Any:
    """Make a schema of a CRD refuse what an API server would: fields it does not know, too."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out = {
        key: {name: strict(part) for name, part in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
    }
    if "properties" in out and not out.get("x-kubernetes-preserve-unknown-fields"):
        out.setdefault("additionalProperties", False)
    return out


def with_defaults(value: Any, schema: dict[str, Any]) -> Any:
    """Drop nulls and fill in defaults, as an API server does before it validates."""
    if isinstance(value, list):
        return [with_defaults(part, schema.get("items", {})) for part in value]
    if not isinstance(value, dict):
        return value
    known = schema.get("properties", {})
    out = {key: with_defaults(part, known.get(key, {})) for key, part in value.items() if part is not None}
    for key, part in known.items():
        if key not in out and "default" in part:
            out[key] = with_defaults(deepcopy(part["default"]), part)
    return out


@pytest.fixture(scope="module")
def definitions() -> dict[str, dict[str, Any]]:
    """KubeRay's schemas by kind, of the version that is stored."""
    if not CRDS.is_dir():
        pytest.skip(f"KubeRay's definitions are not at {CRDS}")
    found = {}
    for path in CRDS.glob("*.yaml.gz"):
        spec = yaml.load(gzip.decompress(path.read_bytes()), LOADER)["spec"]
        (version,) = (entry for entry in spec["versions"] if entry["storage"])
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        found[spec["names"]["kind"]] = schema
    return found


def check(item: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> None:
    schema = definitions[item["kind"]]
    jsonschema.Draft202012Validator(strict(schema)).validate(with_defaults(item, schema))


def of_kind(items: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [item for item in items if item["kind"] == kind]


@pytest.mark.parametrize("kind", KUBERAY)
def test_kuberay_objects_fit_their_definitions(
    kind: str, kubernetes: list[dict[str, Any]], definitions: dict[str, dict[str, Any]]
) -> None:
    (item,) = of_kind(kubernetes, kind)
    assert item["apiVersion"] == "ray.io/v1"
    check(item, definitions)


@pytest.mark.parametrize("kind", KUBERAY)
def test_a_misspelt_field_is_found(
    kind: str, kubernetes: list[dict[str, Any]], definitions: dict[str, dict[str, Any]], inside: Any
) -> None:
    item = deepcopy(of_kind(kubernetes, kind)[0])
    next(value for value in inside(item) if isinstance(value, dict) and "containers" in value)["containrs"] = []
    with pytest.raises(jsonschema.ValidationError, match="containrs"):
        check(item, definitions)


def test_kubernetes_own_objects_fit_their_schemas(kubernetes: list[dict[str, Any]]) -> None:
    own = [item for item in kubernetes if not item["apiVersion"].startswith("ray.io/")]
    assert {item["kind"] for item in own} >= {"Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}
    for item in own:
        kubernetes_validate.validate(item, VERSION, strict=True)


def test_pods_inside_kuberay_objects_fit_kubernetes_schema(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        item = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod}
        assert kubernetes_validate.validate(item, VERSION, strict=True), name


def test_kustomization_builds(deploy: Path, kubernetes: list[dict[str, Any]]) -> None:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    built = subprocess.run(
        ["kubectl", "kustomize", str(deploy / "kubernetes")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    items = [item for item in yaml.safe_load_all(built.stdout) if item]
    by_name = {(item["kind"], item["metadata"]["name"]): item["spec"] for item in kubernetes if "spec" in item}
    assert {("RayCluster", "normtree"), ("Deployment", "api")} <= {(i["kind"], i["metadata"]["name"]) for i in items}
    for item in items:  # anchors and merges are understood the same way
        if "spec" in item:
            assert item["spec"] == by_name[item["kind"], item["metadata"]["name"]]


def test_pods_are_restricted(pods: dict[str, dict[str, Any]]) -> None:
    """Pod Security's level `restricted`, which the namespace enforces."""
    for name, pod in pods.items():
        whole = pod["securityContext"]
        assert (whole["runAsNonRoot"], whole["runAsUser"]) == (True, 10001), name
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            closed = container["securityContext"]
            assert closed["allowPrivilegeEscalation"] is False, name
            assert closed["capabilities"] == {"drop": ["ALL"]}, name
            assert "hostPort" not in str(container.get("ports")), name


def test_containers_say_what_they_take(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), name
            assert resources["limits"]["memory"], name


def test_what_serves_is_probed(pods: dict[str, dict[str, Any]]) -> None:
    for name, pod in pods.items():
        for container in pod["containers"]:
            if container["name"] != "submitter":
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), name
        for container in pod.get("initContainers", ()):
            assert {"startupProbe", "livenessProbe"} <= container.keys(), name


def test_probe_code_is_python(pods: dict[str, dict[str, Any]], inside: Any) -> None:
    codes = [
        value["command"][2]
        for value in inside(pods)
        if isinstance(value, dict) and value.get("command", [])[:2] == ["python", "-c"]
    ]
    assert codes
    for code in codes:
        compile(code, "probe", "exec")


def test_shared_memory_is_sized(pods: dict[str, dict[str, Any]]) -> None:
    """/dev/shm holds the arena and the object store with a tenth to spare, and counts as the pod's memory."""
    checked = 0
    for name, pod in pods.items():
        shm = [volume for volume in pod.get("volumes", ()) if volume["name"] == "shm"]
        if not shm:
            continue
        assert shm[0]["emptyDir"]["medium"] == "Memory", name
        containers = [*pod["containers"], *pod.get("initContainers", ())]
        for container in containers:
            assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"], name
        arena = max(environment_of(container).get("NORMTREE_ARENA_BYTES", 0) for container in containers)
        limit = size(shm[0]["emptyDir"]["sizeLimit"])
        assert limit >= 1.1 * (arena + 2**28), name
        assert sum(size(container["resources"]["limits"]["memory"]) for container in containers) > limit, name
        checked += 1
    assert checked >= 6


def environment_of(container: dict[str, Any]) -> dict[str, int]:
    return {
        entry["name"]: int(entry["value"]) for entry in container.get("env", ()) if entry.get("value", "").isdigit()
    }


def test_clusters_ask_for_a_token(kubernetes: list[dict[str, Any]], inside: Any) -> None:
    clusters = [value for value in inside(kubernetes) if isinstance(value, dict) and "headGroupSpec" in value]
    assert len(clusters) == 3
    assert all(cluster["authOptions"] == {"mode": "token"} for cluster in clusters)


def test_api_gets_the_token_that_the_operator_makes(kubernetes: list[dict[str, Any]]) -> None:
    (cluster,), (api,) = of_kind(kubernetes, "RayCluster"), of_kind(kubernetes, "Deployment")
    pod = api["spec"]["template"]["spec"]
    for container in [*pod["containers"], *pod["initContainers"]]:
        (token,) = (entry for entry in container["env"] if entry["name"] == "RAY_AUTH_TOKEN")
        assert token["valueFrom"]["secretKeyRef"] == {"name": cluster["metadata"]["name"], "key": "auth_token"}


def test_nothing_is_public(kubernetes: list[dict[str, Any]], inside: Any) -> None:
    assert not of_kind(kubernetes, "Ingress")
    assert all(item["spec"]["type"] == "ClusterIP" for item in of_kind(kubernetes, "Service"))
    heads = [value for value in inside(kubernetes) if isinstance(value, dict) and "rayStartParams" in value]
    assert all(head.get("serviceType", "ClusterIP") == "ClusterIP" for head in heads)


def test_network_is_shut_but_for_what_is_named(kubernetes: list[dict[str, Any]]) -> None:
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(kubernetes, "NetworkPolicy")}
    assert policies["deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy.get("ingress", ()):
            assert rule["from"], name
            outside = [peer for peer in rule["from"] if "namespaceSelector" in peer]
            if outside:  # from other namespaces only to named ports
                assert rule["ports"], name
            for peer in outside:
                assert peer["namespaceSelector"] or peer["podSelector"]["matchLabels"], name
    to_ray = [rule for rule in policies["ray"]["ingress"] if "ports" not in rule]
    assert to_ray == [{"from": [{"podSelector": {"matchLabels": {"normtree/ray": "node"}}}]}]


def test_policies_and_budgets_select_pods_that_exist(kubernetes: list[dict[str, Any]], inside: Any) -> None:
    labels = [
        value["metadata"]["labels"]
        for value in inside(kubernetes)
        if isinstance(value, dict) and "containers" in (value.get("spec") or {})
    ]
    kinds = {"NetworkPolicy": "podSelector", "PodDisruptionBudget": "selector", "Deployment": "selector"}
    for item in kubernetes:
        if item["kind"] in kinds:
            wanted = item["spec"][kinds[item["kind"]]].get("matchLabels", {})
            assert any(wanted.items() <= have.items() for have in labels), item["metadata"]["name"]
        if item["kind"] == "Service":
            assert any(item["spec"]["selector"].items() <= have.items() for have in labels)
    # Every pod of Ray is under the policy that shuts its ports.
    assert all(have.get("normtree/ray") in {"node", "submitter"} for have in labels)


def test_upgrade_loses_no_request(kubernetes: list[dict[str, Any]]) -> None:
    (api,) = of_kind(kubernetes, "Deployment")
    spec = api["spec"]
    pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + environment_of(container)["NORMTREE_DRAIN_S"]
    budgets = {item["metadata"]["name"]: item["spec"] for item in of_kind(kubernetes, "PodDisruptionBudget")}
    assert budgets["api"]["minAvailable"] < spec["replicas"]


def test_claims_and_secrets_are_named(kubernetes: list[dict[str, Any]], pods: dict[str, dict[str, Any]]) -> None:
    made = {item["metadata"]["name"] for item in kubernetes if item["kind"] in {"PersistentVolumeClaim", "ConfigMap"}}
    for name, pod in pods.items():
        for volume in pod.get("volumes", ()):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in made, name
            if "configMap" in volume:
                assert volume["configMap"]["name"] in made, name
            if "secret" in volume:  # by hand, as README.md says; readable by its owner alone
                assert volume["secret"] == {"secretName": "api-keys", "defaultMode": 0o400}, name


def test_the_recipe_is_one(kubernetes: list[dict[str, Any]], tmp_path: Path) -> None:
    (recipe,) = of_kind(kubernetes, "ConfigMap")
    path = tmp_path / "recipe.toml"
    path.write_text(recipe["data"]["recipe.toml"])
    read = read_recipe(path)
    assert read.input.startswith("/checkpoints/")
    assert read.output.startswith("/checkpoints/")
    (job,) = of_kind(kubernetes, "RayJob")
    assert job["spec"]["entrypoint"].split()[3] == f"/etc/normtree/{recipe['metadata']['name']}/recipe.toml"
