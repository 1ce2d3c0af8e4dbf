"""Formats whose rows are Python values: JSON lines, CSV, TSV, CoNLL, and the archives' members.

Knows where rows lie in the bytes of a file; a malformed row is noted and passed over, never an error of the run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa

from unimir.data.archives import pictures_of, read_folder, read_tar
from unimir.data.delimited import Quotes, cells, header
from unimir.data.files import File, open_file, refuse_compressed
from unimir.data.rows import Rejects, Role, pick, table_of

Record = tuple[int, dict[str, Any]]
Part = tuple[int, int, int]

_BLOCK = 1 << 24
_CHUNK_BYTES = 1 << 26
_COMMENT = re.compile(r"#\s*(text|intent)\s*[=:]\s?(.*)")
_WHOLE = 1 << 62
_HEAD = 100  # rows that show a file's columns
_KEYS = 100_000  # rows of JSON lines in which a key must come up: a row need not have what it does not use


def parts(format: str, file: File, wanted: Mapping[str, Role], rows: int) -> Iterator[Part]:
    """The file's units as (start, stop, first row); ValueError if a wanted column is nowhere to be found."""
    bounds = list(_bounds(format, file, rows))
    _check(format, file, bounds, wanted)
    yield from bounds


def column_names(format: str, file: File) -> list[str]:
    """The columns that the first rows have; a line format is read up to the end of its first block only."""
    bounds = list(islice(_bounds(format, file, _HEAD), 1))
    found = dict.fromkeys(_header(format, file))
    for _, record in islice(_rows(format, file, bounds, {}), _HEAD):
        found.update(_names(record))
    return list(found)


def _bounds(format: str, file: File, rows: int) -> Iterator[Part]:
    if format in ("jsonl", "csv", "tsv", "conll"):
        refuse_compressed(file)
    if format == "jsonl":
        yield from _line_bounds(file, rows, 0, quoted=False)
    elif format in ("csv", "tsv"):
        yield from _line_bounds(file, rows, header(format, file)[1], quoted=format == "csv")
    elif format == "imagefolder":
        count = len(pictures_of(file))
        yield from ((start, min(start + rows, count), start) for start in range(0, count, rows))
    else:
        yield 0, _WHOLE, 0


def _header(format: str, file: File) -> list[str]:
    return header(format, file)[0] if format in ("csv", "tsv") else []


def _rows(format: str, file: File, bounds: list[Part], wanted: Mapping[str, Role]) -> Iterator[Record]:
    return chain.from_iterable(read(format, file, *part, wanted, Rejects("", file.label), {}) for part in bounds)


def _names(record: Mapping[str, Any]) -> dict[str, None]:
    inner = (f"{name}.{key}" for name, value in record.items() if isinstance(value, Mapping) for key in value)
    return dict.fromkeys([*record, *inner])


def _check(format: str, file: File, bounds: list[Part], wanted: Mapping[str, Role]) -> None:
    """Looks into the first rows: a column that none of them has is a mistake of the manifest."""
    names, seen = dict.fromkeys(_header(format, file)), 0
    missing = [name for name in wanted if name not in names]
    for _, record in islice(_rows(format, file, bounds, wanted), _KEYS if format == "jsonl" else _HEAD):
        if not missing:
            return
        seen += 1
        names.update(_names(record))
        missing = [name for name in missing if name not in names and pick(record, name) is None]
    if missing and names:
        where = f" in its first {seen:,} rows" if seen == _KEYS else ""
        raise ValueError(f"{file.label}: no column {missing[0]!r}{where}; available columns: {', '.join(names)}")


def read(
    format: str,
    file: File,
    start: int,
    stop: int,
    row: int,
    wanted: Mapping[str, Role],
    rejects: Rejects,
    rename: Mapping[str, str],
) -> Iterator[Record]:
    """Rows of one unit as (row number in the file, values by raw column)."""
    if format == "webdataset":
        return read_tar(file, wanted, rejects)
    if format == "imagefolder":
        return read_folder(file, start, stop, wanted)
    if format == "conll":
        return _conll(_bytes(file, 0, file.size), rejects, rename)
    data = _bytes(file, start, stop)
    if format == "jsonl":
        return _jsonl(data, row, rejects)
    return cells(data, _header(format, file), row, format, rejects)


