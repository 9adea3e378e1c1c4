"""The operator's image, of this checkout or of a release, and the base it stands on where no image registry is.

The base is Debian's Python with what it links to and nothing else: no shell, no package manager. Tests use it for
workloads too. All wheels are fetched by this machine's pip, checked against requirements.txt, so that the build
itself needs no network.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from re import compile as pattern

from devcluster.binaries import BuildFailed, say
from devcluster.runfolder import ROOT
from kind.archives import Image, LayerFile, architecture, write_archive
from kind.engine import Engine, EngineFailed
from kind.rootfs import RootFileSystem, find_or_make

_OPERATOR = ROOT / "images" / "operator"
# libstdc++: for wheels that are C++ inside, such as grpcio.
_PYTHON_ROOT = RootFileSystem(
    "python", ("python3", "python3-venv", "python3-pip", "ca-certificates", "tzdata", "libstdc++6"))
_PATH = {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]}
# glibc of the oldest base that is of use: Debian bookworm's.
_GLIBC = 36

# What Python needs of a Debian root file system at run time.
_RUNS_PYTHON = pattern(
    r"^(bin|lib|lib64|sbin|usr|etc|tmp|usr/(bin|lib|lib64|share|sbin))$"
    r"|^usr/bin/python3|^usr/lib/(python3\b|python3\.\d+/|python3\.\d+$|ssl|locale/C)|^usr/lib64/"
    r"|^usr/lib/[a-z0-9_]+-linux-gnu($|/[^/]+\.so[^/]*$)|^usr/share/(zoneinfo|ca-certificates)($|/)"
    r"|^etc/(ssl|ca-certificates|passwd|group|nsswitch\.conf|ld\.so|localtime|services|protocols|os-release|debian_version)"
)
_NOT_AT_RUN_TIME = pattern(r"libperl|/(ensurepip|idlelib|lib2to3|pydoc_data|test)/|python3/dist-packages")


@dataclass(frozen=True)
class Base:
    """What a Dockerfile of ours stands on: an image with Python, and one that can also build (it may be the same)."""

    runs: str
    builds: str


def version() -> str:
    """Return gpugrant's version, as pyproject.toml says it."""
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def find_or_make_base(engine: Engine) -> Base:
    """Return the base of Debian's packages, in the engine; make it where it is missing. Raises BuildFailed."""
    digest = _PYTHON_ROOT.digest()
    base = Base(f"localhost/gpugrant/python:{digest}", f"localhost/gpugrant/python-build:{digest}")
    if not (engine.has_image(base.runs) and engine.has_image(base.builds)):
        root = find_or_make(_PYTHON_ROOT)
        with tempfile.TemporaryDirectory(prefix="gpugrant-base-") as folder:
            small, archive = Path(folder) / "small.tar", Path(folder) / "base.tar"
            with LayerFile(small) as files:
                files.members_of(root, _runs_python)
            settings = {**_PATH, "Cmd": ["/usr/bin/python3"]}
            write_archive(archive, [Image(base.builds, [root], settings), Image(base.runs, [small], settings)])
            engine.run("load", "--input", str(archive))
    return base


def _runs_python(name: str) -> bool:
    return bool(_RUNS_PYTHON.search(name)) and not _NOT_AT_RUN_TIME.search(name)


def build_operator(engine: Engine, given_base: str = "") -> str:
    """Build the operator's image from this checkout and return its name. Raises BuildFailed, EngineFailed."""
    return build(engine, "operator", _OPERATOR / "Dockerfile", ROOT / "requirements.txt", _put_own_wheel, given_base)


def build_released(engine: Engine, release: Path) -> str:
    """Build the operator's image of a release, where the engine lacks it, and return its name.

    The folder ``release`` has its wheel and its requirements.txt. Its digest is in the tag: a tag of the version alone
    may be what a checkout made of itself before that release. Raises BuildFailed, EngineFailed.
    """
    (wheel,) = release.glob("*.whl")
    tag = f"{wheel.name.split('-')[1]}-{hashlib.sha256(wheel.read_bytes()).hexdigest()[:12]}"
    name = _name("operator", tag)
    if engine.has_image(name):
        return name

    def put_wheel(context: Path) -> None:
        (context / "own").mkdir()
        shutil.copy(wheel, context / "own")

    return build(engine, "operator", _OPERATOR / "Dockerfile", release / "requirements.txt", put_wheel, tag=tag)


def _name(title: str, tag: str) -> str:
    return f"localhost/gpugrant/{title}:{tag}"


def build(engine: Engine, title: str, dockerfile: Path, requirements: Path, put_own: Callable[[Path], None],
          given_base: str = "", tag: str = "") -> str:
    """Build one image of ours and return its name; its tag is this checkout's version if none is given.

    Its context holds requirements.txt, wheels/ with all that this names, and what ``put_own`` puts there. Raises
    BuildFailed, EngineFailed.
    """
    started = time.monotonic()
    base = Base(given_base, given_base) if given_base else find_or_make_base(engine)
    tag = tag or version()
    name = _name(title, tag)
    with tempfile.TemporaryDirectory(prefix=f"gpugrant-{title}-") as folder:
        context = Path(folder)
        shutil.copy(dockerfile, context / "Dockerfile")
        shutil.copy(requirements, context / "requirements.txt")
        put_own(context)
        _download_wheels(requirements, context / "wheels", _python_of(engine, base.builds))
        former = engine.image_id(name)
        arguments = {"BASE": base.runs, "BUILDER": base.builds, "VERSION": tag}
        engine.run(
            "build", "--network", "none", "--tag", name,
            *(word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")), str(context))
    if former not in ("", engine.image_id(name)):
        # Nothing else names it, and it is large. What a container still runs on stays.
        with suppress(EngineFailed):
            engine.run("rmi", former)
    size = int(engine.run("image", "inspect", "--format", "{{.Size}}", name).strip())
    say(f"built {name} on {base.runs} in {time.monotonic() - started:.0f} s, {size / 1e6:.0f} MB")
    return name


def _python_of(engine: Engine, image: str) -> tuple[int, int]:
    asked = "import sys; print(*sys.version_info[:2])"
    words = engine.run("run", "--rm", "--network", "none", "--entrypoint", "python3", image, "-c", asked).split()
    return int(words[0]), int(words[1])


def _put_own_wheel(folder: Path) -> None:
    """Put our wheel into FOLDER/own. Raises BuildFailed."""
    # From a copy: setuptools builds in the folder of the sources, and takes up what an earlier build left there.
    sources = folder / "sources"
    shutil.copytree(ROOT / "operator", sources / "operator", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, sources)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "own"), str(sources))


def _download_wheels(requirements: Path, into: Path, python: tuple[int, int]) -> None:
    """Put the pinned wheels, for this Python, into a folder. Raises BuildFailed."""
    _pip("download", "--require-hashes", "--requirement", str(requirements), "--dest", str(into),
         "--no-deps", "--only-binary=:all:", "--implementation=cp", f"--python-version={python[0]}.{python[1]}",
         *(f"--platform={platform}" for platform in _platforms()))


def _platforms() -> Iterator[str]:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[architecture()]
    for minor in range(_GLIBC, 16, -1):
        yield f"manylinux_2_{minor}_{machine}"
    yield f"manylinux2014_{machine}"


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildFailed(f"pip {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
