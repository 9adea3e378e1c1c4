"""Keys and signatures, and that anybody can check a month with openssl and sha256sum alone."""

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from gpugrant.expose.report import signing
from gpugrant.expose.report.files import render, write_folder
from unit.report.months import KEY, OTHER_KEY, a_month

DOCS = Path(__file__).parents[3] / "docs" / "reports.md"


def test_a_key_is_made_once_for_its_owner_alone_and_found_again(tmp_path: Path):
    path = tmp_path / "key.pem"
    made = signing.load_key(path, create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = signing.load_key(path, create=True)
    assert signing.fingerprint(again.public_key()) == signing.fingerprint(made.public_key())
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_a_key_is_made_only_when_that_is_asked_for(tmp_path: Path):
    with pytest.raises(signing.KeyRefused, match=r"no signing key .*--create-key"):
        signing.load_key(tmp_path / "key.pem")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "key.pem"
    signing.load_key(path, create=True)
    path.chmod(mode)
    with pytest.raises(signing.KeyRefused, match=f"mode {mode:04o}.*chmod 600"):
        signing.load_key(path)


@pytest.mark.parametrize(("mode", "taken"), [(0o440, True), (0o400, True), (0o444, False), (0o460, False)])
def test_a_key_that_belongs_to_another_user_may_be_read_by_our_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, taken: bool
):
    """As the files of a Secret's volume are: root's, and the pod's group reads them."""
    path = tmp_path / "key.pem"
    made = signing.load_key(path, create=True)
    path.chmod(mode)
    mine = path.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: mine + 1)
    if taken:
        assert signing.load_key(path).public_key() == made.public_key()
    else:
        with pytest.raises(signing.KeyRefused, match=f"mode {mode:04o}"):
            signing.load_key(path)


def _private(key, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
        (_private(rsa.generate_private_key(65537, 2048)), "not Ed25519"),
        (_private(KEY, serialization.BestAvailableEncryption(b"secret")), "without a password"),
        (signing.public_pem(KEY.public_key()), "not a private key"),
    ],
)
def test_what_is_no_such_key_is_refused_in_words(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(signing.KeyRefused, match=says):
        signing.load_key(path)


def test_a_folder_is_no_key(tmp_path: Path):
    with pytest.raises(signing.KeyRefused, match="is not a file"):
        signing.load_key(tmp_path)


def test_a_signature_is_of_this_key_and_this_data():
    signature = signing.sign(KEY, b"data")
    assert signing.is_signed(KEY.public_key(), b"data", signature)
    assert not signing.is_signed(KEY.public_key(), b"Data", signature)
    assert not signing.is_signed(OTHER_KEY.public_key(), b"data", signature)
    assert not signing.is_signed(KEY.public_key(), b"data", b"")


# -- by hand -------------------------------------------------------------------------------------------


needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(render(a_month(), KEY), tmp_path / "november")
    return tmp_path / "november"


def _commands() -> list[str]:
    """Return the shell commands that docs/reports.md gives for checking by hand."""
    text = DOCS.read_text().split("## Checking by hand", 1)[1].split("\n## ", 1)[0]
    return [block.split("```", 1)[0] for block in text.split("```sh\n")[1:]]


def _by_hand(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    return [
        subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
        for command in _commands()
    ]


@needs_openssl
def test_the_documented_commands_accept_a_true_folder(folder: Path):
    signature, fingerprint, digests = _by_hand(folder)
    assert (signature.returncode, signature.stdout.strip()) == (0, "Signature Verified Successfully")
    found = json.loads((folder / "manifest.json").read_bytes())["signer"]["public_key_sha256"]
    assert fingerprint.stdout.split()[0] == found == signing.fingerprint(KEY.public_key())
    assert digests.returncode == 0
    assert sorted(digests.stdout.splitlines()) == [
        f"{name}: OK"
        for name in (
            "awards.csv", "corrections.csv", "incidents.csv", "public-key.pem", "usage.csv", "usage.json"
        )
    ]  # fmt: skip


@needs_openssl
def test_the_documented_commands_refuse_a_changed_manifest(folder: Path):
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"Closed"', b'"closed"'))
    assert _by_hand(folder)[0].returncode != 0


@needs_openssl
def test_the_documented_commands_refuse_a_changed_table(folder: Path):
    awards = folder / "awards.csv"
    awards.write_bytes(awards.read_bytes().replace(b"64", b"65", 1))
    digests = _by_hand(folder)[2]
    assert digests.returncode != 0
    assert "awards.csv: FAILED" in digests.stdout


@needs_openssl
def test_a_key_that_openssl_made_signs(tmp_path: Path):
    path = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(path)], check=True, capture_output=True
    )
    path.chmod(0o600)
    assert isinstance(signing.load_key(path), ed25519.Ed25519PrivateKey)
