"""The operator's image, run as a cluster runs it, and the archives that images are made as."""

import io
import tarfile
from pathlib import Path

import pytest

from kind.archives import Image, LayerFile, write_archive
from kind.engine import Engine, EngineFailed
from kind.images import version

_AS_IN_A_CLUSTER = ("run", "--rm", "--read-only", "--user", "65532", "--network", "none", "--cap-drop", "all")


def test_the_operator_runs_without_network_root_or_anything_to_write_to(engine: Engine, operator_image: str) -> None:
    assert operator_image == f"localhost/gpugrant/operator:{version()}"
    assert "Usage: gpugrant" in engine.run(*_AS_IN_A_CLUSTER, operator_image, "--help")


def test_the_image_says_by_itself_that_it_is_not_root(engine: Engine, operator_image: str) -> None:
    told = engine.run("image", "inspect", "--format", "{{.Config.User}} {{.Config.Entrypoint}}", operator_image)
    assert told.split() == ["65532:65532", "[/opt/gpugrant/bin/gpugrant]"]


def test_both_ledgers_drivers_zones_and_authorities_are_in_it(engine: Engine, operator_image: str) -> None:
    code = """
import psycopg, sqlite3, ssl, zoneinfo
zoneinfo.ZoneInfo("Asia/Seoul")
print(psycopg.pq.__impl__, sqlite3.connect(":memory:").execute("select 1").fetchone()[0],
      len(ssl.create_default_context().get_ca_certs()) > 50)
"""
    said = engine.run(*_AS_IN_A_CLUSTER, "--entrypoint", "python3", operator_image, "-c", code)
    assert said.split() == ["binary", "1", "True"]


@pytest.mark.parametrize("program", ["sh", "/bin/bash", "/usr/bin/apt-get", "pip"])
def test_there_is_no_shell_nor_what_could_install_one(engine: Engine, operator_image: str, program: str) -> None:
    with pytest.raises(EngineFailed, match=r"not found|no such file"):
        engine.run(*_AS_IN_A_CLUSTER, "--entrypoint", program, operator_image)


def test_the_same_content_gives_the_same_archive(tmp_path: Path) -> None:
    def made(name: str) -> bytes:
        layer, archive = tmp_path / f"{name}-layer.tar", tmp_path / f"{name}.tar"
        with LayerFile(layer) as files:
            files.file("usr/bin/program", b"program", 0o755)
            files.link("bin", "usr/bin")
        images = [Image(f"localhost/test/{tag}:1", [layer], {"Cmd": ["/usr/bin/program"]}) for tag in ("one", "two")]
        write_archive(archive, images)
        return archive.read_bytes()

    first = made("first")
    assert first == made("second")
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        layers = [name for name in archive.getnames() if name.endswith(".tar")]
    assert len(layers) == 1, "a layer that two images share is in the archive once"
