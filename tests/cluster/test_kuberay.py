"""Kubernetes manifests: the schema of KubeRay v1.6.2, and what training asks of a pod."""

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from mlflow.server.security_utils import is_allowed_host_header

from orchestrator.launch.submit import STOP_WAIT_S
from orchestrator.recipe.load import read_recipe
from tests.cluster.files import CLUSTER, ROOT, document, documents, pinned

SCHEMA = Draft7Validator(
    yaml.safe_load((Path(__file__).parent / "kuberay-v1.6.2.schema.yaml").read_text())
)
RAY = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml")
ALL = tuple(f"kuberay/{path.name}" for path in sorted((CLUSTER / "kuberay").glob("*.yaml")))
SECRET = re.compile("KEY|TOKEN|PASSWORD|SECRET", re.IGNORECASE)


def cluster_of(tree: Any) -> Any:
    return tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]


def pods(tree: Any) -> list[Any]:
    cluster = cluster_of(tree)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def mappings(tree: Any) -> list[dict[str, Any]]:
    """Every mapping of a tree, itself included."""
    if isinstance(tree, list):
        return [one for item in tree for one in mappings(item)]
    if not isinstance(tree, dict):
        return []
    return [tree, *(one for value in tree.values() for one in mappings(value))]


def quantity(text: str) -> int:
    """Bytes of a quantity of memory."""
    return int(text[:-2]) * {"Gi": 1 << 30, "Ti": 1 << 40}[text[-2:]]


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(SCHEMA.schema)


@pytest.mark.parametrize("name", RAY)
def test_kuberay_accepts_it(name: str) -> None:
    assert [error.message for error in SCHEMA.iter_errors(document(name))] == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("rayVersion",), 2.6),
        (("rayVresion",), "2.60.0"),
        (("authOptions", "mode"), "tokens"),
        (("headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("headGroupSpec", "template", "spec", "containers", 0, "resources", "limits"), ["1Gi"]),
        (("headGroupSpec", "template", "spec", "terminationGracePeriodSecond"), 60),
        (("workerGroupSpecs", 0, "replicas"), "1"),
        (("workerGroupSpecs", 0, "template", "spec", "volumes", 0, "name"), "No_Name"),
    ],
)
@pytest.mark.parametrize("name", RAY)
def test_the_schema_refuses_what_a_server_would(
    name: str, place: tuple[str | int, ...], value: object
) -> None:
    tree = copy.deepcopy(document(name))
    node = cluster_of(tree)
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    assert not SCHEMA.is_valid(tree)


def test_nodes_that_stay_for_a_while_after_a_job_are_ended_by_it() -> None:
    tree = copy.deepcopy(document("kuberay/rayjob.yaml"))
    tree["spec"]["shutdownAfterJobFinishes"] = False
    assert not SCHEMA.is_valid(tree)


@pytest.mark.parametrize("name", RAY)
def test_a_pod_that_is_ended_has_time_to_save(name: str) -> None:
    roles: list[str] = []
    for pod in pods(document(name)):
        (container,) = pod["containers"]
        command, role, left = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command == "rushes-leave"
        assert int(left) >= STOP_WAIT_S
        assert pod["terminationGracePeriodSeconds"] >= int(left) + 30
        assert pod["shareProcessNamespace"] is True  # somebody must reap
        roles.append(role)
    assert roles == ["head", "worker"]


