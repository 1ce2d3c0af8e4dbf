"""Are amounts the bounds that people mean by them, and is what can be read in two ways no amount?"""

import math

import pytest

from unimir.values.agreement import agreed
from unimir.values.amounts import languages, read_amount


def bounds(phrase: str, lang: str) -> tuple[float | None, float | None] | None:
    """The lowest and the highest amount, both within."""
    found = read_amount(phrase, lang, {"kg": "kg"}, exact=True)
    if found is None:
        return None
    low = None if found.low is None else float(f"{found.low:.9g}")
    return low, None if found.high is None else float(f"{math.nextafter(found.high, 0):.9g}")


@pytest.mark.parametrize(
    ("lang", "phrase", "expected"),
    [
        # A multiplier behind a range is of both its numbers.
        ("en", "5-10k", (5000, 10000)),
        ("de", "zwischen 2 und 3 tausend Euro", (2000, 3000)),
        ("ru", "от 5 до 10 тысяч рублей", (5000, 10000)),
        ("ja", "2〜3万円", (20000, 30000)),
        ("en", "from 500 to 2k", (500, 2000)),
        ("en", "10k to 20k dollars", (10000, 20000)),
        ("en", "under 2 mil dollars", None),  # of Spanish
        # Groups of three and decimals.
        ("en", "1,234 kg", (1234, 1234)),
        ("de", "1.234 Euro", (1234, 1234)),
        ("en", "1.234 kg", None),
        ("de", "ab 1,234", None),
        ("en", "under 1.234.567", (None, 1234567)),
        ("en", "0.500 kg", (0.5, 0.5)),
        ("en", "under $.99", None),
        ("de", "unter 1.234,50", (None, 1234.5)),
        ("en", "-5 to 10", None),
        ("en-GB", "under 50 pounds", (None, 50)),
        ("ar", "أقل من ٥٠ يورو", (None, 50)),
        ("en", "\U00011bf0 kg", None),  # a digit of Unicode 16
    ],
)
def test_amounts_are_what_people_mean(lang: str, phrase: str, expected: tuple[float, float] | None) -> None:
    assert bounds(phrase, lang) == expected


def test_a_few_are_no_number() -> None:
    assert agreed(lambda lang: read_amount("不到几千元", lang, {}, exact=True), languages()) is None
