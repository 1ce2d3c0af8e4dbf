"""Time expressions of microsoft/Recognizers-Text (MIT), with their reference times: how many resolve, and rightly?"""

import json
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from unimir.values.calendar_units import Range
from unimir.values.times import resolve

DATA = Path(__file__).parents[3] / "shared" / "data" / "time" / "recognizers.jsonl"
DAY = timedelta(1)
pytestmark = [
    pytest.mark.atlas,
    pytest.mark.skipif(not DATA.is_file(), reason="the open data of recipe atlas is not beside the checkout"),
]


def day(text: str | None) -> date | None:
    return date.fromisoformat(text[:10]) if text else None


def agrees(found: Range, value: dict[str, str]) -> bool:
    """Whether a range is this resolution; sources differ on whether a bound that is named belongs to the range."""
    try:
        if "value" in value:
            start = date.fromisoformat(value["value"][:10])
            return (found.start, found.end) == (start, start + DAY)
        start, end = day(value.get("start")), day(value.get("end"))
    except ValueError:  # such as XXXX-06: no day of any year
        return False
    starts = {found.start, found.start and found.start - DAY}
    ends = {found.end, found.end and found.end - DAY}
    return start in starts and end in ends


def outcome(text: str, lang: str, reference: datetime, values: list[dict[str, str]]) -> str:
    ranges = [resolve(text, lang, reference, inclusive=inclusive) for inclusive in (False, True)]
    found = [one for one in ranges if one is not None]
    if not found:
        return "none"
    return "exact" if any(agrees(one, value) for one in found for value in values) else "wrong"


def expressions(lang: str) -> list[tuple[str, datetime, list[dict[str, Any]]]]:
    """Texts of the types date and daterange that the source resolves."""
    listed = []
    for row in map(json.loads, DATA.read_text(encoding="utf-8").splitlines()):
        if row["lang"] != lang or not row["reference"]:
            continue
        for one in row["results"]:
            values = [value for value in one["values"] or () if value.get("value") != "not resolved"]
            if (one["type"] or "").split(".")[-1] in ("date", "daterange") and values:
                listed.append((one["text"], datetime.fromisoformat(row["reference"]), values))
    return listed


@pytest.mark.parametrize("lang", ["en", "de", "es", "fr", "zh", "it", "pt"])
def test_times_resolve_exactly_or_not_at_all(lang: str, record_property: Any) -> None:
    listed = expressions(lang)
    counted = Counter(outcome(text, lang, reference, values) for text, reference, values in listed)
    shares = {kind: counted[kind] / len(listed) for kind in ("exact", "wrong")}
    record_property("shares", shares)
    assert len(listed) >= 16
    assert shares["exact"] >= 0.80, shares
    assert shares["wrong"] <= 0.03, shares
