"""The Ray Serve application: which parts are deployments of their own, and which live in the Gateway's replicas.

`serve run serve_configs/search.yaml` calls `build` with the config's `args`. Knows no route and no search.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from unimir.config import from_dict
from unimir.index.lite import embedded
from unimir.serve.api import make_app
from unimir.serve.door import Door
from unimir.serve.gateway import Gateway
from unimir.serve.keys import Keys
from unimir.serve.parts import ImageEncoder, Retriever, Served, TextEncoder, find_served
from unimir.serve.settings import Settings
from unimir.serve.watch import watch

PARTS: Mapping[str, Callable[[Settings, Served], Any]] = {
    "TextEncoder": TextEncoder,
    "ImageEncoder": ImageEncoder,
    "Retriever": Retriever,
}


def build(args: Mapping[str, Any]) -> Application:
    """The application of a serve config's `args`. ValueError if they, or what they name, do not fit together."""
    settings = from_dict(Settings, args, "args")
    Keys.from_file(settings.keys)
    served = find_served(settings)
    others: dict[str, Any] = {
        name: serve.deployment(PARTS[name], name=name).bind(settings, served) for name in settings.apart
    }
    if settings.milvus is None:
        # Told the directory alone: another setting of the service does not make it start again.
        others["Milvus"] = serve.deployment(Milvus, name="Milvus").bind(str(Path(settings.data).absolute()))
    return serve.deployment(Ingress, name="Gateway").bind(settings, served, **others)


class Milvus:
    """Owns the embedded Milvus, so that it outlives the replicas that use it. They find it by its directory."""

    def __init__(self, directory: str) -> None:
        self._open = contextlib.ExitStack()
        self._open.enter_context(embedded(Path(directory)))

    def __del__(self) -> None:
        self._open.close()


@serve.ingress()
class Ingress:
    """A replica of the Gateway: the ASGI application, over parts of its own or elsewhere."""

    def __init__(self, settings: Settings, served: Served, **others: DeploymentHandle) -> None:
        logging.getLogger("unimir").setLevel(logging.INFO)
        own = {name: make(settings, served) for name, make in PARTS.items() if name not in others}
        made = {**own, **{name: Remote(handle) for name, handle in others.items()}}
        self._gateway = Gateway(settings, served, made["TextEncoder"], made["ImageEncoder"], made["Retriever"])
        self._keys = Keys.from_file(settings.keys)

    def __serve_build_asgi_app__(self) -> Door:
        app = make_app(self._gateway, self._warm)
        return Door(app, self._gateway.settings.limits, self._keys, watch())

    @contextlib.asynccontextmanager
    async def _warm(self, app: FastAPI) -> AsyncIterator[None]:
        """Before the first request."""
        await self._gateway.warm()
        yield

    async def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises."""
        await self._gateway.check_model()


class Remote:
    """A part in a deployment of its own: the same async methods, a hop away."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._handle, name).remote(*args, **kwargs)

        return call
