"""The Ray Serve application: which parts are deployments of their own, and which live in the Gateway's replicas.

`serve run serve_configs/search.yaml` calls `build` with the config's `args`. Knows no route and no search.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from unimir.plain import from_dict
from unimir.serve.api import make_app
from unimir.serve.door import Door
from unimir.serve.gateway import Gateway
from unimir.serve.gather import Overloaded
from unimir.serve.keys import Keys
from unimir.serve.milvus import own_milvus
from unimir.serve.parts import ImageEncoder, PartUnavailable, Retriever, TextEncoder
from unimir.serve.served import Served, find_served
from unimir.serve.settings import Settings
from unimir.serve.watch import watch

PARTS: Mapping[str, Callable[[Settings, Served], Any]] = {
    "TextEncoder": TextEncoder,
    "ImageEncoder": ImageEncoder,
    "Retriever": Retriever,
}

_PAUSES_S = (0.0, 0.1, 0.3, 1.0)  # after each try


def build(args: Mapping[str, Any]) -> Application:
    """The application of a serve config's `args`. ValueError if they, or what they name, do not fit together."""
    settings = from_dict(Settings, args, "args")
    Keys.found(settings.keys)
    if settings.milvus is None:
        own_milvus(Path(settings.data).absolute())
    served = find_served(settings)
    apart = {name: serve.deployment(PARTS[name], name=name).bind(settings, served) for name in settings.apart}
    return serve.deployment(Ingress, name="Gateway").bind(settings, served, **apart)


@serve.ingress()
class Ingress:
    """A replica of the Gateway: the ASGI application, over parts of its own or elsewhere."""

    def __init__(self, settings: Settings, served: Served, **apart: DeploymentHandle) -> None:
        logging.getLogger("unimir").setLevel(logging.INFO)
        own = {name: make(settings, served) for name, make in PARTS.items() if name not in apart}
        made = {**own, **{name: Remote(name, handle) for name, handle in apart.items()}}
        self._own = own
        self._gateway = Gateway(settings, served, made["TextEncoder"], made["ImageEncoder"], made["Retriever"])
        self._keys = Keys.found(settings.keys)

    def __serve_build_asgi_app__(self) -> Door:
        app = make_app(self._gateway, self._warm)
        return Door(app, self._gateway.settings.limits, self._keys, watch())

    @contextlib.asynccontextmanager
    async def _warm(self, app: FastAPI) -> AsyncIterator[None]:
        """Before the first request."""
        await self._gateway.warm()
        yield

    async def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises: by its own model, not by one of another deployment."""
        if "TextEncoder" in self._own:
            await self._own["TextEncoder"].check_health()


class Remote:
    """A part in a deployment of its own: the same async methods, a hop away.

    What a replica that died did not answer is asked of another: every method can be repeated. PartUnavailable if none
    answers.
    """

    def __init__(self, name: str, handle: DeploymentHandle) -> None:
        self._name, self._handle = name, handle

    def __getattr__(self, method: str) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            for pause_s in _PAUSES_S:
                try:
                    return await getattr(self._handle, method).remote(*args, **kwargs)
                except RayTaskError as error:  # raised over there, and told with its traceback
                    raise error.cause from None
                except (RayActorError, DeploymentUnavailableError):
                    await asyncio.sleep(pause_s)
                except BackPressureError:
                    raise Overloaded(self._name, 0, retry_after_s=1.0) from None
            raise PartUnavailable(f"no replica of {self._name} answers")

        return call
