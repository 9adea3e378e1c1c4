"""Which container engine of this machine can run kind's nodes, and which can build images: found out by trying.

Order: $GPUGRANT_ENGINE (docker or podman) alone, else docker, podman as it is set up, podman with our own
containers.conf. What a node needs that engines often cannot give is a privileged container; building an image needs
none.
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
# With a network and a terminal, as a node has. Without a volume: of a container that could not be started podman
# leaves it.
_AS_A_NODE = ("--privileged", "--tty", "--cgroupns=private")
_AS_A_BUILD = ("--network", "none", "--interactive")


class NoEngine(RuntimeError):
    """No container engine here can do what is asked of it; the message says what each said."""


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
    """Return the first engine that runs a privileged container, as a node is one. Raises NoEngine."""
    return _find(
        _AS_A_NODE, "NO CONTAINER ENGINE HERE CAN RUN A KIND NODE, so nothing that needs one was run.",
        "docker or podman that runs a privileged container")


def find_builder() -> Engine:
    """Return the first engine that runs a plain container, as building an image does. Raises NoEngine."""
    return _find(_AS_A_BUILD, "NO CONTAINER ENGINE HERE RUNS, so no image was built.", "docker or podman")


def _find(flags: Sequence[str], without: str, needed: str) -> Engine:
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gpugrant-trial-") as folder:
        archive = Path(folder) / "trial.tar"
        _write_trial(archive)
        for engine in _candidates(os.environ.get("GPUGRANT_ENGINE", "")):
            if shutil.which(engine.program) is None:
                said.append(f"{engine}: not installed")
                continue
            try:
                _try(engine, archive, flags)
            except EngineFailed as failed:
                said.append(f"{engine}: {_telling_line(str(failed))}")
            else:
                return engine
    raise NoEngine(
        f"{without}\n" + "".join(f"  {line}\n" for line in said)
        + f"Needed: {needed}. `hack/packages podman` installs one on Debian."
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


def _try(engine: Engine, archive: Path, flags: Sequence[str]) -> None:
    engine.run("load", "--input", str(archive), timeout=_TRIAL_SECONDS)
    try:
        ran = engine.run("run", "--rm", *flags, _TRIAL, timeout=_TRIAL_SECONDS, text="{}")
        _check_answer(engine, ran)
    finally:
        engine.run("rmi", "--force", _TRIAL, timeout=_TRIAL_SECONDS)


def _check_answer(engine: Engine, ran: str) -> None:
    try:
        answer = json.loads(ran)
    except ValueError:
        answer = {}
    if "supportedVersions" not in answer:
        raise EngineFailed(f"{engine}: a container ran, but said {ran[:200]!r}")


def _telling_line(message: str) -> str:
    """Return the line of an engine's words that tells what is wrong: the one with the error in it, else the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[-1] if lines else message)
