"""What is listed and watched of Kubernetes itself, by kind: where it is, and how it is read."""

from sys import intern
from typing import Any

import msgspec

from gpugrant import names
from gpugrant.model.node import Node
from gpugrant.model.objects import Namespace
from gpugrant.model.pod import Pod
from gpugrant.observe.cache import Kind, alike_but_version
from gpugrant.observe.project import project_namespace, project_node, project_pod


class SettingsText(msgspec.Struct, frozen=True):
    """The settings ConfigMap as projected: its identity and its text."""

    namespace: str
    name: str
    uid: str
    text: str


PODS: Kind[Pod] = Kind(
    "pods",
    "/api/v1/pods",
    project_pod,
    lambda meta: intern(meta.uid),
    (("labelSelector", names.GPU_LABEL),),
    alike_but_version,
)
NODES: Kind[Node] = Kind(
    "nodes", "/api/v1/nodes", project_node, lambda meta: intern(meta.name), (), alike_but_version
)
NAMESPACES: Kind[Namespace] = Kind(
    "namespaces", "/api/v1/namespaces", project_namespace, lambda meta: intern(meta.name)
)


class _ConfigMap(msgspec.Struct):
    metadata: dict[str, Any]
    data: dict[str, str] | None = None


_decode_config_map = msgspec.json.Decoder(_ConfigMap).decode


def project_settings(body: bytes | msgspec.Raw) -> SettingsText:
    """Return the settings text of a ConfigMap."""
    it = _decode_config_map(body)
    meta = it.metadata
    return SettingsText(
        meta["namespace"], meta["name"], meta["uid"], (it.data or {}).get(names.SETTINGS_KEY, "")
    )


SETTINGS: Kind[SettingsText] = Kind(
    "settings",
    f"/api/v1/namespaces/{names.SYSTEM_NAMESPACE}/configmaps",
    project_settings,
    lambda meta: meta.uid,
    (("fieldSelector", f"metadata.name={names.SETTINGS_CONFIGMAP}"),),
)