def chunks(records: Iterable[Record], wanted: dict[str, Role], rejects: Rejects, rows: int) -> Iterator[pa.Table]:
    """Raw tables of at most `rows` rows, and of bounded bytes where rows carry pictures."""
    batch: list[Record] = []
    size = 0
    images = [name for name, role in wanted.items() if role == "image"]
    for record in records:
        batch.append(record)
        size += sum(len(record[1].get(name) or b"") for name in images)
        if len(batch) >= rows or size > _CHUNK_BYTES:
            yield table_of(batch, wanted, rejects)
            batch, size = [], 0
    if batch:
        yield table_of(batch, wanted, rejects)


# ---- lines ----------------------------------------------------------------------------------------------------------


def _bytes(file: File, start: int, stop: int) -> bytes:
    with open_file(file.uri) as handle:
        handle.seek(start)
        data: bytes = handle.read(stop - start)
        return data


def _line_bounds(file: File, rows: int, start: int, quoted: bool) -> Iterator[Part]:
    """Byte ranges of `rows` lines each; in CSV a newline inside quotes does not end a row."""
    first, counted, offset, row = start, 0, start, 0
    quotes = Quotes()
    with open_file(file.uri) as handle:
        handle.seek(start)
        while block := handle.read(_BLOCK):
            codes = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(codes == 10)
            if quoted:
                ends = ends[~quotes.around(ends, codes)]
            for position in ends[rows - counted - 1 :: rows].tolist():
                yield first, offset + position + 1, row
                first, row = offset + position + 1, row + rows
            counted = (counted + len(ends)) % rows
            offset += len(block)
    if offset > first:
        yield first, offset, row


def _jsonl(data: bytes, row: int, rejects: Rejects) -> Iterator[Record]:
    for number, line in enumerate(data.split(b"\n"), row):
        if not line.strip():
            if number == row + data.count(b"\n"):  # what follows the last newline is no line
                return
            rejects.add(number, "empty line")
            continue
        try:
            value = json.loads(line)
        except UnicodeDecodeError:
            rejects.add(number, "invalid UTF-8", repr(line[:100]))
        except (ValueError, RecursionError) as error:
            rejects.add(number, "invalid JSON", str(error))
        else:
            if isinstance(value, dict):
                yield number, value
            else:
                rejects.add(number, "wrong type", f"expected an object, got {type(value).__name__}")


# ---- CoNLL ----------------------------------------------------------------------------------------------------------


def _conll(data: bytes, rejects: Rejects, rename: Mapping[str, str]) -> Iterator[Record]:
    number = 0
    for block in re.split(rb"\r?\n[ \t]*(?:\r?\n[ \t]*)+", data.strip(b"\r\n")):
        if not block.strip():
            continue
        try:
            yield number, _sentence(block.decode(), rename)
        except UnicodeDecodeError:
            rejects.add(number, "invalid UTF-8", repr(block[:100]))
        except ValueError as error:
            rejects.add(number, "malformed sentence", str(error))
        number += 1


def _sentence(block: str, rename: Mapping[str, str]) -> dict[str, Any]:
    said: dict[str, str] = {}
    tokens: list[tuple[str, str]] = []
    for line in block.splitlines():
        comment = _COMMENT.match(line)
        if comment:
            said[comment[1]] = comment[2].strip()
        elif not line.startswith("#"):
            cells = line.split("\t")
            if len(cells) < 4:
                raise ValueError(f"{len(cells)} cells in {line[:80]!r}, expected index, token, intent, tag")
            tokens.append((cells[1].strip(), rename.get(cells[3].strip(), cells[3].strip())))
            said.setdefault("intent", cells[2].strip())
    text = said.get("text") or " ".join(token for token, _ in tokens)
    return {"text": text, "intent": said.get("intent"), "slots": _located(text, tokens)}


def _located(text: str, tokens: list[tuple[str, str]]) -> list[list[Any]]:
    """Character spans of BIO tags, each token looked for from the end of the one before."""
    slots: list[list[Any]] = []
    position, previous = 0, ""
    for token, tag in tokens:
        start = text.find(token, position)
        if start < 0:
            raise ValueError(f"token {token!r} is not in the text")
        position = start + len(token)
        prefix, _, label = tag.partition("-")
        if prefix == "I" and label == previous:
            slots[-1][1] = position
        elif prefix in ("B", "I") and label:
            slots.append([start, position, label])
        elif prefix not in ("O", "") or label:
            raise ValueError(f"tag {tag!r}; expected O, B-label or I-label")
        previous = label
    return slots
