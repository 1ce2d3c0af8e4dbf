"""Are words the same words in every script, and safe from whatever analyzer a backend has?"""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.index.keywords import MAX_KEYWORDS, keywords_of


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_keywords_are_codes_that_no_analyzer_takes_apart(text: str) -> None:
    assert re.fullmatch(r"([0-9a-f]{8}( [0-9a-f]{8})*)?", keywords_of(text))


def test_keywords_are_words_of_any_script() -> None:
    assert len(keywords_of("赤い犬 dog's 12").split()) == 6
    assert keywords_of("Straße ＤＯＧ") == keywords_of("STRASSE dog")
    assert len(keywords_of("हिन्दी நாய் ภาษา").split()) == 2 + len("ภาษา")
    assert len(keywords_of("w " * 10_000)) < 9 * MAX_KEYWORDS
