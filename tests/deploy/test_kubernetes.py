"""deploy/kubernetes/: every field is one that Kubernetes, the Prometheus operator, KubeRay and Ray know.

Kubernetes' and the Prometheus operator's fields come from packaged models, closed here. No package ships KubeRay's
schemas: its fields are held against the names below, and where SPARRING_KUBERAY_CRDS names a folder with its CRDs
(helm-chart/kuberay-operator/crds of its repository), against these, closed too.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
MODELS = {
    "Namespace": "kubernetes.core.v1",
    "PersistentVolumeClaim": "kubernetes.core.v1",
    "Service": "kubernetes.core.v1",
    "PodTemplateSpec": "kubernetes.core.v1",
    "Deployment": "kubernetes.apps.v1",
    "NetworkPolicy": "kubernetes.networking.v1",
    "PodMonitor": "prometheus_operator.v1",
    "PrometheusRule": "prometheus_operator.v1",
}
# KubeRay's API reference, ray.io/v1: the fields of each object that the files here use.
KUBERAY: dict[str, set[str]] = {
    "RayClusterSpec": {
        "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs",
        "authOptions", "headServiceAnnotations", "suspend", "managedBy", "gcsFaultToleranceOptions",
    },
    "AutoscalerOptions": {
        "resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "version",
        "env", "envFrom", "volumeMounts",
    },
    "HeadGroupSpec": {
        "template", "headService", "enableIngress", "rayStartParams", "serviceType", "resources", "labels",
    },
    "WorkerGroupSpec": {
        "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams", "template",
        "scaleStrategy", "numOfHosts", "suspend", "resources", "labels",
    },
    "RayJobSpec": {
        "entrypoint", "runtimeEnvYAML", "jobId", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata",
        "clusterSelector", "submitterConfig", "managedBy", "entrypointNumCpus",
        "entrypointNumGpus", "entrypointResources", "suspend", "submissionMode", "deletionStrategy",
    },
}  # fmt: skip


def documents() -> list[dict[str, Any]]:
    files = [path for path in sorted(FOLDER.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text())]


def one(kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents() if document["kind"] == kind)
    return found


def closed(schema: Any) -> Any:
    """The same schema without unknown fields wherever it names some."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {name: closed(value) for name, value in schema.items()}
    named = isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema
    if named and not schema.get("x-kubernetes-preserve-unknown-fields"):
        tight["additionalProperties"] = False
    return tight


@cache
def schema_of(kind: str) -> dict[str, Any]:
    model = getattr(import_module(f"cloudcoil.models.{MODELS[kind]}"), kind)
    schema: dict[str, Any] = closed(model.model_json_schema(by_alias=True))
    return schema


def check_against_model(value: dict[str, Any], kind: str) -> None:
    # Not jsonschema.validate: it refuses the whole schema for a pattern in Go's dialect, in a field not used here.
    jsonschema.Draft202012Validator(schema_of(kind)).validate(value)


