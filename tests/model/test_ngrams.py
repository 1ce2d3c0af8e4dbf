"""Are the n-grams those of each text alone, by hand and at any batch order?"""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build
from torch.testing import assert_close

from unimir.model.ngrams import NgramEmbedding, hashes_of
from unimir.model.tokens import TokenBatch


@pytest.fixture
def ngrams() -> NgramEmbedding:
    torch.manual_seed(0)
    return NgramEmbedding(longest=3, buckets=1009, dim=4)


def test_a_token_is_the_sum_of_the_ngrams_that_end_with_it(ngrams: NgramEmbedding) -> None:
    def bucket(*tokens: int) -> int:
        """The n-gram's bucket, reading from its last token back."""
        value = 0
        for token in reversed(tokens):
            value = (value * 1_000_003 + token + 1) % (2**31 - 1)
        return (value * 2_654_435_761 + len(tokens) - 1) % (2**31 - 1) % 1009

    table = ngrams.table.weight
    found = ngrams(TokenBatch.from_lists([[7, 8, 9], [7]]))
    expected = [[(7,)], [(8,), (7, 8)], [(9,), (8, 9), (7, 8, 9)], [(7,)]]
    assert_close(found, torch.stack([sum(table[bucket(*gram)] for gram in grams) for grams in expected]))


def test_other_texts_of_the_batch_do_not_matter(ngrams: NgramEmbedding) -> None:
    texts = [[5, 6], [7, 8, 9, 10], [5], [11, 12, 13]]
    together = ngrams(TokenBatch.from_lists(texts))
    assert_close(together, torch.cat([ngrams(TokenBatch.from_lists([text])) for text in texts]))


def test_every_gradient_stays_in_the_buckets_that_were_read(ngrams: NgramEmbedding) -> None:
    ngrams.table.weight.requires_grad_()
    ngrams(TokenBatch.from_lists([[7, 8]])).sum().backward()
    assert ngrams.table.weight.grad is not None
    gradient = ngrams.table.weight.grad.coalesce()
    assert gradient.values().any(1).tolist() == [True] * 3  # 7, 8 and "7 8"


def test_only_what_was_counted_often_enough_is_looked_up_and_learned() -> None:
    torch.manual_seed(0)
    ngrams = NgramEmbedding(longest=2, buckets=1009, dim=4, least=2)
    every = NgramEmbedding(longest=2, buckets=1009, dim=4)
    every.load_state_dict({"table.weight": ngrams.table.weight})
    asked = TokenBatch.from_lists([[7, 8, 9], [50, 7]])
    assert_close(ngrams(asked), every(asked), rtol=0, atol=0)  # before counting, all are known
    counts = ngrams.count([TokenBatch.from_lists([[7, 8], [9]]), TokenBatch.from_lists([[8, 7, 8]])])
    assert counts.sum() == 8 and counts.shape == (32 * 1009,)
    ngrams.keep(counts)
    known = [[(7,)], [(8,), (7, 8)], [], [], [(7,)]]  # 9 and "8 7" were there once; 50 and "8 9" never
    single = {gram: every(TokenBatch.from_lists([list(gram)])) for gram in ((7,), (8,), (7, 8))}
    vectors = {gram: found[-1] - (single[gram[1:]][0] if len(gram) > 1 else 0) for gram, found in single.items()}
    expected = torch.stack([sum((vectors[gram] for gram in grams), torch.zeros(4)) for grams in known])
    assert_close(ngrams(asked), expected)
    ngrams.table.weight.requires_grad_()
    ngrams(asked).sum().backward()
    assert ngrams.table.weight.grad is not None
    assert ngrams.table.weight.grad.coalesce().values().any(1).sum() == 3


@given(
    texts=st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=30),
    least=st.integers(2, 4),
)
@settings(deadline=None, max_examples=40)
def test_every_frequent_ngram_is_known_and_hardly_another(texts: list[list[int]], least: int) -> None:
    ngrams = NgramEmbedding(longest=3, buckets=4096, dim=1, least=least)
    ngrams.keep(ngrams.count(TokenBatch.from_lists([text]) for text in texts))
    found = Counter(
        tuple(text[end - n : end])
        for text in texts
        for end in range(1, len(text) + 1)
        for n in range(1, min(3, end) + 1)
    )
    wrong = 0
    for gram, count in found.items():
        before = [torch.tensor([token]) for token in reversed(gram)]
        known = bool(ngrams.is_known(hashes_of(before))[0, -1])
        assert known or count < least
        wrong += known and count < least
    assert wrong <= 3 + 0.03 * len(found)  # of a thousand, by chance one in a hundred shares its bit


def test_order_of_words_changes_the_vector() -> None:
    model = build()
    z = model.text(TokenBatch.from_lists([[5, 6, 7], [7, 6, 5]])).z_BD
    assert not torch.allclose(z[0], z[1], atol=1e-3)
