"""A cluster that is ended leaves nothing, and one that cannot start says why."""

from pathlib import Path

import pytest

from kind.cluster import ClusterFailed, KindCluster
from kind.engine import Engine, NoEngine, find_builder, find_engine


def _everything(engine: Engine) -> set[tuple[str, str]]:
    """Return what the engine has besides images: kind of thing and name."""
    commands = {
        "container": ["ps", "--all", "--format", "{{.Names}}"],
        "volume": ["volume", "ls", "--format", "{{.Name}}"],
        "network": ["network", "ls", "--format", "{{.Name}}"],
    }
    return {(what, name) for what, command in commands.items() for name in engine.run(*command).split()}


def test_a_cluster_that_is_ended_leaves_no_container_volume_network_or_file(
    engine: Engine, only_run: None, folder: Path
) -> None:
    cluster = KindCluster("gpugrant-test-end", folder, engine, workers=0)
    cluster.end()
    before = _everything(engine)
    cluster.start()
    started = _everything(engine) - before
    assert {what for what, _ in started} == {"container", "volume", "network"}
    assert cluster.end()
    assert _everything(engine) - before == set()
    assert list(folder.iterdir()) == []
    assert not cluster.end()


def test_a_start_that_fails_says_why_and_leaves_nothing(
    engine: Engine, only_run: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _everything(engine)
    monkeypatch.setenv("GPUGRANT_KIND_IMAGE", "localhost/gpugrant/no-such-image:ever")
    with pytest.raises(ClusterFailed, match="no-such-image"):
        KindCluster("gpugrant-test-end", folder, engine, workers=0).start()
    assert _everything(engine) - before == set()
    assert list(folder.iterdir()) == []


def test_trying_engines_leaves_nothing(engine: Engine, only_run: None) -> None:
    before = _everything(engine)
    find_engine()
    assert _everything(engine) - before == set()


def test_where_no_engine_can_run_a_node_it_is_said_loudly(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GPUGRANT_ENGINE", raising=False)
    for find, words in ((find_engine, "NO CONTAINER ENGINE HERE CAN RUN A KIND NODE"),
                        (find_builder, "NO CONTAINER ENGINE HERE RUNS, so no image was built")):
        with pytest.raises(NoEngine) as told:
            find()
        message = str(told.value)
        assert message.startswith(words)
        assert "docker: not installed" in message and "podman: not installed" in message


def test_what_an_engine_gives_as_the_error_is_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As docker's client ends: the last line is no help."""
    docker = tmp_path / "docker"
    docker.write_text("""#!/bin/sh
[ "$1" = run ] || exit 0
echo "docker: Error response from daemon: runc create failed: unable to apply caps: operation not permitted" >&2
echo >&2
echo "Run 'docker run --help' for more information" >&2
exit 125
""")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GPUGRANT_ENGINE", "docker")
    with pytest.raises(NoEngine, match="unable to apply caps: operation not permitted"):
        find_engine()
