"""The Grafana dashboard: every metric that it asks for is exported, and the other way round."""

import json
import re
from typing import Any

import pytest

from orchestrator.cascade.goodput_rows import CATEGORIES, USEFUL
from orchestrator.launch.meters import METRICS, RANK_CATEGORIES, Kind, Metric
from tests.cluster.files import CLUSTER, document, documents

DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana" / "rushes.json").read_text())
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
PANELS = [one for one in DASHBOARD["panels"] if one["type"] != "row"]
NAME = re.compile(r"\b(ray_rushes_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)=~?"([^"]*)"')


def exported(metric: Metric) -> str:
    """A metric's name at Ray's endpoint."""
    return f"ray_{metric.name}{'_total' if metric.kind is Kind.COUNTER else ''}"


EXPORTED = {exported(one): one for one in METRICS}


def expressions() -> list[str]:
    queries = [one["query"]["query"] for one in VARIABLES.values() if one["type"] == "query"]
    return [*(target["expr"] for one in PANELS for target in one["targets"]), *queries]


def test_it_asks_for_what_is_exported_and_shows_all_of_it() -> None:
    asked = {name for text in expressions() for name, _ in NAME.findall(text)}
    assert asked == set(EXPORTED)


@pytest.mark.parametrize("text", expressions())
def test_it_asks_for_labels_and_categories_that_there_are(text: str) -> None:
    found = NAME.findall(text)
    assert found
    for name, labels in found:
        pairs = LABEL.findall(labels)
        assert {label for label, _ in pairs} <= set(EXPORTED[name].tags)
        per_rank = "rank" in EXPORTED[name].tags
        for label, value in pairs:
            if label == "category":
                assert set(value.split("|")) <= set(RANK_CATEGORIES if per_rank else CATEGORIES)


def test_goodput_is_of_the_same_categories_as_everywhere() -> None:
    (panel,) = [one for one in PANELS if one["title"] == "Goodput of the last half hour"]
    (target,) = panel["targets"]
    assert f'category=~"{"|".join(USEFUL)}"' in target["expr"]


@pytest.mark.parametrize("panel", PANELS, ids=lambda one: one["title"])
def test_a_panel_asks_the_chosen_prometheus_about_the_chosen_run(panel: dict[str, Any]) -> None:
    assert VARIABLES["datasource"]["query"] == "prometheus"
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        for _, labels in NAME.findall(target["expr"]):
            assert 'run="$run"' in labels
        for variable in re.findall(r"\$(\w+)", target["expr"]):
            assert variable in VARIABLES


def test_panels_have_a_place_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ["kuberay/raycluster.yaml", "kuberay/rayjob.yaml"])
def test_prometheus_finds_the_metrics_of_every_pod(name: str) -> None:
    monitor, policy = documents("kuberay/podmonitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (rule,) = policy["spec"]["ingress"]
    (way,) = rule["ports"]
    tree = document(name)
    spec = tree["spec"] if tree["kind"] == "RayCluster" else tree["spec"]["rayClusterSpec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        assert ports[endpoint["port"]] == way["port"] == 8080  # KubeRay's own for metrics
        assert monitor["metadata"]["namespace"] == tree["metadata"]["namespace"]
