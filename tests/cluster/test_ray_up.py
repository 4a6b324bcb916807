"""`ray up` YAMLs: what Ray itself accepts, and what must not be open to the world."""

from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.files import CLUSTER, document, pinned

CLOUDS = ("aws/cluster.yaml", "gcp/cluster.yaml")
ALL = (*CLOUDS, "on-premises/cluster.yaml")


@pytest.mark.parametrize("name", ALL)
def test_ray_accepts_it(name: str) -> None:
    validate_config(prepare_config(document(name)))


@pytest.mark.parametrize("name", ALL)
def test_a_misspelt_key_would_be_refused(name: str) -> None:
    config = document(name) | {"max_workres": 3}
    with pytest.raises(jsonschema.ValidationError, match="max_workres"):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("name", ALL)
def test_every_node_wants_the_token_and_the_dashboard_stays_on_loopback(name: str) -> None:
    config = document(name)
    options = config.get("docker", {}).get("run_options", [])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in " ".join([*options, *commands])
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", CLOUDS)
def test_no_machine_has_a_public_address_or_an_open_port(name: str) -> None:
    config = document(name)
    assert config["provider"]["use_internal_ips"] is True
    assert config["auth"]["ssh_proxy_use_node_id"] is True
    text = (CLUSTER / name).read_text()
    for word in ("0.0.0.0", "accessConfigs:", "AssociatePublicIpAddress", "IpPermissions"):
        assert word not in text


def test_aws_gets_no_group_and_no_role_of_rays_own() -> None:
    """Ray's group lets the world reach SSH, its role has all of EC2 and S3."""
    for kind in document("aws/cluster.yaml")["available_node_types"].values():
        node = kind["node_config"]
        assert "IamInstanceProfile" in node
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert node.get("SecurityGroupIds") or all(
            one["Groups"] and one["SubnetId"] for one in node["NetworkInterfaces"]
        )


def test_aws_workers_have_an_efa_device_on_every_card() -> None:
    interfaces = document("aws/cluster.yaml")["available_node_types"]["h100"]["node_config"][
        "NetworkInterfaces"
    ]
    assert [one["NetworkCardIndex"] for one in interfaces] == list(range(32))
    assert [one["InterfaceType"] for one in interfaces] == ["efa"] + ["efa-only"] * 31


def test_the_head_is_started_in_the_subnet_that_is_said() -> None:
    """Ray takes ``SubnetIds`` and, where it is missing, one of the default network."""
    nodes = document("aws/cluster.yaml")["available_node_types"]
    head, worker = nodes["head"]["node_config"], nodes["h100"]["node_config"]
    assert "SubnetId" not in head
    assert head["SubnetIds"] == [worker["NetworkInterfaces"][0]["SubnetId"]]
    assert not {"SubnetIds", "SecurityGroupIds"} & set(worker)


def test_workers_containers_see_the_gpus() -> None:
    """``python:slim`` names none, without which NVIDIA's runtime gives none."""
    for name in CLOUDS:
        assert "--gpus all" in document(name)["docker"]["worker_run_options"]
    assert (
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        in (CLUSTER / "image" / "Dockerfile").read_text()
    )


@pytest.mark.parametrize("name", CLOUDS)
def test_a_machine_logs_in_where_its_image_lies(name: str) -> None:
    config = document(name)
    registry = config["docker"]["image"].partition("/")[0]
    assert any(registry in line for line in config["initialization_commands"])


def test_google_machines_start_from_a_disk_that_h100_machines_take() -> None:
    config = document("gcp/cluster.yaml")
    zone = config["provider"]["availability_zone"]
    for kind in config["available_node_types"].values():
        (disk,) = kind["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


def spot(node: dict[str, Any]) -> bool:
    aws = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
    return aws or node.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_are_spot_machines_that_leave_in_time_and_the_head_is_not(name: str) -> None:
    config = document(name)
    nodes = {name: kind["node_config"] for name, kind in config["available_node_types"].items()}
    assert {name for name, node in nodes.items() if spot(node)} == {"h100"}
    assert config["head_node_type"] == "head"
    assert any("rushes-spot-watch" in line for line in config["worker_start_ray_commands"])
    assert not any("rushes-spot-watch" in line for line in config["head_start_ray_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_machines_that_nobody_uses_end_by_themselves(name: str) -> None:
    config = document(name)
    assert config["idle_timeout_minutes"] <= 10
    assert all(not kind["min_workers"] for kind in config["available_node_types"].values())


@pytest.mark.parametrize("name", CLOUDS)
def test_containers_reap_and_the_image_has_our_ray(name: str) -> None:
    docker = document(name)["docker"]
    assert "--init" in docker["run_options"]
    assert docker["image"].endswith(f"/rushes:{pinned('ray')}")


def test_on_premises_starts_its_workers_with_the_autoscaler_that_can() -> None:
    config = document("on-premises/cluster.yaml")
    (head,) = config["head_start_ray_commands"]
    assert "RAY_enable_autoscaler_v2=0" in head
    assert f"--node-ip-address={config['provider']['head_ip']}" in head
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    for source in config["file_mounts"].values():
        assert source.startswith("~") or (CLUSTER.parent / source).exists()


def test_on_premises_the_head_finds_ray_as_ray_down_looks_for_it() -> None:
    commands = document("on-premises/cluster.yaml")["setup_commands"]
    assert any(
        "PATH=$HOME/rushes/.venv/bin:$PATH" in one and one.endswith(">> ~/.bashrc")
        for one in commands
    )
