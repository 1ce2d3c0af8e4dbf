"""The Ray Serve application: which parts are deployments of their own, and which live in the Gateway's replicas.

`serve run serve_configs/search.yaml` calls `build` with the config's `args`. Knows no route and no search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from unimir.config import from_dict
from unimir.serve.api import make_app
from unimir.serve.gateway import Gateway
from unimir.serve.keys import Keys
from unimir.serve.parts import ImageEncoder, Retriever, Served, TextEncoder, find_served
from unimir.serve.settings import Settings

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
    apart = {name: serve.deployment(PARTS[name], name=name).bind(settings, served) for name in settings.apart}
    return serve.deployment(Ingress, name="Gateway").bind(settings, served, **apart)


@serve.ingress()
class Ingress:
    """A replica of the Gateway: the ASGI application, over parts of its own or elsewhere."""

    def __init__(self, settings: Settings, served: Served, **apart: DeploymentHandle) -> None:
        parts = {name: Remote(apart[name]) if name in apart else make(settings, served) for name, make in PARTS.items()}
        self._gateway = Gateway(settings, served, parts["TextEncoder"], parts["ImageEncoder"], parts["Retriever"])
        self._keys = Keys.from_file(settings.keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return make_app(self._gateway, self._keys)


class Remote:
    """A part in a deployment of its own: the same async methods, a hop away."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            return await getattr(self._handle, name).remote(*args, **kwargs)

        return call