@pytest.mark.parametrize("name", RAY)
def test_every_pod_wants_the_token_and_runs_as_nobody(name: str) -> None:
    tree = document(name)
    assert cluster_of(tree)["authOptions"] == {"mode": "token", "secretName": "rushes-token"}
    assert cluster_of(tree)["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(tree):
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", RAY)
def test_the_cluster_runs_the_ray_that_we_pin(name: str) -> None:
    tree = document(name)
    assert cluster_of(tree)["rayVersion"] == pinned("ray")
    images = {container["image"] for pod in pods(tree) for container in pod["containers"]}
    assert images == {f"REGISTRY/rushes:{pinned('ray')}"}


@pytest.mark.parametrize("name", ALL)
def test_secrets_are_references(name: str) -> None:
    for tree in documents(name):
        assert tree["kind"] != "Secret"
        for one in mappings(tree):
            if SECRET.search(str(one.get("name", ""))) and "value" in one:
                pytest.fail(f"{name}: {one['name']} has its value in the file")


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_open_to_the_world(name: str) -> None:
    for tree in documents(name):
        assert tree["kind"] not in ("Ingress", "Gateway", "HTTPRoute")
        if tree["kind"] == "Service":
            assert tree["spec"].get("type", "ClusterIP") == "ClusterIP"
        if tree["kind"] == "NetworkPolicy":
            assert tree["spec"]["podSelector"] == {}
            for peer in (one for rule in tree["spec"]["ingress"] for one in rule["from"]):
                # Its own namespace, or one that is named: no addresses, and not all namespaces.
                named = peer.get("namespaceSelector", {}).get("matchLabels")
                assert peer == {"podSelector": {}} or named
                assert set(peer) <= {"podSelector", "namespaceSelector"}
        for one in mappings(tree):
            assert not {"hostNetwork", "hostPID", "hostPath", "nodePort"} & set(one)
            assert one.get("privileged") is not True


def test_a_retry_goes_on_with_the_same_run() -> None:
    spec = document("kuberay/rayjob.yaml")["spec"]
    assert spec["backoffLimit"] > 0
    words = shlex.split(spec["entrypoint"])
    assert words[:4] == ["python", "-m", "orchestrator", "train"]
    run = words[words.index("--run") + 1]
    assert run.startswith("s3://")
    assert spec["metadata"]["rushes.run"] == run
    overrides = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    recipe = read_recipe(ROOT / words[4], overrides=overrides)
    places = [source.uri for source in recipe.data.sources.values()]
    assert all(place.startswith("s3://BUCKET/") for place in places)  # none of the recipe's own
    env = yaml.safe_load(spec["runtimeEnvYAML"])
    assert int(env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) == STOP_WAIT_S


def test_a_queued_job_has_room_for_the_largest_stage_of_its_recipe() -> None:
    """A gang that does not fit waits for ever, beside GPUs that are paid for."""
    spec = document("kuberay/rayjob.yaml")["spec"]
    recipe = read_recipe(ROOT / shlex.split(spec["entrypoint"])[4], overrides=())
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    node = worker["resources"]["requests"]
    for stage in recipe.stages:
        compute = stage.compute
        gpus, cpus = compute.gpus_per_worker, compute.cpus_per_worker
        per_node = min(node["nvidia.com/gpu"] // (gpus or 1), int(node["cpu"]) // cpus)
        assert compute.ranks <= per_node * group["replicas"], stage.id


def test_a_queued_job_has_the_size_that_its_queue_admits() -> None:
    """Kueue counts a job's pods once; an autoscaler would change them."""
    spec = document("kuberay/rayjob.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    assert not cluster.get("enableInTreeAutoscaling")
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    queue = document("kuberay/rayjob.yaml")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    kueue = {tree["kind"]: tree for tree in documents("kuberay/kueue.yaml")}
    assert kueue["LocalQueue"]["metadata"]["name"] == queue
    (resources,) = kueue["ClusterQueue"]["spec"]["resourceGroups"]
    quota = {one["name"]: one["nominalQuota"] for one in resources["flavors"][0]["resources"]}
    (worker,) = group["template"]["spec"]["containers"]
    requests = worker["resources"]["requests"]
    assert requests["nvidia.com/gpu"] * group["replicas"] <= quota["nvidia.com/gpu"]
    assert int(requests["cpu"]) * group["replicas"] < quota["cpu"]
    assert quantity(requests["memory"]) * group["replicas"] < quantity(quota["memory"])
    assert set(worker["resources"]["requests"]) <= set(resources["coveredResources"])


def test_a_cluster_that_stays_grows_shrinks_and_survives_its_head() -> None:
    spec = document("kuberay/raycluster.yaml")["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] == 0 < group["maxReplicas"]
    host, _, port = spec["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    services = {
        tree["metadata"]["name"]: [one["port"] for one in tree["spec"]["ports"]]
        for tree in documents("kuberay/redis.yaml")
        if tree["kind"] == "Service"
    }
    assert services[host] == [int(port)]


def test_recipes_reach_mlflow_by_a_name_that_it_answers_to() -> None:
    (server,) = [one for one in documents("kuberay/mlflow.yaml") if one["kind"] == "Deployment"]
    (container,) = server["spec"]["template"]["spec"]["containers"]
    (allowed,) = [one["value"] for one in container["env"]]
    words = shlex.split(document("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    (uri,) = [word for word in words if word.startswith("tracking.uri=")]
    host = uri.rpartition("/")[2]
    assert is_allowed_host_header(allowed.split(","), host)
    assert is_allowed_host_header(allowed.split(","), "localhost:5000")
    assert not is_allowed_host_header(allowed.split(","), "evil.example:5000")
