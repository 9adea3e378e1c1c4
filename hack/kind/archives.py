"""Container images without a container engine: layers written as tar files, images as archives of them.

The archives are what `docker save` writes, so podman, docker and containerd all load them. Everything is
dated 1970 and owned by root: the same content gives the same bytes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


class LayerFile:
    """A layer that is being written to ``path``; use as a context manager. Paths in it start without a slash."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115 (__exit__ closes it)
        self._folders: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def folder(self, name: str, mode: int = 0o755) -> None:
        """Add a folder, and those above it."""
        above = name.rpartition("/")[0]
        if above and above not in self._folders:
            self.folder(above)
        if name not in self._folders:
            self._folders.add(name)
            member = _member(name, mode)
            member.type = tarfile.DIRTYPE
            self._tar.addfile(member)

    def file(self, name: str, content: Path | bytes, mode: int = 0o644) -> None:
        """Add a file with the content of another, or with these bytes."""
        self._make_room(name)
        member = _member(name, mode)
        if isinstance(content, bytes):
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
            return
        member.size = content.stat().st_size
        with content.open("rb") as source:
            self._tar.addfile(member, source)

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._make_room(name)
        member = _member(name, 0o777)
        member.type, member.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(member)

    def members_of(self, other: Path, wanted: Callable[[str], bool]) -> None:
        """Copy the members of another layer whose name is wanted, as they are."""
        with tarfile.open(other) as source:
            for member in source:
                member.name = member.name.removeprefix("./")
                if not wanted(member.name):
                    continue
                if member.isdir():
                    self._folders.add(member.name)
                self._tar.addfile(member, source.extractfile(member) if member.isreg() else None)

    def _make_room(self, name: str) -> None:
        above = name.rpartition("/")[0]
        if above and above not in self._folders:
            self.folder(above)


def _member(name: str, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.mode, member.uname, member.gname = mode, "root", "root"
    return member


@dataclass(frozen=True)
class Image:
    """An image to be written: its whole name with tag, its layers from the lowest on, its configuration."""

    name: str
    layers: Sequence[Path]
    settings: Mapping[str, Any] = field(default_factory=dict)


def write_archive(path: Path, images: Sequence[Image]) -> None:
    """Write images into one archive; a layer that several share is in it once."""
    names = {layer: file_digest(layer) for image in images for layer in image.layers}
    listed: list[dict[str, Any]] = []
    with LayerFile(path) as archive:
        for layer, digest in {digest: layer for layer, digest in names.items()}.items():
            archive.file(f"{layer}.tar", digest)
        for image in images:
            config = json.dumps(_config(image, [names[layer] for layer in image.layers])).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            archive.file(name, config)
            layers = [f"{names[layer]}.tar" for layer in image.layers]
            listed.append({"Config": name, "RepoTags": [image.name], "Layers": layers})
        archive.file("manifest.json", json.dumps(listed).encode())


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _config(image: Image, layers: Sequence[str]) -> dict[str, Any]:
    created = "1970-01-01T00:00:00Z"
    return {
        "architecture": architecture(), "os": "linux", "created": created, "config": dict(image.settings),
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}" for layer in layers]},
        "history": [{"created": created, "comment": "gpugrant"} for _ in layers],
    }


def architecture() -> str:
    """Return this machine's architecture as image configurations name it."""
    import platform

    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
