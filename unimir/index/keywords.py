"""Keywords: a text as the words that BM25 counts, alike in every language and on every Milvus.

Milvus Lite's analyzer knows no combining marks and no script without spaces, a server has other analyzers; so words are
cut here and given to either as codes that no analyzer takes apart. Knows no client and no row.
"""

from __future__ import annotations

import unicodedata
import zlib

import regex

NONE = "zz"
"""Asks for no word at all: codes are hexadecimal."""
MAX_KEYWORDS = 7000
"""Words of one text that count; their codes fill what a text column can hold."""
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # a letter of these is a word
_WORD = regex.compile(rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+", regex.V1)


def keywords_of(text: str) -> str:
    """The text's words as codes of eight hexadecimal digits with spaces between; case and width do not count."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())[:MAX_KEYWORDS]
    return " ".join([f"{zlib.crc32(word.encode()):08x}" for word in words])
