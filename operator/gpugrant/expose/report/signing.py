"""Ed25519: the key that signs a closed month, and what a signature is worth.

A key file holds one unencrypted private key as PKCS#8 PEM and is its owner's alone (mode 0600); where it belongs to
another user, as the files of a Secret's volume do, our group may read it.
"""

import hashlib
import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MOST_BYTES = 16_384  # a key has some hundred
SIGNATURE_BYTES = 64


class KeyRefused(ValueError):
    """A key file that cannot be used; the message says why and what to do."""


def load_key(path: Path, create: bool = False) -> Ed25519PrivateKey:
    """Return the private key in a file; make one where there is none, if ``create``.

    Raises KeyRefused: no such file, readable by others, not an Ed25519 key.
    """
    if create and not path.exists():
        _write_new_key(path)
    try:
        data = _read_private(path)
    except FileNotFoundError:
        raise KeyRefused(
            f"there is no signing key {path}: name another file, or have one made with --create-key"
        ) from None
    except OSError as error:
        raise KeyRefused(f"the signing key {path} cannot be read: {error.strerror}") from None
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise KeyRefused(f"the signing key {path} is encrypted: it must be without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused(f"{path} is not a private key in PEM (PKCS#8)") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyRefused(f"the key in {path} is not Ed25519: make one with --create-key in another file")
    return key


def _read_private(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        mode = found.st_mode
        if not stat.S_ISREG(mode):
            raise KeyRefused(f"the signing key {path} is not a file")
        # A Secret's volume belongs to root, and we read it as the pod's group (fsGroup): mode 0440 is all it can be.
        if mode & (0o077 if found.st_uid == os.geteuid() else 0o037):
            raise KeyRefused(
                f"the signing key {path} can be read or changed by others (mode {mode & 0o777:04o}): "
                f"chmod 600 {path}, and make a new key if others may have read it"
            )
        return os.read(descriptor, _MOST_BYTES)
    finally:
        os.close(descriptor)


def _write_new_key(path: Path) -> None:
    """Make a key. The file is complete when its name appears; one that appeared meanwhile stays."""
    data = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.link(beside, path)
        except FileExistsError:
            return
        finally:
            beside.unlink()
    except OSError as error:
        raise KeyRefused(f"the signing key {path} cannot be made: {error.strerror}") from None


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key in a PEM file. Raises KeyRefused."""
    try:
        with path.open("rb") as file:
            return read_public_key(file.read(_MOST_BYTES))
    except OSError as error:
        raise KeyRefused(f"the public key {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KeyRefused(f"the public key {path}: {error}") from None


def read_public_key(data: bytes) -> Ed25519PublicKey:
    """Return the public key in PEM data. Raises ValueError."""
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("it is not a public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("it is not an Ed25519 key")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the 32 bytes of the raw public key, hex."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()


def sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """Return the signature: 64 bytes, the same for the same key and data."""
    return key.sign(data)


def is_signed(key: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    """Say whether a signature is this key's over this data."""
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True
