"""Stores to test against: the embedded default, or (see tests/real) a server."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unimir.index.lite import embedded
from unimir.index.store import Store


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """A real Milvus on this machine's loopback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an old package
        from milvus import default_server
    default_server.set_base_dir(str(directory))
    default_server.start()
    try:
        yield f"http://127.0.0.1:{default_server.listen_port}"
    finally:
        default_server.stop()


@pytest.fixture(scope="session")
def milvus_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    start = server if os.environ.get("UNIMIR_TEST_MILVUS") == "server" else embedded
    with start(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture(scope="session")
def store(milvus_uri: str) -> Iterator[Store]:
    opened = Store(milvus_uri)
    yield opened
    opened.close()
