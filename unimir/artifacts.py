"""Artifact directories: a directory exists as an artifact once its manifest.json, written last, is there.

Knows nothing of what the directories hold.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_PACKAGES = ("unimir", "torch", "transformers", "tokenizers", "timm", "ray", "deepspeed", "pyarrow", "numpy", "pillow")


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_id(*parts: str | bytes) -> str:
    """Sixteen hex digits of a SHA-256 over the parts, each prefixed by its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def files_id(root: Path, files: Iterable[Path]) -> str:
    """Content id of files by relative path and bytes, whatever the order they are given in."""
    parts: list[str | bytes] = []
    for path in sorted(files):
        with path.open("rb") as handle:
            parts += [path.relative_to(root).as_posix(), hashlib.file_digest(handle, "sha256").digest()]
    return content_id(*parts)


def path_id(name: str) -> str | None:
    """Content id of a local file, or of a directory's files but hidden ones; None if there is neither."""
    path = Path(name)
    if not path.exists():
        return None
    if path.is_file():
        return files_id(path, [path])
    shown = (file for file in path.rglob("*") if not any(part.startswith(".") for part in file.relative_to(path).parts))
    return files_id(path, (file for file in shown if file.is_file()))


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change an artifact's bytes."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def exists(directory: Path) -> bool:
    """Whether the directory holds a finished artifact."""
    return (directory / MANIFEST).is_file()


def start(directory: Path) -> Path:
    """Empties an unfinished (or absent) artifact directory so that it can be written afresh."""
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory


def finish(directory: Path, *, kind: str, id: str, parents: Mapping[str, str], **fields: Any) -> dict[str, Any]:
    """Writes the manifest, which makes the directory an artifact. Returns the manifest."""
    manifest = {"kind": kind, "id": id, "parents": dict(parents), "packages": package_versions(), **fields}
    temporary = directory / f".{MANIFEST}"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(directory / MANIFEST)
    return manifest


def replace(unfinished: Path, directory: Path) -> None:
    """Puts a finished directory at its place, instead of whatever is there."""
    if directory.exists():
        shutil.rmtree(directory)
    unfinished.rename(directory)


def read_manifest(directory: Path, kind: str) -> dict[str, Any]:
    """The manifest of a finished artifact of this kind; ValueError says what is there instead."""
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(f"{directory}: not a {kind} artifact (no {MANIFEST}; it is absent or was never finished)")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ValueError(f"{directory}: an artifact of kind {found!r}, expected {kind!r}")
    return manifest


def found(root: Path, kind: str) -> dict[str, Path]:
    """Finished artifacts of this kind by their ids: `root` itself, or those directly below it."""
    directories = [root] if exists(root) else sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    listed: dict[str, Path] = {}
    for directory in directories:
        try:
            listed[read_manifest(directory, kind)["id"]] = directory
        except ValueError:  # of another kind: an export lies beside its bundle
            continue
    return listed
