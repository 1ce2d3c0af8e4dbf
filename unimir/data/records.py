"""Formats whose rows are Python values: JSON lines, CSV, TSV, CoNLL, and the archives' members.

Knows how a row is cut out of bytes; a malformed row is noted and passed over, never an error of the run.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimir.data.archives import pictures_of, read_folder, read_tar
from unimir.data.files import File, open_file
from unimir.data.rows import Rejects, Role, pick, table_of

Record = tuple[int, dict[str, Any]]
Part = tuple[int, int, int]

_BLOCK = 1 << 24
_CHUNK_BYTES = 1 << 26
_COMMENT = re.compile(r"#\s*(text|intent)\s*[=:]\s?(.*)")
_WHOLE = 1 << 62
_LONGEST = (1 << 31) - 1  # characters of a cell; by default csv cuts the row in two after 131,072


def parts(format: str, file: File, wanted: Mapping[str, Role], rows: int) -> Iterator[Part]:
    """The file's units as (start, stop, first row); ValueError if a wanted column is nowhere to be found."""
    if format in ("jsonl", "csv", "tsv"):
        header = 0
        if format != "jsonl":
            with open_file(file.uri) as handle:
                header = _header(handle.read(1 << 20), format, file)[1]
        bounds = list(_line_bounds(file, rows, header, quoted=format == "csv"))
    elif format == "imagefolder":
        count = len(pictures_of(file))
        bounds = [(start, min(start + rows, count), start) for start in range(0, count, rows)]
    else:
        bounds = [(0, _WHOLE, 0)]
    if bounds:
        _check(format, file, bounds[0], wanted)
    yield from bounds


def column_names(format: str, file: File) -> list[str]:
    """The columns that the first rows have; a line format is read up to the end of its first block only."""
    part = next(iter(parts(format, file, {}, 100)), None)
    return list(_names(_head(format, file, part, {}))) if part else []


def _head(format: str, file: File, part: Part, wanted: Mapping[str, Role]) -> list[Record]:
    return list(islice(read(format, file, *part, wanted, Rejects("", file.label), {}), 100))


def _names(head: list[Record]) -> dict[str, None]:
    names: dict[str, None] = {}
    for _, record in head:
        names.update(dict.fromkeys(record))
        for name, value in record.items():
            if isinstance(value, Mapping):
                names.update(dict.fromkeys(f"{name}.{inner}" for inner in value))
    return names


def _check(format: str, file: File, part: Part, wanted: Mapping[str, Role]) -> None:
    """Looks into the first rows: a column that none of them has is a mistake of the manifest."""
    head = _head(format, file, part, wanted)
    names = _names(head)
    for name in wanted:
        if head and name not in names and all(pick(record, name) is None for _, record in head):
            raise ValueError(f"{file.label}: no column {name!r}; available columns: {', '.join(names)}")


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
    with open_file(file.uri) as handle:
        names, _ = _header(handle.read(1 << 20), format, file)
    return _delimited(data, names, row, format, rejects)


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
    quotes = _Quotes()
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


class _Quotes:
    """Follows the quotes of a CSV file block by block: those that open a cell at its start, close it, or are doubled.

    A quote anywhere else, as of inches, is a character like others, as for Python's csv.
    """

    def __init__(self) -> None:
        self._inside, self._closed, self._last = False, False, 10  # of the byte before the block

    def around(self, places: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        """Which of the places in the next block lie inside quotes."""
        quotes = self._counted(np.flatnonzero(codes == 34), codes)
        inside: npt.NDArray[np.bool_] = (np.searchsorted(quotes, places) + self._inside) % 2 == 1
        self._inside = (len(quotes) + self._inside) % 2 == 1
        self._closed = len(quotes) > 0 and quotes[-1] == len(codes) - 1 and not self._inside
        self._last = int(codes[-1])
        return inside

    def _counted(self, quotes: npt.NDArray[np.int64], codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
        """The quotes that open or close."""
        before = np.where(quotes > 0, codes[quotes - 1], self._last)
        starts = np.isin(before, (ord(","), 10, 13))
        opens = np.arange(len(quotes)) % 2 == int(self._inside)
        doubled = before == 34
        doubled[:1] &= self._closed
        if np.all(starts | doubled | ~opens):
            return quotes
        inside, closed, counted = self._inside, -1 if self._closed else -2, []
        for place, start in zip(quotes.tolist(), starts.tolist(), strict=True):
            if inside:
                inside, closed = False, place
            elif start or closed == place - 1:
                inside = True
            else:
                continue
            counted.append(place)
        return np.array(counted, np.int64)


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


def _reader(text: str, format: str) -> Any:
    csv.field_size_limit(_LONGEST)
    if format == "tsv":
        return csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(io.StringIO(text, newline=""))


def _header(head: bytes, format: str, file: File) -> tuple[list[str], int]:
    """Column names and the number of bytes they take."""
    end = head.find(b"\n") + 1 or len(head)
    names: list[str] = next(_reader(head[:end].decode("utf-8-sig", "replace").rstrip("\r\n"), format), [])
    if not names:
        raise ValueError(f"{file.label}: no header line with the columns' names")
    return names, end


def _delimited(data: bytes, names: list[str], row: int, format: str, rejects: Rejects) -> Iterator[Record]:
    # Bytes that are not UTF-8 become lone surrogates, which reject their own row later and no other.
    text = data.decode("utf-8", "surrogateescape")
    reader = _reader(text, format)
    for number in range(row, _WHOLE):
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rejects.add(number, "malformed row", str(error))
            continue
        if len(values) == len(names):
            yield number, dict(zip(names, values, strict=True))
        elif values:
            rejects.add(number, "malformed row", f"{len(values)} fields, expected {len(names)}")
        else:
            rejects.add(number, "empty line")


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
