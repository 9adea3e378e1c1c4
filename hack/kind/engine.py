"""Which container engine of this machine can run kind's nodes: found out by trying.

Order: $GPUGRANT_ENGINE (docker or podman) alone, else docker, podman as it is set up, podman with our own
containers.conf. What a node needs that engines often cannot give is a privileged container.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devcluster.binaries import find_or_build
from kind.archives import Image, LayerFile, write_archive
from kind.binaries import CNI_PLUGINS

_OWN_SETTINGS = Path(__file__).resolve().parent / "containers.conf"
_TRIAL = "localhost/gpugrant/trial:privileged"
_TRIAL_SECONDS = 60


class NoEngine(RuntimeError):
    """No container engine here can run a node; the message says what each said."""


class EngineFailed(RuntimeError):
    """A command of the engine failed; the message shows it and what it said."""


@dataclass(frozen=True)
class Engine:
    """A program, and the environment it is run in."""

    program: str
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.program} with {_OWN_SETTINGS.name} of hack/kind" if self.environment else self.program

    def run(self, *arguments: str, timeout: float = 600, text: str | None = None) -> str:
        """Run a command of the engine and return what it prints. Raises EngineFailed."""
        try:
            done = subprocess.run(
                [self.program, *arguments], capture_output=True, text=True, timeout=timeout, check=False,
                env=self.settings(), input=text,
            )
        except subprocess.TimeoutExpired:
            raise EngineFailed(f"{self.program} {arguments[0]} did not end within {timeout:g} s") from None
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-1500:]
            raise EngineFailed(f"{self.program} {' '.join(arguments)} failed with {done.returncode}: {said}")
        return done.stdout

    def settings(self) -> dict[str, str]:
        """Return the whole environment to run the engine, or kind, in."""
        return {**os.environ, **self.environment}

    def has_image(self, name: str) -> bool:
        """Say whether an image is at hand."""
        return bool(self.image_id(name))

    def image_id(self, name: str) -> str:
        """Return the id of an image, or "" where it is not at hand."""
        try:
            return self.run("image", "inspect", "--format", "{{.Id}}", name).strip()
        except EngineFailed:
            return ""

    def names(self, what: str, label: str) -> list[str]:
        """Return the names of the containers ("ps"), volumes or networks with a label."""
        arguments = {"ps": ["ps", "--all"], "volume": ["volume", "ls"], "network": ["network", "ls"]}[what]
        column = "{{.Names}}" if what == "ps" else "{{.Name}}"
        return self.run(*arguments, "--filter", f"label={label}", "--format", column).split()


def find_engine() -> Engine:
    """Return the first engine that runs a privileged container. Raises NoEngine."""
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gpugrant-trial-") as folder:
        archive = Path(folder) / "trial.tar"
        _write_trial(archive)
        for engine in _candidates(os.environ.get("GPUGRANT_ENGINE", "")):
            if shutil.which(engine.program) is None:
                said.append(f"{engine}: not installed")
                continue
            try:
                _try(engine, archive)
            except EngineFailed as failed:
                said.append(f"{engine}: {_last_line(str(failed))}")
            else:
                return engine
    raise NoEngine(
        "NO CONTAINER ENGINE HERE CAN RUN A KIND NODE, so nothing that needs one was run.\n"
        + "".join(f"  {line}\n" for line in said)
        + "Needed: docker or podman that runs a privileged container. `hack/packages podman` installs one on Debian."
    )


def _candidates(asked: str) -> Iterator[Engine]:
    if asked not in ("", "docker", "podman"):
        raise NoEngine(f"GPUGRANT_ENGINE={asked}: docker or podman")
    if asked != "podman":
        yield Engine("docker")
    if asked != "docker":
        yield Engine("podman")
        yield Engine("podman", {"CONTAINERS_CONF": str(_OWN_SETTINGS)})


def _write_trial(archive: Path) -> None:
    """Write an image of one small static program that says its version and ends."""
    loopback = next(binary for binary in CNI_PLUGINS if binary.name == "loopback")
    layer = archive.with_name("layer.tar")
    with LayerFile(layer) as files:
        files.file("trial", find_or_build([loopback])["loopback"], 0o755)
    settings = {"Entrypoint": ["/trial"], "Env": ["CNI_COMMAND=VERSION"]}
    write_archive(archive, [Image(_TRIAL, [layer], settings)])


def _try(engine: Engine, archive: Path) -> None:
    engine.run("load", "--input", str(archive), timeout=_TRIAL_SECONDS)
    try:
        # With a network and a terminal, as a node has. Without a volume: of a container that could not be started
        # podman leaves it.
        ran = engine.run(
            "run", "--rm", "--privileged", "--tty", "--cgroupns=private", _TRIAL, timeout=_TRIAL_SECONDS, text="{}")
        _check_answer(engine, ran)
    finally:
        engine.run("rmi", "--force", _TRIAL, timeout=_TRIAL_SECONDS)


def _check_answer(engine: Engine, ran: str) -> None:
    try:
        answer = json.loads(ran)
    except ValueError:
        answer = {}
    if "supportedVersions" not in answer:
        raise EngineFailed(f"{engine}: a privileged container ran, but said {ran[:200]!r}")


def _last_line(message: str) -> str:
    lines: Sequence[str] = [line for line in message.splitlines() if line.strip()]
    return lines[-1].strip() if lines else message
