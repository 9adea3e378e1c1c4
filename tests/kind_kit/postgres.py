"""PostgreSQL in a pod: Debian's, in an image made of its packages, on a node's own disk."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from cluster_kit.pods import is_ready
from devcluster.client import JsonObject, KubeClient
from kind.archives import Image, write_archive
from kind.cluster import KindCluster
from kind.rootfs import RootFileSystem, find_or_make

NAMESPACE = "databases"
PORT = 5432
NODE_PORT = 30432
_USER = 65531  # initdb wants one with a name
_NAMED = f'echo ledger:x:{_USER}:{_USER}::/tmp:/bin/sh >> "$1/etc/passwd"'
_ROOT = RootFileSystem("postgres", ("postgresql",), (_NAMED,))
_URL = "postgresql+psycopg://ledger@{host}:{port}/{database}"
_START = """
set -e
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e /data/pg/PG_VERSION ]; then
  "$bin/initdb" -D /data/pg -U ledger -A trust -E UTF8 --locale=C --no-sync
  echo 'host all all all trust' >> /data/pg/pg_hba.conf
fi
exec "$bin/postgres" -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/tmp -c max_connections=60
"""


def load_image(cluster: KindCluster) -> str:
    """Make the image, give it to the nodes, and return its name."""
    name = f"localhost/gpugrant/postgres:{_ROOT.digest()}"
    root = find_or_make(_ROOT)
    with tempfile.TemporaryDirectory(prefix="gpugrant-postgres-") as folder:
        archive = Path(folder) / "image.tar"
        write_archive(archive, [Image(name, [root], {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]})])
        cluster.load_archive(archive, nodes=[control_plane_of(cluster)])
    return name


def control_plane_of(cluster: KindCluster) -> str:
    """Return the control plane's node, which no test switches off."""
    return next(node for node in cluster.nodes() if node.endswith("control-plane"))


class Postgres:
    """The server, which a cluster has one of, a database in it, and how pods and this process reach that."""

    def __init__(self, cluster: KindCluster, database: str = "ledger") -> None:
        self._node = control_plane_of(cluster)
        self._cluster = cluster
        self._database = database
        self._address = ""
        self.url = _URL.format(host=f"postgres.{NAMESPACE}.svc.cluster.local", port=PORT, database=database)

    async def start(self, admin: KubeClient) -> None:
        """Start it, if it does not run, wait until it answers, and make the database, if it is not there."""
        image = load_image(self._cluster)
        for manifest in _manifests(image, self._node):
            await admin.apply(manifest)
        await admin.wait_for(f"/api/v1/namespaces/{NAMESPACE}/pods/postgres", is_ready, 120)
        await self._answers(admin)
        with self._connect("postgres") as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", (self._database,)).fetchall():
                connection.execute(SQL("create database {}").format(Identifier(self._database)))

    async def _answers(self, admin: KubeClient) -> None:
        """Wait until the node's port leads to it: a moment after the pod is ready, and nobody says when."""
        node = await admin.get(f"/api/v1/nodes/{self._node}")
        self._address = next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP")
        async with asyncio.timeout(30):
            while True:
                try:
                    self._connect("postgres").close()
                    return
                except psycopg.OperationalError:
                    await asyncio.sleep(0.2)

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect to the ledger's database from outside, through the node's port."""
        return self._connect(self._database)

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        where = f"host={self._address} port={NODE_PORT} user=ledger dbname={database}"
        return psycopg.connect(where, autocommit=True, connect_timeout=5)

    @property
    def outside(self) -> str:
        """The ledger's URL for a command that runs here."""
        return _URL.format(host=self._address, port=NODE_PORT, database=self._database)

    @property
    def node(self) -> str:
        """The node it runs on."""
        return self._node


def _manifests(image: str, node: str) -> list[JsonObject]:
    labels = {"app": "postgres"}
    container = {
        "name": "postgres", "image": image, "imagePullPolicy": "Never", "command": ["sh", "-c", _START],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": {"runAsUser": _USER, "runAsGroup": _USER},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "postgres", "namespace": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "postgres", "namespace": NAMESPACE, "labels": labels},
         "spec": {"containers": [container], "nodeName": node, "serviceAccountName": "postgres",
                  "securityContext": {"fsGroup": _USER},
                  "tolerations": [{"operator": "Exists"}], "volumes": [{"name": "data", "emptyDir": {}}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "postgres", "namespace": NAMESPACE},
         "spec": {"type": "NodePort", "selector": labels,
                  "ports": [{"port": PORT, "targetPort": PORT, "nodePort": NODE_PORT}]}},
    ]
