"""CSV and TSV: their header, which newlines end a row, and the cells of rows.

Cells are as Python's csv reads them. Knows nothing of what the columns mean.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from unimir.data.files import File, open_file
from unimir.data.rows import Rejects

_LONGEST = (1 << 31) - 1  # characters of a cell; by default csv cuts the row in two after 131,072


class Quotes:
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


def header(format: str, file: File) -> tuple[list[str], int]:
    """Column names and the number of bytes they take."""
    with open_file(file.uri) as handle:
        head: bytes = handle.read(1 << 20)
    end = head.find(b"\n") + 1 or len(head)
    line = head[:end].rstrip(b"\r\n")
    if b"\r" in line and end == len(head):
        raise ValueError(f"{file.label}: its lines end in a carriage return alone, expected newlines")
    names: list[str] = next(_reader(line.decode("utf-8-sig", "replace"), format), [])
    if not names:
        raise ValueError(f"{file.label}: no header line with the columns' names")
    return names, end


def cells(
    data: bytes, names: list[str], row: int, format: str, rejects: Rejects
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of whole lines as (row number, values by column); `row` is the first one's number."""
    # Bytes that are not UTF-8 become lone surrogates, which reject their own row later and no other.
    text = data.decode("utf-8", "surrogateescape")
    reader = _reader(text, format)
    for number in count(row):
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


def _reader(text: str, format: str) -> Any:
    csv.field_size_limit(_LONGEST)
    if format == "tsv":
        return csv.reader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(io.StringIO(text, newline=""))