def templates() -> list[dict[str, Any]]:
    spec = one("RayCluster")["spec"]
    return [group["template"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("kind", sorted(MODELS.keys() - {"PodTemplateSpec", "PrometheusRule"}))
def test_kubernetes_and_the_prometheus_operator_know_every_field(kind: str) -> None:
    check_against_model(one(kind), kind)


@pytest.mark.parametrize("number", range(3))
def test_kubernetes_knows_every_field_of_rays_pods(number: int) -> None:
    check_against_model(templates()[number], "PodTemplateSpec")


def test_a_field_that_does_not_exist_is_found() -> None:
    wrong = copy.deepcopy(templates()[0])
    wrong["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(jsonschema.ValidationError, match="resource"):
        check_against_model(wrong, "PodTemplateSpec")


def test_kuberay_knows_every_field_of_its_objects() -> None:
    spec = one("RayCluster")["spec"]
    assert set(spec) <= KUBERAY["RayClusterSpec"]
    assert set(spec["autoscalerOptions"]) <= KUBERAY["AutoscalerOptions"]
    assert set(spec["headGroupSpec"]) <= KUBERAY["HeadGroupSpec"]
    assert all(set(group) <= KUBERAY["WorkerGroupSpec"] for group in spec["workerGroupSpecs"])
    assert set(one("RayJob")["spec"]) <= KUBERAY["RayJobSpec"]


def test_ray_asks_for_a_token_that_kuberay_makes() -> None:
    assert one("RayCluster")["spec"]["authOptions"] == {"mode": "token"}


@pytest.mark.skipif("SPARRING_KUBERAY_CRDS" not in os.environ, reason="SPARRING_KUBERAY_CRDS names no folder of CRDs")
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_kuberays_own_schema_accepts_its_objects(kind: str) -> None:
    for path in Path(os.environ["SPARRING_KUBERAY_CRDS"]).glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        if crd["spec"]["names"]["kind"] == kind:
            (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            jsonschema.validate(one(kind), schema)
            return
    pytest.fail(f"no CRD of {kind} there")


def test_ray_reads_node_types_with_their_resources_out_of_the_cluster() -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    types = _derive_autoscaling_config_from_ray_cr(one("RayCluster"))["available_node_types"]
    assert set(types) == {"headgroup", "trainer", "worker"}
    assert types["headgroup"]["resources"]["sparring_head"] == 1
    assert types["trainer"]["resources"] | {"CPU": 8, "GPU": 1, "sparring_trainer": 1} == types["trainer"]["resources"]
    assert types["worker"]["resources"] | {"CPU": 4, "GPU": 1, "sparring_worker": 1} == types["worker"]["resources"]
    assert (types["worker"]["min_workers"], types["worker"]["max_workers"]) == (0, 16)


def test_rays_objects_fit_into_shared_memory() -> None:
    spec = one("RayCluster")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        (shm,) = (each for each in group["template"]["spec"]["volumes"] if each["name"] == "shm")
        limit = int(shm["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        assert 1e9 <= int(group["rayStartParams"]["object-store-memory"]) < limit


def test_metrics_get_the_labels_that_rules_and_dashboards_ask_for() -> None:
    endpoints = {each["port"]: each["relabelings"] for each in one("PodMonitor")["spec"]["podMetricsEndpoints"]}
    assert {"targetLabel": "job", "replacement": "sparring"} in endpoints["sparring"]
    assert {"targetLabel": "job", "replacement": "ray"} in endpoints["metrics"]
    (cluster, named) = (rule for rule in endpoints["sparring"] if rule["targetLabel"] == "run")
    label = "__meta_kubernetes_pod_label_"
    assert cluster["sourceLabels"] == [f"{label}ray_io_cluster"]  # a label that KubeRay gives to every pod
    assert named["sourceLabels"] == [f"{label}sparring_run"]
    assert named["regex"] == "(.+)"  # without the label the cluster's name stays


def test_the_documented_command_makes_a_prometheus_rule_of_the_alerts() -> None:
    reported = (ROOT / "docs" / "cluster.md").read_text()
    (command,) = re.findall(r"(\{ printf .*?; \}) \| kubectl", reported, re.DOTALL)
    made = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rule = yaml.safe_load(made)
    check_against_model(rule, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


def test_the_jobs_command_is_one_that_sparring_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring.cli.app import split
    from sparring.config import load

    words, settings = split(one("RayJob")["spec"]["entrypoint"].split()[1:])
    recipe = ROOT / "recipes" / Path(words[1]).name
    config = load(recipe, settings)
    assert config.queue.redis_url == "redis://redis:6380/0"
    assert config.trainer.resource == "sparring_trainer" and config.workers.resource == "sparring_worker"


def test_pods_run_without_root_and_no_password_is_written_here() -> None:
    specs = [one("Deployment")["spec"]["template"]["spec"], *(template["spec"] for template in templates())]
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all(each["securityContext"]["allowPrivilegeEscalation"] is False for each in spec["containers"])
    assert not [document for document in documents() if document["kind"] == "Secret"]


def test_kustomize_applies_every_file_but_the_job() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml", "rayjob.yaml"]) == sorted(path.name for path in FOLDER.glob("*.yaml"))
