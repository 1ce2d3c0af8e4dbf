"""Where files are: local paths, globs and URIs (s3, gs, any fsspec scheme) behind one way to list and open them.

Knows no format: what the bytes mean is the readers' business.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs as pafs

_MAGIC = frozenset("*?[")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"PK\3\4": "zip"}


@dataclass(frozen=True)
class File:
    """One file: `uri` opens it, `label` (its path under the root) names it in messages and records."""

    uri: str
    label: str
    size: int
    mtime: float


def open_file(uri: str) -> pa.NativeFile:
    """Opens a file for random access."""
    filesystem, path = _filesystem(uri)
    try:
        return filesystem.open_input_file(path)
    except OSError as error:
        raise ValueError(f"{uri}: cannot be opened ({_reason(error)})") from error


def refuse_compressed(file: File) -> None:
    """ValueError for what only opens as a whole, where parts of a file are read."""
    with open_file(file.uri) as handle:
        head = handle.read(max(map(len, _COMPRESSED)))
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise ValueError(f"{file.label}: is compressed ({name}), and is read in parts; unpack it first")


def find(root: str, patterns: Sequence[str], where: str) -> list[File]:
    """The files of paths, globs or URIs, in order; a directory gives every file below it."""
    found: dict[str, File] = {}
    for pattern in patterns:
        matches = _match(root, pattern)
        if not matches:
            raise ValueError(f"{where}: no file matches {_absolute(root, pattern)}")
        found.update({file.uri: file for file in matches})
    return list(found.values())


def _absolute(root: str, pattern: str) -> str:
    if "://" in pattern or pattern.startswith("/"):
        return pattern
    return posixpath.join(root, pattern)


def _match(root: str, pattern: str) -> list[File]:
    uri = _absolute(root, pattern)
    filesystem, path = _filesystem(uri)
    before, after = _around(uri)
    try:
        if _MAGIC & set(path):
            parts = path.split("/")
            fixed = next(i for i, part in enumerate(parts) if _MAGIC & set(part))
            deep = fixed < len(parts) - 1 or "**" in parts
            selector = pafs.FileSelector("/".join(parts[:fixed]) or "/", allow_not_found=True, recursive=deep)
            infos = [info for info in filesystem.get_file_info(selector) if _glob(info.path, path)]
        else:
            info = filesystem.get_file_info(path)
            infos = [info]
            if info.type == pafs.FileType.Directory:
                infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise ValueError(f"{uri}: cannot be listed ({_reason(error)})") from error
    start = _filesystem(root)[1].rstrip("/") + "/"
    return [
        File(
            uri=f"{before}{info.path}{after}",
            label=info.path.removeprefix(start),
            size=info.size or 0,
            mtime=(info.mtime_ns or 0) / 1e9,
        )
        for info in sorted(infos, key=lambda info: info.path)
        if info.type == pafs.FileType.File
    ]


def _around(uri: str) -> tuple[str, str]:
    """What stands before and after a file's path in its URI; local files go by their plain path."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme == "file":
        return "", ""
    query = rest.find("?") if scheme in ("s3", "gs", "gcs", "hdfs", "abfs") else -1
    return f"{scheme}://", rest[query:] if query >= 0 else ""


def _glob(path: str, pattern: str) -> bool:
    """Shell matching part by part, so that `*` stays within one directory; `**` spans any number of them."""
    return _parts(path.strip("/").split("/"), pattern.strip("/").split("/"))


def _parts(path: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(_parts(path[i:], pattern[1:]) for i in range(len(path) + 1))
    return bool(path) and fnmatch.fnmatchcase(path[0], pattern[0]) and _parts(path[1:], pattern[1:])


def _filesystem(uri: str) -> tuple[Any, str]:
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute()) if not uri.startswith("/") else uri
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    except pa.ArrowInvalid:  # a scheme Arrow does not know
        pass
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{uri}: cannot be reached ({_reason(error)})") from error
    import fsspec

    scheme, _, path = uri.partition("://")
    try:
        handler = pafs.FSSpecHandler(fsspec.filesystem(scheme))
    except (ValueError, ImportError) as error:
        raise ValueError(f"{uri}: scheme {scheme!r} is not supported here ({_reason(error)})") from error
    return pafs.PyFileSystem(handler), path


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
