"""Is every way in which Milvus can be away an IndexUnavailable, whoever says so?"""

import grpc
import pytest
from pymilvus import MilvusException

from unimir.index.connection import IndexRefused, IndexUnavailable, mapped


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        # What pymilvus raises when its tries have taken as long as the call may.
        (MilvusException(grpc.StatusCode.UNAVAILABLE, "[upsert_rows] Retry timeout: 10s"), IndexUnavailable),
        (MilvusException(grpc.StatusCode.DEADLINE_EXCEEDED, "[search] Retry timeout: 10s"), IndexUnavailable),
        (MilvusException(2, "Fail connecting to server"), IndexUnavailable),
        (MilvusException(100, "collection not found"), ValueError),
        (MilvusException(1100, "out of disk"), IndexRefused),
    ],
)
def test_errors_of_the_client_are_ours(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as found, mapped():
        raise raised
    assert type(found.value) is expected


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), mapped():
        raise KeyError("x")
