"""The embedded Milvus of a service, in an actor that outlives replicas and redeploys.

Knows neither the model nor Ray Serve: what an actor imports, it keeps in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import ray

from unimir.index.lite import embedded


class Milvus:
    """Owns the embedded Milvus of a directory. Others find it by the directory."""

    def __init__(self, directory: Path) -> None:
        self._open = contextlib.ExitStack()
        self._open.enter_context(embedded(directory))

    def ready(self) -> None:
        """Returns once it is up."""


def own_milvus(directory: Path) -> None:
    """Starts the embedded Milvus in an actor that outlives replicas and redeploys, and ends with the cluster.

    A deployment would not do: Serve starts all of an application's anew when any argument of it changes.
    """
    name = f"milvus-{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
    options = {"name": name, "namespace": "unimir", "lifetime": "detached", "get_if_exists": True, "max_restarts": -1}
    ray.get(ray.remote(Milvus).options(num_cpus=0, **options).remote(directory).ready.remote())
