"""Stable 64-bit hashes of texts, sketches of long texts and of pictures; equal over processes and machines.

Knows arrays only: which hashes make two rows duplicates is decided elsewhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

Hashes = npt.NDArray[np.uint64]

LONG = 200  # characters from which a text gets a sketch
SKETCH = 16  # values of a sketch
_SHINGLE = 12
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def hash_strings(texts: pa.Array) -> Hashes:
    """One hash per text; nulls must have been filled."""
    objects = np.asarray(texts.to_numpy(zero_copy_only=False), dtype=object)
    hashes: Hashes = pd.util.hash_array(objects, categorize=False)
    return hashes


def hash_text(text: str) -> np.uint64:
    """The hash of one text."""
    return np.uint64(hash_strings(pa.array([text]))[0])


def mix(values: Hashes) -> Hashes:
    """Spreads every bit over all others (splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX1
    values = (values ^ (values >> np.uint64(27))) * _MIX2
    return values ^ (values >> np.uint64(31))


def combine(first: Hashes | np.uint64, *others: Hashes | np.uint64) -> Hashes:
    """One hash of several, their order included."""
    with np.errstate(over="ignore"):
        result = np.atleast_1d(np.asarray(first, np.uint64))
        for other in others:
            result = mix(result * _ODD + np.atleast_1d(np.asarray(other, np.uint64)))
    return result


def near_hash(texts: pa.Array) -> Hashes:
    """Hash of the text without case, width, punctuation and spaces; of the text itself if nothing else is in it."""
    folded = pc.utf8_lower(texts)
    wide = pc.invert(pc.string_is_ascii(folded))
    if pc.any(wide).as_py():
        folded = pc.replace_with_mask(folded, wide, pc.utf8_lower(pc.utf8_normalize(folded.filter(wide), "NFKC")))
    bare = pc.replace_substring_regex(folded, r"[\p{P}\p{Z}\s]+", "")
    return hash_strings(pc.if_else(pc.equal(bare, ""), texts, bare))


def sketches(texts: pa.Array) -> npt.NDArray[np.uint32]:
    """[texts, SKETCH]: one-permutation min-hash over character 12-grams, for texts of at least that length."""
    lowered = pc.utf8_lower(texts)
    lengths = pc.utf8_length(lowered).to_numpy(zero_copy_only=False).astype(np.int64)
    codes = np.frombuffer("".join(lowered.to_pylist()).encode("utf-32-le"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    count = max(len(codes) - _SHINGLE + 1, 0)
    rolled = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(_SHINGLE):
            rolled = rolled * _ODD + codes[offset : offset + count]
        rolled = mix(rolled)
    whole = owner[:count] == owner[_SHINGLE - 1 : _SHINGLE - 1 + count]
    rolled, owner = rolled[whole], owner[:count][whole]
    result = np.full(len(lengths) * SKETCH, 0xFFFFFFFF, np.uint32)
    buckets = owner * SKETCH + (rolled >> np.uint64(60)).astype(np.int64)
    np.minimum.at(result, buckets, (rolled & np.uint64(0xFFFFFFFF)).astype(np.uint32))
    return result.reshape(-1, SKETCH)


def picture_sketch(image: Image.Image) -> npt.NDArray[np.uint8]:
    """44 bytes: 256 brightness differences of a 16x16 view, and the mean colours of its quarters."""
    view = image.resize((17, 16), Image.Resampling.BOX)
    colours = np.asarray(view, dtype=np.float32)
    grey = colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    # Differences below 2 are noise of compression; in flat areas they must not decide a bit.
    bits = np.packbits(grey[:, 1:] > grey[:, :-1] + 2.0)
    quarters = [colours[y : y + 8, x : x + 8].mean((0, 1)) for y in (0, 8) for x in (0, 8)]
    return np.concatenate([bits, np.concatenate(quarters).astype(np.uint8)])
