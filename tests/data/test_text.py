"""The tokenizer: any text goes in and comes back; spans of characters and of tokens agree."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimir.bio import spans_from_tags
from unimir.data.text import TextTokenizer, align_slots, train_tokenizer, whole_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), min_size=1)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_file: Path) -> TextTokenizer:
    return TextTokenizer.from_file(tokenizer_file, 100_000)


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_roundtrip_of_any_text(tokenizer: TextTokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    unknown = tokenizer._tokenizer.token_to_id("<unk>")
    assert unknown not in ids
    assert tokenizer.decode(ids).lstrip(" ") == text.lstrip(" ")


@pytest.mark.parametrize("text", ["<0x41>", "<s> </s>", "<mask>", "<pad><unk>", "literally <0x41><0xFF>"])
def test_names_of_special_tokens_are_text(tokenizer: TextTokenizer, text: str) -> None:
    (ids,) = tokenizer.encode([text])
    assert set(ids[1:-1]).isdisjoint(range(5)) and tokenizer.decode(ids) == text


def test_specials_bytes_and_sizes(tokenizer: TextTokenizer) -> None:
    inner = tokenizer._tokenizer
    assert (tokenizer.pad_id, tokenizer.mask_id) == (0, 4)
    assert [inner.token_to_id(f"<0x{byte:02X}>") for byte in (0, 255)] == [5, 260]
    assert tokenizer.vocab_size <= 700
    assert {token.content for token in inner.get_added_tokens_decoder().values()} == {
        "<pad>", "<s>", "</s>", "<unk>", "<mask>"
    }  # fmt: skip
    assert tokenizer.encode(["dog"])[0][0] == 1 and tokenizer.encode(["dog"])[0][-1] == 2


def test_training_is_deterministic(tmp_path: Path) -> None:
    texts = ["eins zwei drei", "日本語 と 한국어", "ab cd ef gh ij", "ба бб бв"]
    for name in ("a", "b"):
        train_tokenizer(iter(texts), 560, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_training_needs_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text to train a tokenizer on"):
        train_tokenizer(iter(["", ""]), 600, tmp_path / "t.json")


def test_truncation_counts_special_tokens(tokenizer_file: Path) -> None:
    short = TextTokenizer.from_file(tokenizer_file, 5)
    assert [len(ids) for ids in short.encode(["the quick brown fox jumps over", "dog"])] == [5, 3]


def test_directory_and_mistakes(tokenizer_file: Path, tmp_path: Path) -> None:
    assert TextTokenizer.from_file(tokenizer_file.parent, 8).vocab_size > 300
    with pytest.raises(ValueError, match="no tokenizer there"):
        TextTokenizer.from_file(tmp_path, 8)
    with pytest.raises(ValueError, match="at least 3"):
        TextTokenizer.from_file(tokenizer_file, 2)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="not a tokenizer.json"):
        TextTokenizer.from_file(tmp_path, 8)


def test_a_padding_token_that_another_file_names_goes_along(tokenizer_file: Path, tmp_path: Path) -> None:
    assert whole_tokenizer(tokenizer_file) == tokenizer_file.read_bytes()  # says so itself
    file, copy = tmp_path / "tokenizer.json", tmp_path / "copy.json"
    file.write_text(tokenizer_file.read_text(encoding="utf-8").replace("<pad>", "<|fill|>"), encoding="utf-8")
    with pytest.raises(ValueError, match="no padding token .looked for <pad>, "):
        TextTokenizer.from_file(file, 8)
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": {"content": "<|fill|>"}}')
    copy.write_bytes(whole_tokenizer(file))
    (tmp_path / "tokenizer_config.json").unlink()
    given, carried = TextTokenizer.from_file(tokenizer_file, 8), TextTokenizer.from_file(copy, 8)
    assert carried.pad_id == given.pad_id and carried.encode(["a dog", "dog"]) == given.encode(["a dog", "dog"])


@pytest.mark.parametrize("text", ["the dog", "日本 x", "  spaced", "é👍🏽!", "a 12 b"])
def test_offsets_lie_on_characters(tokenizer: TextTokenizer, text: str) -> None:
    ((ids, offsets),) = tokenizer.encode_with_offsets([text])
    assert len(ids) == len(offsets) and offsets[0] == offsets[-1] == (0, 0)
    assert [ids] == tokenizer.encode([text])
    for start, end in offsets[1:-1]:
        assert 0 <= start <= end <= len(text)
        assert start == end or not text[start].isspace()
    covered = {at for start, end in offsets for at in range(start, end)}
    assert covered == {at for at, char in enumerate(text) if not char.isspace()}


@given(
    words=st.lists(st.sampled_from(["dog", "fox", "日本", "red12", "é", "the", "trees!"]), min_size=1), data=st.data()
)
@settings(max_examples=200, deadline=None)
def test_aligned_spans_come_back(tokenizer: TextTokenizer, words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    starts = [len(" ".join(words[:i])) + (i > 0) for i in range(len(words))]
    chosen = data.draw(st.sets(st.integers(0, len(words) - 1)))
    slots = [(starts[i], starts[i] + len(words[i]), "ab"[i % 2]) for i in sorted(chosen)]
    ((_, offsets),) = tokenizer.encode_with_offsets([text])
    tags = ["O"] * len(offsets)
    for start, end, label in align_slots(offsets, slots):
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    assert spans_from_tags(tags, offsets) == slots


def test_slots_cut_by_truncation_are_dropped(tokenizer_file: Path) -> None:
    text = "the quick brown fox jumps"
    ((_, offsets),) = TextTokenizer.from_file(tokenizer_file, 4).encode_with_offsets([text])
    assert align_slots(offsets, [(0, 3, "a"), (4, 25, "b"), (20, 25, "c")]) == [(1, 2, "a")]


def test_stray_inside_starts_a_span() -> None:
    offsets = [(0, 0), (0, 3), (4, 7), (8, 11), (0, 0)]
    assert spans_from_tags(["O", "I-a", "I-a", "I-b", "O"], offsets) == [(0, 7, "a"), (8, 11, "b")]
    assert spans_from_tags(["O", "B-a", "B-a", "O", "O"], offsets) == [(0, 3, "a"), (4, 7, "a")]
    assert spans_from_tags(["B-a", "I-a", "O", "I-a", "I-a"], offsets) == [(0, 3, "a"), (8, 11, "a")]
