"""What lies in deploy/ is what its readers take: Ray's launcher, Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


def read(name: str) -> Any:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def test_the_cluster_file_is_of_rays_own_schema() -> None:
    ray = pytest.importorskip("ray", reason="petiole[ray] is not installed")
    jsonschema = pytest.importorskip("jsonschema", reason="petiole[ray] is not installed")
    schema = json.loads(
        Path(ray.__file__).with_name("autoscaler").joinpath("ray-schema.json").read_text()
    )
    cluster = read("ray/cluster.yaml")
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "workers": 3}, schema)


def test_kuberays_pods_are_kubernetes_own() -> None:
    """The schema of RayCluster itself comes with the operator; that of its pods is Kubernetes'."""
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    spec = read("ray/kuberay.yaml")["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, **group["template"]}
        validate.validate(pod, validate.latest_version(), strict=True)
        mounted = {one["name"] for one in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted <= {one["name"] for one in pod["spec"]["volumes"]}
