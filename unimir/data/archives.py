"""WebDataset tars and folders of pictures: rows whose values are whole files.

Knows how members become rows and columns; a malformed member rejects its row, a broken tar is an error.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

from unimir.data.files import File, find, open_file
from unimir.data.rows import Rejects, Role

Record = tuple[int, dict[str, Any]]

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")


def read_tar(file: File, wanted: Mapping[str, Role], rejects: Rejects) -> Iterator[Record]:
    """Members that share a path up to the first dot of the name are one row; extensions are its columns."""
    heads = {name.split(".")[0] for name in wanted} | set(wanted)
    with open_file(file.uri) as handle:
        try:
            with tarfile.open(fileobj=handle, mode="r:*") as archive:
                members = (member for member in archive if member.isfile() and not _hidden(member.name))
                for number, (key, group) in enumerate(groupby(members, key=lambda member: _key(member.name)[0])):
                    record: dict[str, Any] = {"__key__": key}
                    try:
                        for member in group:
                            extension = _key(member.name)[1]
                            if extension in heads:
                                content = archive.extractfile(member)
                                record[extension] = _value(content.read() if content else b"", extension)
                            else:
                                record[extension] = None  # named in messages, never read
                    except UnicodeDecodeError as error:
                        rejects.add(number, "invalid UTF-8", f"{key}: {error}")
                    except json.JSONDecodeError as error:
                        rejects.add(number, "invalid JSON", f"{key}: {error}")
                    else:
                        yield number, record
        except (tarfile.TarError, EOFError, OSError) as error:
            raise ValueError(f"{file.label}: not a readable tar ({str(error).splitlines()[0]})") from error


def _key(name: str) -> tuple[str, str]:
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return posixpath.join(folder, stem), extension.lower()


def _hidden(name: str) -> bool:
    return posixpath.basename(name).startswith(".")


def _value(data: bytes, extension: str) -> Any:
    if extension.rsplit(".")[-1] == "json":
        return json.loads(data)
    return data.decode() if extension in ("txt", "cls", "text", "caption") else data


def folder_file(root: str, path: str, where: str) -> File:
    """A folder of pictures taken as one file whose rows are the pictures in order of their paths."""
    files = [file for file in find(root, [path], where) if file.uri.lower().endswith(_PICTURES)]
    if not files:
        raise ValueError(f"{where}: no picture below {path}; looked for {', '.join(_PICTURES)}")
    uri = path if "://" in path or path.startswith("/") else posixpath.join(root, path)
    return File(uri, path, sum(file.size for file in files), max(file.mtime for file in files))


@lru_cache(maxsize=1)
def pictures_of(file: File) -> tuple[File, ...]:
    """The pictures of a folder; kept, for every unit of rows asks for them, and a bucket takes minutes to list."""
    return tuple(one for one in find(file.uri, [file.uri], file.label) if one.uri.lower().endswith(_PICTURES))


def read_folder(file: File, start: int, stop: int, wanted: Mapping[str, Role]) -> Iterator[Record]:
    for number, picture in enumerate(pictures_of(file)[start:stop], start):
        folder = posixpath.basename(posixpath.dirname(picture.uri))
        record: dict[str, Any] = {"image_id": picture.label, "folder": folder}
        if "image" in wanted:
            record["image"] = _content(picture)
        yield number, record


def _content(picture: File) -> bytes:
    with open_file(picture.uri) as handle:
        data: bytes = handle.read()
        return data
