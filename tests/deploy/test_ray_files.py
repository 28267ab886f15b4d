"""deploy/ray/*.yaml: Ray reads them, the clouds' own models know every field, and they hold what docs promise."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

FOLDER = Path(__file__).parents[2] / "deploy" / "ray"
NAMES = ("aws", "gcp", "local")
CLOUDS = ("aws", "gcp")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return content


def head_start(config: dict[str, Any]) -> str:
    return " ".join(config["head_start_ray_commands"])


@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_file(name: str) -> None:
    prepared = prepare_config(read(name))
    validate_config(prepared)
    assert prepared["cluster_name"] == "sparring"


@pytest.mark.parametrize("name", CLOUDS)
def test_the_file_as_it_stands_meets_rays_schema(name: str) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(read(name), schema)


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_have_a_head_a_trainer_on_demand_and_workers_on_spot(name: str) -> None:
    config = prepare_config(read(name))
    types = config["available_node_types"]
    assert config["head_node_type"] == "head" and types["head"]["max_workers"] == 0
    assert (types["trainer"]["min_workers"], types["trainer"]["max_workers"]) == (0, 1)
    assert types["worker"]["min_workers"] == 0 and types["worker"]["max_workers"] >= 16
    assert config["max_workers"] >= types["trainer"]["max_workers"] + types["worker"]["max_workers"]
    assert all(f"sparring_{kind}" in each["resources"] for kind, each in types.items())
    assert "spot" in json.dumps(types["worker"]["node_config"]).lower()
    assert "spot" not in json.dumps([types["head"], types["trainer"]]).lower()
    assert any("--shm-size" in option for option in config["docker"]["run_options"])


@pytest.mark.parametrize("name", NAMES)
def test_rays_objects_fit_into_shared_memory(name: str) -> None:
    config = read(name)
    for commands in (head_start(config), " ".join(config["worker_start_ray_commands"])):
        (size,) = re.findall(r"ray start .*--object-store-memory=(\d+)", commands)
        assert 1e9 <= int(size) <= 2e9
        for option in config.get("docker", {"run_options": []})["run_options"]:
            if shm := re.fullmatch(r"--shm-size=(\d+)g", option):
                assert int(size) < int(shm[1]) * 2**30


@pytest.mark.parametrize("name", CLOUDS)
def test_the_machine_images_driver_is_new_enough_for_the_pinned_torch(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    images = re.findall(r"(?:ImageId|sourceImage): (.+)", text)
    assert "river >= 580" in text and images
    assert all(
        image.endswith("-nvidia-580") or image.removeprefix("&machine_image ") in ("AMI", "*machine_image")
        for image in images
    )
    types = read(name)["available_node_types"].values()
    nodes = [each["node_config"] for each in types]
    assert len({node.get("ImageId") or node["disks"][0]["initializeParams"]["sourceImage"] for node in nodes}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_redis_has_a_port_of_its_own_and_ray_exports_its_metrics(name: str) -> None:
    config = read(name)
    assert "serve-queue --detach --port 6380" in head_start(config)
    for commands in (head_start(config), " ".join(config["worker_start_ray_commands"])):
        assert "--metrics-export-port=8080" in commands
    assert "--dashboard-host=127.0.0.1" in head_start(config)
    assert "password" not in head_start(config)
    assert config["idle_timeout_minutes"] > 0
    assert ".git" in config["rsync_exclude"]


def test_ray_and_python_on_hosts_of_ones_own_are_those_of_the_tests() -> None:
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text().splitlines()
    assert f"ray=={ray.__version__}" in constraints
    assert "python3.11" in (FOLDER / "install.sh").read_text()
    assert "bash ~/sparring/ray/install.sh" in read("local")["setup_commands"]


def test_a_misspelt_setting_is_found() -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**read("aws"), "idle_timeout_minuts": 5}))


@pytest.mark.parametrize("kind", ["head", "trainer", "worker"])
def test_ec2_knows_every_field_of_a_node(kind: str) -> None:
    import boto3
    from botocore.validate import ParamValidator

    client = boto3.client("ec2", region_name="us-east-1", aws_access_key_id="none", aws_secret_access_key="none")
    request = {"MinCount": 1, "MaxCount": 1, **read("aws")["available_node_types"][kind]["node_config"]}
    shape = client.meta.service_model.operation_model("RunInstances").input_shape
    report = ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("kind", ["head", "trainer", "worker"])
def test_compute_engine_knows_every_field_of_a_node(kind: str) -> None:
    import googleapiclient

    documents = Path(googleapiclient.__file__).parent / "discovery_cache" / "documents"
    schemas: dict[str, Any] = json.loads((documents / "compute.v1.json").read_text())["schemas"]
    check_discovery(
        read("gcp")["available_node_types"][kind]["node_config"], schemas["Instance"], schemas, "node_config"
    )


def check_discovery(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> None:
    """Hold a value against a schema of Google's discovery document: no field that it does not name."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if schema["type"] == "object" and "properties" in schema:
        assert isinstance(value, dict), f"{where} must be an object"
        unknown = set(value) - set(schema["properties"])
        assert not unknown, f"{where} has unknown fields {unknown}"
        for name, inner in value.items():
            check_discovery(inner, schema["properties"][name], schemas, f"{where}.{name}")
    elif schema["type"] == "array":
        assert isinstance(value, list), f"{where} must be a list"
        for inner in value:
            check_discovery(inner, schema["items"], schemas, f"{where}[]")
    elif schema["type"] == "string":
        assert isinstance(value, str | int), f"{where} must be a string"
        assert "enum" not in schema or value in schema["enum"], f"{where} = {value} is none of {schema['enum']}"
    elif schema["type"] == "boolean":
        assert isinstance(value, bool), f"{where} must be a flag"


@pytest.mark.parametrize("name", NAMES)
def test_every_node_asks_for_the_token(name: str) -> None:
    config = read(name)
    if name in CLOUDS:
        (options,) = (each for each in config["docker"]["run_options"] if "RAY_AUTH" in each)
        assert options == "-e RAY_AUTH_MODE=token -e RAY_AUTH_TOKEN_PATH=/mnt/sparring/ray-token"
        return
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    for commands in (head_start(config), " ".join(config["worker_start_ray_commands"])):
        assert re.search(r"export [^;&]*RAY_AUTH_MODE=token.*ray start", commands)
    assert "export RAY_AUTH_MODE=token" in (FOLDER / "install.sh").read_text()


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_makes_a_token_that_its_user_alone_reads_and_keeps_it(name: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"\{ test -s .*?; \}", head_start(read(name)))
    made = []
    for _ in range(2):
        path = tmp_path / "ray-token"
        subprocess.run(["bash", "-ec", command], env={**os.environ, "RAY_AUTH_TOKEN_PATH": str(path)}, check=True)
        made.append(path.read_text())
        assert path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"[0-9a-f]{64}\n", made[0]) and made[0] == made[1]
