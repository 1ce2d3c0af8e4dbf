"""Are the n-grams those of each text alone, by hand and at any batch order?"""

import pytest
import torch
from tiny import build
from torch.testing import assert_close

from unimir.model.ngrams import NgramEmbedding
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


def test_order_of_words_changes_the_vector() -> None:
    model = build()
    z = model.text(TokenBatch.from_lists([[5, 6, 7], [7, 6, 5]])).z_BD
    assert not torch.allclose(z[0], z[1], atol=1e-3)
