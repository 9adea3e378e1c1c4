"""Where the API server is and how to speak to it: a kubeconfig file or the pod's service account.

Knows nothing of requests. Tokens that live in a file are read again when they change, since projected
service account tokens expire after an hour.
"""

import base64
import os
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TOKEN_AGE = 30.0


class Credentials:
    """Server address, TLS context and token of one API server."""

    def __init__(
        self,
        server: str,
        tls: ssl.SSLContext | None,
        *,
        token: str = "",
        token_file: Path | None = None,
        parts: dict[str, Any] | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.tls = tls
        # What another client (Kopf) needs to speak to the same server, in kubeconfig's own words.
        self.parts = parts or {}
        self._token = token
        self._token_file = token_file
        self._read_at = -_TOKEN_AGE

    def token(self) -> str:
        """Return the bearer token, read again from its file after half a minute; "" where there is none."""
        if self._token_file is not None and time.monotonic() - self._read_at >= _TOKEN_AGE:
            try:
                self._token = self._token_file.read_text().strip()
            except OSError:
                if not self._token:
                    raise
            self._read_at = time.monotonic()
        return self._token


def load_credentials(kubeconfig: str | None) -> Credentials:
    """Return the credentials of ``kubeconfig``, else of $KUBECONFIG, the pod, or ~/.kube/config.

    Raises ValueError, in words, where there is nothing usable.
    """
    if kubeconfig:
        return _from_file(Path(kubeconfig))
    if os.environ.get("KUBECONFIG"):
        return _from_file(Path(os.environ["KUBECONFIG"]))
    if os.environ.get("KUBERNETES_SERVICE_HOST") and (_SERVICE_ACCOUNT / "token").exists():
        return _from_pod()
    home = Path.home() / ".kube" / "config"
    if home.exists():
        return _from_file(home)
    raise ValueError("no cluster: give --kubeconfig, set KUBECONFIG, or run inside a pod")


def _from_pod() -> Credentials:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    authority = _SERVICE_ACCOUNT / "ca.crt"
    return Credentials(
        f"https://{host}:{port}",
        ssl.create_default_context(cafile=str(authority)),
        token_file=_SERVICE_ACCOUNT / "token",
        parts={"ca_path": str(authority)},
    )


def _from_file(path: Path) -> Credentials:
    import yaml

    try:
        config = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read kubeconfig {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"kubeconfig {path} is not YAML: {error}") from None
    try:
        context = _named(config, "contexts", config["current-context"], "context")
        cluster = _named(config, "clusters", context["cluster"], "cluster")
        user = _named(config, "users", context.get("user", ""), "user") if context.get("user") else {}
        server = cluster["server"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"kubeconfig {path} has no usable current context ({error})") from None
    folder = path.parent
    token_file = folder / user["tokenFile"] if user.get("tokenFile") else None
    return Credentials(
        server,
        _tls(cluster, user, folder) if server.startswith("https") else None,
        token=user.get("token", ""),
        token_file=token_file,
        parts=_parts(cluster, user, folder),
    )


def _named(config: dict[str, Any], section: str, name: str, inner: str) -> dict[str, Any]:
    for entry in config[section]:
        if entry["name"] == name:
            found: dict[str, Any] = entry.get(inner) or {}
            return found
    raise KeyError(f"{inner} {name!r}")


def _tls(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cluster.get("certificate-authority-data"):
        context = ssl.create_default_context(cadata=_decode(cluster["certificate-authority-data"]).decode())
    elif cluster.get("certificate-authority"):
        context = ssl.create_default_context(cafile=str(folder / cluster["certificate-authority"]))
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if user.get("client-certificate") and user.get("client-key"):
        context.load_cert_chain(str(folder / user["client-certificate"]), str(folder / user["client-key"]))
    elif user.get("client-certificate-data") and user.get("client-key-data"):
        # The ssl module reads client certificates from files only.
        with tempfile.NamedTemporaryFile() as pem:
            pem.write(_decode(user["client-certificate-data"]) + b"\n" + _decode(user["client-key-data"]))
            pem.flush()
            context.load_cert_chain(pem.name)
    return context


def _parts(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> dict[str, Any]:
    parts: dict[str, Any] = {"insecure": cluster.get("insecure-skip-tls-verify")}
    names = (
        (cluster, "certificate-authority", "ca"),
        (user, "client-certificate", "certificate"),
        (user, "client-key", "private_key"),
    )
    for source, key, name in names:
        if source.get(f"{key}-data"):
            parts[f"{name}_data"] = source[f"{key}-data"]
        elif source.get(key):
            parts[f"{name}_path"] = str(folder / source[key])
    return {key: value for key, value in parts.items() if value}


def _decode(text: str) -> bytes:
    return base64.b64decode(text)
