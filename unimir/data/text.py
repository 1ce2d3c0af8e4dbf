"""Texts to token ids and back to character spans, the same offline and online.

Knows no corpus and no model: a tokenizer is a file `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

Offsets = Sequence[tuple[int, int]]
Span = tuple[int, int, str]

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
_PAD_NAMES = ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>")
_MASK_NAMES = ("<mask>", "[MASK]", "<|mask|>")


def train_tokenizer(texts: Iterator[str], vocab_size: int, path: Path) -> None:
    """Trains a byte-fallback BPE and writes tokenizer.json; equal texts give equal bytes."""
    sample = list(texts)
    if not any(sample):
        raise ValueError("no text to train a tokenizer on")
    # The trainer breaks ties between rare characters by hash order; choosing the alphabet here keeps it deterministic.
    # A quarter of the vocabulary at most: what is left out is spelt in bytes.
    counts = Counter(chain.from_iterable(sample))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    learned = vocab_size - 256
    alphabet = ["▁", *(char for char, _ in ranked[: learned // 4] if not char.isspace() and char != "▁")]
    tokenizer = _blank()
    trainer = trainers.BpeTrainer(
        vocab_size=learned,
        special_tokens=list(SPECIALS),
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    spec = json.loads(tokenizer.to_str())
    trained = spec["model"]["vocab"]
    # Bytes are plain vocabulary entries, not added tokens: a literal "<0x41>" in a text stays six characters,
    # which no merge can join because digits and punctuation are split off first.
    names = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [piece for piece in sorted(trained, key=trained.__getitem__) if piece not in SPECIALS]
    spec["model"]["vocab"] = {piece: index for index, piece in enumerate(names)}
    path.write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")


def _blank() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=False))
    # Han and Hiragana are cut into characters: without spaces a learned piece would run across the end of a slot.
    characters = pre_tokenizers.Split(Regex(r"[\p{Han}\p{Hiragana}]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(),
            characters,
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", SPECIALS.index("<s>")), ("</s>", SPECIALS.index("</s>"))]
    )
    return tokenizer


def tokenizer_file(name: str) -> Path:
    """The tokenizer.json that a path, a directory or the name of a Hugging Face model means.

    A name is looked up in the local cache and then fetched. ValueError if there is none.
    """
    path = Path(name)
    if path.exists():
        return path / "tokenizer.json" if path.is_dir() else path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        # Its pad token is named beside it.
        hf_hub_download(name, "tokenizer_config.json")
        return Path(hf_hub_download(name, "tokenizer.json"))
    except (OSError, HFValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"tokenizer {name!r}: neither a path nor a model that can be fetched ({reason})") from error


def whole_tokenizer(file: Path) -> bytes:
    """A tokenizer.json that says itself which token pads, if need be: its directory may say so in another file."""
    tokenizer = Tokenizer.from_file(str(file))
    pad, data = _pad_id(tokenizer, file), file.read_bytes()
    if _pad_of(tokenizer, []) == pad:
        return data
    tokenizer.enable_padding(pad_id=pad, pad_token=tokenizer.id_to_token(pad))
    whole: str = tokenizer.to_str()
    return whole.encode()


class TextTokenizer:
    """A tokenizer that truncates to `max_tokens`, special tokens included, and never pads."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, pad_id: int) -> None:
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens)
        tokenizer.encode_special_tokens = True  # "<s>" typed by a user is text, not the special token
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.pad_id = pad_id
        self.mask_id = next((i for i in map(tokenizer.token_to_id, _MASK_NAMES) if i is not None), None)
        self.vocab_size = tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def specials(self) -> dict[str, str]:
        """Names of the special tokens that other libraries ask for, by role: pad and, if there is one, mask."""
        found = {"pad": self.pad_id, "mask": self.mask_id}
        return {role: str(self._tokenizer.id_to_token(token)) for role, token in found.items() if token is not None}

    @classmethod
    def from_file(cls, path: Path, max_tokens: int) -> TextTokenizer:
        """Loads tokenizer.json, given itself or by the Hugging Face directory that holds it."""
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise ValueError(f"{file}: no tokenizer there (expected a tokenizer.json, or a directory with one)")
        if max_tokens < 3:
            raise ValueError(f"max_tokens is {max_tokens}; at least 3 (two are special tokens)")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{file}: not a tokenizer.json ({str(error).splitlines()[0]})") from error
        return cls(tokenizer, max_tokens, _pad_id(tokenizer, file))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, with special tokens."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids and, for each token, its character span without the leading space; (0, 0) for special tokens."""
        result = []
        for text, encoding in zip(texts, self._tokenizer.encode_batch(list(texts)), strict=True):
            offsets = [
                (0, 0) if special else _trim(text, start, end)
                for (start, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
            ]
            result.append((encoding.ids, offsets))
        return result

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    return start, end


def _pad_id(tokenizer: Tokenizer, file: Path) -> int:
    named: list[str] = []
    config = file.with_name("tokenizer_config.json")
    if config.is_file():
        pad = json.loads(config.read_text(encoding="utf-8")).get("pad_token")
        named = [pad["content"] if isinstance(pad, dict) else pad] if pad else []
    found = _pad_of(tokenizer, named)
    if found is None:
        raise ValueError(f"{file}: no padding token (looked for {', '.join([*named, *_PAD_NAMES])})")
    return found


def _pad_of(tokenizer: Tokenizer, named: Sequence[str]) -> int | None:
    """The first there is of these tokens, the one that the tokenizer itself pads with, and the usual ones."""
    own = [tokenizer.padding["pad_token"]] if tokenizer.padding else []
    found = (tokenizer.token_to_id(name) for name in (*named, *own, *_PAD_NAMES))
    return next((int(token) for token in found if token is not None), None)


def align_slots(offsets: Offsets, slots: Sequence[Span]) -> list[Span]:
    """Token spans [start, end) of the tokens that touch each character span; slots cut by truncation are dropped."""
    covered = max((end for _, end in offsets), default=0)
    aligned = []
    for start, end, label in slots:
        touched = [i for i, (left, right) in enumerate(offsets) if left < right and left < end and right > start]
        if touched and end <= covered:
            aligned.append((touched[0], touched[-1] + 1, label))
    return aligned
