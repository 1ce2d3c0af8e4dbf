"""The HTTP side of searches, embeddings and items: routes, keys and deadlines.

Knows what a request may cost, not what a search means.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request

from unimir.serve.answers import ParseOut, SearchOut
from unimir.serve.gateway import Gateway, Query
from unimir.serve.keys import Keys
from unimir.serve.parts import Vector
from unimir.serve.problems import Problem, answer_errors
from unimir.serve.wire import (
    EmbeddingsIn,
    IdsIn,
    ItemsIn,
    ParseIn,
    SearchIn,
    picture_of,
)

T = TypeVar("T")


def make_app(gateway: Gateway, keys: Keys) -> FastAPI:
    """The ASGI application over a gateway."""
    app = FastAPI(title="unimir", version="1", max_body_size=gateway.settings.limits.body_bytes)
    app.state.gateway, app.state.keys = gateway, keys
    app.include_router(router)
    answer_errors(app)
    return app


def _gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _tenant_of(request: Request) -> str:
    keys: Keys = request.app.state.keys
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    found = keys.tenant_of(bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key"))
    if found is None:
        raise Problem(401, "unauthorized", "no valid API key; send Authorization: Bearer KEY or X-API-Key: KEY")
    return found


router = APIRouter()
Serving = Annotated[Gateway, Depends(_gateway_of)]
Tenant = Annotated[str, Depends(_tenant_of)]


@router.post("/v1/search")
async def search(body: SearchIn, gateway: Serving, tenant: Tenant) -> SearchOut:
    """Pictures and texts that a query, or several things together, ask for."""
    limits = gateway.settings.limits
    _at_most("limit", body.limit, limits.hits)
    parts = body.typed_parts()
    _at_most("parts", len(parts), limits.parts)
    for part in parts:
        _check_text(part.text, limits.text_chars)
    query = Query(
        parts=parts,
        tenant=tenant,
        limit=body.limit,
        offset=body.offset,
        modality=body.modality,
        filters=[one.typed() for one in body.filters],
        fusion=body.fusion,
        keywords=body.keywords,
        now=body.moment(gateway.settings.timezone),
        lang=body.lang,
        infer=body.infer,
        ignored=body.ignore,
        explain=body.explain,
        previews=body.previews,
    )
    answer = await _in_time(gateway, gateway.search(query))
    return SearchOut.of(answer, gateway.served.bundle_id, gateway.served.collection)


@router.post("/v1/parse")
async def parse(body: ParseIn, gateway: Serving, tenant: Tenant) -> ParseOut:
    """Intent and slots of a query, and the filters they mean."""
    _check_text(body.query, gateway.settings.limits.text_chars)
    now = body.moment(gateway.settings.timezone)
    return ParseOut.of(await _in_time(gateway, gateway.parse(body.query, tenant, now, body.lang)))


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsIn, gateway: Serving, tenant: Tenant) -> dict[str, Any]:
    """Vectors of texts and pictures, as OpenAI's clients ask for them."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    _at_most("input", len(inputs), gateway.settings.limits.batch)
    for one in inputs:
        _check_text(one if isinstance(one, str) else None, gateway.settings.limits.text_chars)
    vectors = await _in_time(gateway, _embedded(gateway, inputs, body.dimensions))
    data = [
        {"object": "embedding", "index": at, "embedding": _encoded(vector_D, body.encoding_format)}
        for at, vector_D in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 0, "total_tokens": 0}
    return {"object": "list", "model": gateway.served.bundle_id, "data": data, "usage": usage}


@router.put("/v1/items")
async def put_items(body: ItemsIn, gateway: Serving, tenant: Tenant) -> dict[str, int]:
    """Adds items, or replaces those of equal id."""
    _at_most("items", len(body.items), gateway.settings.limits.batch)
    await _in_time(gateway, gateway.put([item.typed() for item in body.items], tenant))
    return {"stored": len(body.items)}


@router.delete("/v1/items")
async def delete_items(body: IdsIn, gateway: Serving, tenant: Tenant) -> dict[str, int]:
    """Deletes items by id; unknown ids are no error."""
    _at_most("ids", len(body.ids), gateway.settings.limits.batch)
    await _in_time(gateway, gateway.remove(body.ids, tenant))
    return {"deleted": len(body.ids)}


@router.get("/v1/info")
async def info(gateway: Serving, tenant: Tenant) -> dict[str, str]:
    """What is served."""
    return {"bundle_id": gateway.served.bundle_id, "collection": gateway.served.collection}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Alive."""
    return {"status": "ok"}


async def _in_time(gateway: Gateway, work: Awaitable[T]) -> T:
    limit_s = gateway.settings.limits.deadline_s
    try:
        return await asyncio.wait_for(work, limit_s)
    except TimeoutError:
        raise Problem(504, "deadline_exceeded", f"no answer within {limit_s} s", 1.0) from None


async def _embedded(gateway: Gateway, inputs: Sequence[Any], dimensions: int | None) -> list[Vector]:
    texts = [one for one in inputs if isinstance(one, str)]
    pictures = [picture_of(one["image"]) for one in inputs if not isinstance(one, str)]
    if pictures and dimensions is not None:
        raise ValueError("dimensions is for texts")
    text_ND, picture_ND = await asyncio.gather(gateway.texts.embed(texts, dimensions), gateway.pictures(pictures))
    said, shown = iter(text_ND), iter(picture_ND)
    return [next(said if isinstance(one, str) else shown) for one in inputs]


def _encoded(vector_D: Vector, form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(np.ascontiguousarray(vector_D, "<f4").tobytes()).decode()
    values: list[float] = vector_D.tolist()
    return values


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{name} is {value}; at most {most}")


def _check_text(text: str | None, most: int) -> None:
    if text is not None and len(text) > most:
        raise ValueError(f"a text has {len(text)} characters; at most {most}")
