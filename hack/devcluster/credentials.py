"""Keys, certificates and tokens of one control plane, made anew for each, valid for a month."""

import base64
import datetime as dt
import ipaddress
import secrets
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ADMIN = "platform-engineer"
_VALID = dt.timedelta(days=30)


def write_credentials(folder: Path) -> str:
    """Write ca.crt, server.crt, server.key, sa.key, sa.pub and tokens.csv; return the admin's token."""
    authority_key, server_key, account_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    authority = _certificate("gpugrant dev cluster", authority_key, None, authority_key)
    server = _certificate("kube-apiserver", server_key, authority, authority_key)
    token = secrets.token_urlsafe(32)
    _write(folder / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
    _write(folder / "server.crt", server.public_bytes(serialization.Encoding.PEM))
    _write(folder / "server.key", _private(server_key))
    _write(folder / "sa.key", _private(account_key))
    _write(folder / "sa.pub", account_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    _write(folder / "tokens.csv", f'{token},{ADMIN},{ADMIN},"system:masters"\n'.encode())
    _write(folder / "admin.token", token.encode())
    return token


def write_kubeconfig(path: Path, server: str, authority: Path, user: str, token: str) -> None:
    """Write a kubeconfig that holds everything it needs in itself, so that it can be copied anywhere."""
    config: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "gpugrant-dev",
        "clusters": [{"name": "gpugrant-dev", "cluster": {
            "server": server, "certificate-authority-data": base64.b64encode(authority.read_bytes()).decode()}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "gpugrant-dev", "context": {"cluster": "gpugrant-dev", "user": user}}],
    }
    _write(path, yaml.safe_dump(config).encode())


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}")
    beside.touch(mode=0o600)
    beside.write_bytes(content)
    beside.rename(path)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    is_authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        # Python's strict verification wants both key identifiers and the authority's key usage.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(_usage(is_authority), critical=True)
    )
    if not is_authority:
        names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        builder = builder.add_extension(
            x509.SubjectAlternativeName(
                [*(x509.DNSName(each) for each in names), x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                 x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]),
            critical=False,
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=is_authority, crl_sign=is_authority, encipher_only=False,
        decipher_only=False,
    )
