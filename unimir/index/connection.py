"""What any client of Milvus needs: credentials from the environment, a check of the server's age, errors of our own.

Knows no collection.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import grpc
from pymilvus import MilvusException

_NOT_LOADED, _NOT_FOUND, _NO_CONNECTION = 101, 100, 2
_SAFE = {(2, 4): 24, (2, 5): 27, (2, 6): 10}
"""First patch release without CVE-2025-64513 and CVE-2026-26190, by minor release; later minors have none."""


class IndexUnavailable(ConnectionError):
    """Milvus cannot be reached, or did not answer within the deadline. Trying again later may help."""


class IndexRefused(OSError):
    """Milvus answered, and would not do it: a full disk, a server too old, a name that is taken."""


class NotLoaded(Exception):
    """The collection is there but not searchable yet."""


class mapped:
    """Turns what Milvus and gRPC raise into this module's errors: pymilvus lets raw gRPC errors through."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, (grpc.RpcError, MilvusException)):
            return
        # pymilvus tries again until its deadline, and then gives gRPC's code as if it were Milvus's.
        status = error.code() if isinstance(error, grpc.RpcError) else error.code
        if isinstance(status, grpc.StatusCode):
            raise IndexUnavailable(f"Milvus does not answer ({status.name})") from error
        assert isinstance(error, MilvusException)
        message = " ".join(str(error.message).split())[:300]
        if error.code == _NOT_LOADED:
            raise NotLoaded(message) from error
        if error.code == _NO_CONNECTION:
            raise IndexUnavailable(f"Milvus does not answer ({message})") from error
        if error.code == _NOT_FOUND:
            raise ValueError(f"no such collection or alias in Milvus ({message})") from error
        raise IndexRefused(f"Milvus refuses ({message})") from error


def login() -> dict[str, Any]:
    """User, password, token and TLS files, as the environment has them."""
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs a traceback for what is raised anyway
    names = ("user", "password", "token", "ca_pem_path", "client_pem_path", "client_key_path", "server_name")
    found: dict[str, Any] = {name: value for name in names if (value := os.environ.get(f"MILVUS_{name.upper()}"))}
    # pymilvus pings every ten seconds, which Milvus Lite's server takes for abuse; our calls have deadlines instead.
    return {**found, "grpc_options": {"grpc.keepalive_time_ms": 600_000, "grpc.keepalive_permit_without_calls": False}}


def _server(version: str) -> tuple[int, int, int] | None:
    """The release of a server; None for Milvus Lite, whose version has a name before it."""
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def is_lite(version: str) -> bool:
    """Whether it is the embedded Milvus."""
    return _server(version) is None


def partition_keys(version: str) -> bool:
    """Whether rows that are upserted can be found by a partition key: 2.3 puts them where it does not look for them."""
    return (_server(version) or (9, 0, 0)) >= (2, 4, 0)


def ranks_keywords(version: str) -> bool:
    """Whether it can rank by BM25 beside vectors."""
    return (_server(version) or (9, 0, 0)) >= (2, 5, 0)


def refuse_unsafe(uri: str, version: str) -> None:
    """A server with a known way past its authentication is used on this machine only."""
    server = _server(version)
    if server is None or re.match(r"https?://(127\.0\.0\.1|localhost|\[::1\])(:|/|$)", uri):
        return
    major, minor, patch = server
    if (major, minor) < min(_SAFE) or patch < _SAFE.get((major, minor), 0):
        safe = ", ".join(f"{a}.{b}.{c}" for (a, b), c in _SAFE.items())
        raise IndexRefused(f"Milvus {version} at {uri} lets anyone in (CVE-2025-64513, CVE-2026-26190); from {safe} on")
