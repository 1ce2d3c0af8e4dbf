"""Stores to test against: the embedded default."""

from collections.abc import Iterator

import pytest

from unimir.index.lite import embedded
from unimir.index.store import Store


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def store(milvus_uri: str) -> Iterator[Store]:
    opened = Store(milvus_uri)
    yield opened
    opened.close()
