"""What the charts become: the shipped manifests word for word, and a Deployment that fits the store."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import gpugrant
from chart.helm import (
    CHART,
    CRDS_CHART,
    NAMESPACE,
    PREVIOUS,
    PREVIOUS_CRDS,
    ROOT,
    VALUES,
    Helm,
    HelmFailed,
    the,
)
from devcluster.client import load_manifests
from devcluster.install import CRDS, MANIFESTS
from gpugrant import names
from gpugrant.act.policies import exempt_of, resources_of
from gpugrant.config import Settings

VALUE_SETS = sorted(VALUES.glob("*.yaml"))


@pytest.mark.parametrize("chart", [CHART, CRDS_CHART], ids=lambda chart: chart.name)
def test_helm_finds_nothing_to_say_against_a_chart(offline: Helm, chart: Path) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in offline.run("lint", "--strict", chart)


@pytest.mark.parametrize("values", VALUE_SETS, ids=lambda values: values.stem)
def test_helm_finds_nothing_to_say_against_these_values(offline: Helm, values: Path) -> None:
    offline.run("lint", "--strict", CHART, "--values", values)
    assert offline.template(CHART, "--values", values)


def test_the_chart_brings_the_manifests_that_the_demo_applies_and_no_others(offline: Helm) -> None:
    rendered = [each for each in offline.template(CHART) if "helm.sh/hook" not in str(each["metadata"])]
    kinds = {each["kind"] for each in load_manifests(*sorted(MANIFESTS.glob("*.yaml")))} - {"Namespace"}
    shipped = [each for each in load_manifests(*sorted(MANIFESTS.glob("*.yaml"))) if each["kind"] in kinds]

    def key(one: dict[str, Any]) -> tuple[str, str]:
        return one["kind"], one["metadata"]["name"]

    ours = sorted((each for each in rendered if each["kind"] in kinds), key=key)
    assert ours == sorted(shipped, key=key)


def test_the_chart_of_crds_brings_what_the_models_say_and_leaves_it_when_it_goes(offline: Helm) -> None:
    rendered = {each["metadata"]["name"]: each for each in offline.template(CRDS_CHART)}
    for definition in load_manifests(*sorted(CRDS.glob("*.yaml"))):
        found = rendered.pop(definition["metadata"]["name"])
        assert found["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert found == definition
    assert rendered == {}
    assert all("annotations" not in each["metadata"] for each in offline.template(CRDS_CHART, "--set", "keep=false"))


@pytest.mark.parametrize("chart", [CHART, CRDS_CHART], ids=lambda chart: chart.name)
def test_a_packaged_chart_has_in_it_what_the_folder_has(offline: Helm, chart: Path, tmp_path: Path) -> None:
    """The manifests and, through the link, the CRDs too."""
    offline.run("package", chart, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    assert offline.template(package) == offline.template(chart)


def test_the_versions_go_together_and_the_previous_one_is_older(offline: Helm) -> None:
    charts = [yaml.safe_load((chart / "Chart.yaml").read_text()) for chart in (CHART, CRDS_CHART)]
    assert charts[0]["version"] == charts[1]["version"]
    version = charts[0]["appVersion"]
    assert version == charts[1]["appVersion"] == gpugrant.__version__
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    plugin = (ROOT / "hack" / "deviceplugin" / "manifests" / "deviceplugin.yaml").read_text()
    assert f"image: localhost/gpugrant/deviceplugin:{version}\n" in plugin
    for now, before in zip(charts, (PREVIOUS, PREVIOUS_CRDS), strict=True):
        shown = yaml.safe_load(offline.run("show", "chart", before))
        assert shown["name"] == now["name"]
        assert _parts(shown["version"]) < _parts(now["version"])
        assert _parts(shown["appVersion"]) < _parts(now["appVersion"])


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


# -- the stores ------------------------------------------------------------------------------------------


def _deployment(offline: Helm, values: str) -> dict[str, Any]:
    spec: dict[str, Any] = the(offline.template(CHART, "--values", VALUES / f"{values}.yaml"), "Deployment")["spec"]
    return spec


def test_with_sqlite_one_replica_goes_before_the_next_comes(offline: Helm) -> None:
    spec = _deployment(offline, "sqlite")
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    (container,) = spec["template"]["spec"]["containers"]
    assert "--ledger=sqlite:////var/lib/gpugrant/ledger.db" in container["args"]
    found = offline.template(CHART)
    claim = the(found, "PersistentVolumeClaim", "gpugrant-data")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_with_postgresql_two_replicas_share_the_closed_months_and_no_password_is_in_the_pod(offline: Helm) -> None:
    spec = _deployment(offline, "postgresql")
    assert (spec["replicas"], spec["strategy"]["type"]) == (2, "RollingUpdate")
    (container,) = spec["template"]["spec"]["containers"]
    assert not any("ledger" in argument for argument in container["args"])
    given = {each["name"]: each["valueFrom"] for each in container["env"]}
    assert given["GPUGRANT_LEDGER"] == {"secretKeyRef": {"name": "gpugrant-ledger", "key": "url"}}
    assert "--signing-key=/etc/gpugrant/signing-key/signing-key.pem" in container["args"]
    found = offline.template(CHART, "--values", VALUES / "postgresql.yaml")
    assert the(found, "PersistentVolumeClaim", "gpugrant-data")["spec"]["accessModes"] == ["ReadWriteMany"]
    assert the(found, "ServiceMonitor")["metadata"]["labels"]["release"] == "prometheus"


def test_a_site_with_its_own_mind_gets_what_it_asked_for(offline: Helm) -> None:
    found = offline.template(CHART, "--values", VALUES / "odd.yaml")
    kinds = {each["kind"] for each in found}
    assert not kinds & {"PersistentVolumeClaim", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Job"}
    pod = the(found, "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].endswith("/operator@sha256:" + 64 * "0")
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "ledger-of-ours"}} in pod["volumes"]


def test_the_lists_in_the_policies_are_the_sites_from_the_first_moment(offline: Helm) -> None:
    found = offline.template(CHART, "--values", VALUES / "postgresql.yaml")
    for kind, name in (("MutatingAdmissionPolicy", "gate"), ("MutatingAdmissionPolicy", "exempt"),
                       ("ValidatingAdmissionPolicy", "guard"), ("ValidatingAdmissionPolicy", "tenant-pods")):
        policy = the(found, kind, f"gpugrant-{name}")
        assert resources_of(policy) == {"nvidia.com/gpu", "rebellions.ai/ATOM"}
        assert exempt_of(policy) == {"kube-system", "gpu-operator", "gpugrant-system", "monitoring"}


# -- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("replicas=2", "/replicas"),
        ("ledger.store=MySQL", "/ledger/store"),
        ("ledger.store=PostgreSQL", "/ledger/postgresql/secretName"),
        ("image.digest=latest", "/image/digest"),
        ("gpuResources={gpu}", "/gpuResources/0"),
        ("uninstall.waiting=Delete", "/uninstall/waiting"),
        ("replicaCount=2", "replicaCount"),
        ("settings.exemptNamespaces=null", "/settings/exemptNamespaces"),
        ("settings.exemptNamespaces={a'b}", "/settings/exemptNamespaces/0"),
        ("settings.nonsense=1", "nonsense"),
        ("gpuResources=null", "gpuResources"),
        ("ledger.postgresql.secretName=x", "/ledger/postgresql/secretName"),
        ("podLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName .app.kubernetes.io/name"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_by_name(offline: Helm, given: str, words: str) -> None:
    with pytest.raises(HelmFailed, match=words):
        offline.template(CHART, "--set", given)


def test_any_other_namespace_is_refused_with_the_reason(offline: Helm) -> None:
    with pytest.raises(HelmFailed, match=f"Use: --namespace {NAMESPACE}"):
        offline.template(CHART, namespace="elsewhere")


def test_the_schema_knows_every_value_and_no_other() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]
    tops = [line.split(":")[0] for line in lines if line and line[0].isalpha()]
    assert set(tops) == set(schema) - {"global"}
    assert set(tops) == set(yaml.safe_load("\n".join(lines)))
    assert set(schema["settings"]["properties"]) == {
        field.alias or name for name, field in Settings.model_fields.items()}


def test_what_is_rendered_without_a_cluster_takes_nobody_out(offline: Helm) -> None:
    """`helm template | kubectl apply` runs whatever is printed, hooks too."""
    assert not [each for each in offline.template(CHART) if "helm.sh/hook" in str(each["metadata"])]


def test_tenants_and_providers_do_not_read_everybodys_figures(offline: Helm) -> None:
    policy = the(offline.template(CHART), "NetworkPolicy")
    [peer] = next(rule["from"] for rule in policy["spec"]["ingress"])
    assert peer["namespaceSelector"]["matchExpressions"] == [
        {"key": names.TENANT_LABEL, "operator": "DoesNotExist"},
        {"key": names.PROVIDER_LABEL, "operator": "DoesNotExist"}]
