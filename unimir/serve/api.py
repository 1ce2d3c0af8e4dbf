"""The routes of the service: requests to typed values, a call of the gateway, answers to JSON.

Knows what one request may ask for; keys, quotas and deadlines are the door's, the meaning of a search the gateway's.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response

from unimir.serve import examples
from unimir.serve.answers import EmbeddingsOut, InfoOut, ParseOut, ProblemOut, SearchOut
from unimir.serve.feedback import Feedback
from unimir.serve.gateway import Answer, Gateway, Query
from unimir.serve.parts import Vector
from unimir.serve.pictures import PictureReader
from unimir.serve.problems import Problem, answer_errors
from unimir.serve.watch import watch
from unimir.serve.wire import EmbeddingsIn, FeedbackIn, IdsIn, ItemsIn, ParseIn, Read, SearchIn
from unimir.values import time_words

_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
_PAGE = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def make_app(gateway: Gateway, lifespan: Any = None) -> FastAPI:
    """The ASGI application over a gateway; what is around it, is the door's."""
    app = FastAPI(title="unimir", version="1", lifespan=lifespan, description="Search over pictures and texts.")
    settings = gateway.settings
    app.state.gateway, app.state.feedback = gateway, Feedback(settings.feedback)
    app.state.read = PictureReader(settings.pictures_from, settings.limits.body_bytes, settings.limits.deadline_s)
    app.include_router(router)
    answer_errors(app)
    return app


async def _gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _reader_of(request: Request) -> Read:
    reader: Read = request.app.state.read
    return reader


async def _tenant_of(request: Request) -> str:
    tenant: str = request.state.tenant
    return tenant


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemOut, "description": "a problem, with its code"} for status in ("4XX", "5XX")
}
router = APIRouter(responses=_ERRORS)
Serving = Annotated[Gateway, Depends(_gateway_of)]
Tenant = Annotated[str, Depends(_tenant_of)]
Reader = Annotated[Read, Depends(_reader_of)]
Search = Annotated[SearchIn, Body(openapi_examples=examples.SEARCH)]
Parse = Annotated[ParseIn, Body(openapi_examples=examples.PARSE)]
Inputs = Annotated[EmbeddingsIn, Body(openapi_examples=examples.EMBEDDINGS)]
Items = Annotated[ItemsIn, Body(openapi_examples=examples.ITEMS)]
Ids = Annotated[IdsIn, Body(openapi_examples=examples.IDS)]
Judgements = Annotated[FeedbackIn, Body(openapi_examples=examples.FEEDBACK)]


@router.post("/v1/search")
async def search(
    request: Request,
    body: Search,
    gateway: Serving,
    tenant: Tenant,
    read: Reader,
) -> SearchOut:
    """Pictures and texts that a query, or several things together, ask for."""
    limits = gateway.settings.limits
    _at_most("limit", body.limit, limits.hits)
    _at_most("parts", len(body.parts) + (body.query is not None), limits.parts)
    parts = await body.typed_parts(read)
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
    answer = await gateway.search(query)
    _note(request, body, answer, gateway.settings.log_queries)
    return SearchOut.of(answer, gateway.served.bundle_id, gateway.served.collection)


@router.post("/v1/parse")
async def parse(body: Parse, gateway: Serving, tenant: Tenant) -> ParseOut:
    """Intent and slots of a query, and the filters they mean."""
    _check_text(body.query, gateway.settings.limits.text_chars)
    now = body.moment(gateway.settings.timezone)
    return ParseOut.of(await gateway.parse(body.query, tenant, now, body.lang))


@router.post("/v1/embeddings")
async def embeddings(body: Inputs, gateway: Serving, tenant: Tenant, read: Reader) -> EmbeddingsOut:
    """Vectors of texts and pictures, as OpenAI's clients ask for them."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    _at_most("input", len(inputs), gateway.settings.limits.batch)
    for one in inputs:
        _check_text(one if isinstance(one, str) else None, gateway.settings.limits.text_chars)
    vectors = await _embedded(gateway, inputs, body.dimensions, read)
    coded = [_encoded(vector_D, body.encoding_format) for vector_D in vectors]
    return EmbeddingsOut.of(coded, gateway.served.bundle_id)


@router.put("/v1/items")
async def put_items(body: Items, gateway: Serving, tenant: Tenant, read: Reader) -> dict[str, int]:
    """Adds items, or replaces those of equal id."""
    _at_most("items", len(body.items), gateway.settings.limits.batch)
    await gateway.put(await asyncio.gather(*(item.typed(read) for item in body.items)), tenant)
    return {"stored": len(body.items)}


@router.delete("/v1/items")
async def delete_items(body: Ids, gateway: Serving, tenant: Tenant) -> dict[str, int]:
    """Deletes items by id; unknown ids are no error."""
    _at_most("ids", len(body.ids), gateway.settings.limits.batch)
    await gateway.remove(body.ids, tenant)
    return {"deleted": len(body.ids)}


@router.post("/v1/feedback", status_code=202)
async def feedback(
    request: Request,
    body: Judgements,
    gateway: Serving,
    tenant: Tenant,
) -> dict[str, int]:
    """Keeps judgements of how well items answer a query, for the next training round."""
    _at_most("judgements", len(body.judgements), gateway.settings.limits.hits)
    _check_text(body.query, gateway.settings.limits.text_chars)
    taken: Feedback = request.app.state.feedback
    await taken.keep(tenant, gateway.served.bundle_id, body.query, [(one.id, one.relevance) for one in body.judgements])
    return {"kept": len(body.judgements)}


@router.get("/v1/info")
async def info(gateway: Serving, tenant: Tenant) -> InfoOut:
    """What is served, and what may be asked."""
    return InfoOut.of(gateway, tenant)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Alive."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(gateway: Serving) -> dict[str, str]:
    """Whether searches can be answered now: model and index are asked."""
    await gateway.check()
    return {"status": "ready"}


@router.get("/", include_in_schema=False)
@router.get("/web/{name}", include_in_schema=False)
async def page(name: str = "index.html") -> Response:
    """The search page."""
    file = files("unimir.serve") / "web" / name
    kind = _TYPES.get(name.rpartition(".")[2])
    if kind is None or "/" in name or not file.is_file():
        raise Problem(404, "not_found", "no such file")
    return Response(file.read_bytes(), media_type=kind, headers=_PAGE)


def _note(request: Request, body: SearchIn, answer: Answer, with_words: bool) -> None:
    """The search, for metrics and the log."""
    intent = answer.meanings[0].parse.intent if len(answer.meanings) == 1 else "none"
    modality = answer.modality or "any"
    lang = body.lang if body.lang in time_words.languages() else "und"
    watch().search(
        lang=lang,
        intent=intent,
        modality=modality,
        relaxed=bool(answer.relaxed),
        hits=len(answer.hits),
        timings_ms=answer.timings_ms,
    )
    noted: dict[str, Any] = {"intent": intent, "modality": modality, "hits": len(answer.hits), **answer.timings_ms}
    if with_words:
        noted["query"] = body.query
    request.state.log = noted


async def _embedded(gateway: Gateway, inputs: Sequence[Any], dimensions: int | None, read: Read) -> list[Vector]:
    texts = [one for one in inputs if isinstance(one, str)]
    pictures = await asyncio.gather(*(read(one.image) for one in inputs if not isinstance(one, str)))
    text_ND, picture_ND = await asyncio.gather(
        gateway.texts.embed(texts, dimensions), gateway.pictures(pictures, dimensions)
    )
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
