"""Every error as problem+json (RFC 9457) with a stable code and the request's id, and nothing of what the caller sent.

Knows no route.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from unimir.index.connection import IndexRefused, IndexUnavailable
from unimir.serve.gateway import NotFound
from unimir.serve.gather import Overloaded

_log = logging.getLogger(__name__)
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_type",
}


class Problem(Exception):
    """An answer that is an error: HTTP status, stable code, and one sentence for people."""

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after_s = status, code, detail, retry_after_s


def answer_errors(app: FastAPI) -> None:
    """Every error in one form, with the request's id, and without a word of what the caller sent in bulk."""

    def answer(request: Request, problem: Problem) -> Response:
        headers = {"x-request-id": request.state.id} if hasattr(request.state, "id") else {}
        if problem.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(problem.retry_after_s))
        body = {"type": "about:blank", "title": problem.code, "status": problem.status, "code": problem.code}
        body["detail"] = problem.detail.encode("utf-8", "replace").decode()[:400]
        return JSONResponse(body, problem.status, headers, "application/problem+json")

    @app.middleware("http")
    async def with_id(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.id = uuid.uuid4().hex
        try:
            response = await call(request)
        except Exception as error:
            _log.exception("request %s", request.state.id)
            response = answer(request, _problem_of(error))
        response.headers["x-request-id"] = request.state.id
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(request, Problem(400, "bad_json", "the body is not JSON"))
        where = ".".join(str(step) for step in first["loc"][1:])
        return answer(request, Problem(422, "invalid_request", f"{where}: {first['msg']}" if where else first["msg"]))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, f"http_{error.status_code}")
        return answer(request, Problem(error.status_code, code, str(error.detail)))

    for kind in (Problem, ValueError, NotFound, Overloaded, IndexUnavailable, IndexRefused):

        @app.exception_handler(kind)
        async def known(request: Request, error: Exception) -> Response:
            return answer(request, _problem_of(error))


def _problem_of(error: Exception) -> Problem:
    match error:
        case Problem():
            return error
        case Overloaded():
            return Problem(429, "overloaded", str(error), error.retry_after_s)
        case IndexUnavailable():
            return Problem(503, "index_unavailable", "the index does not answer", 1.0)
        case IndexRefused():
            return Problem(503, "index_refused", "the index refuses", 1.0)
        case NotFound():
            return Problem(404, "item_not_found", f"no item {str(error)!r:.80}")
        case ValueError():
            return Problem(422, "invalid_request", str(error))
    return Problem(500, "internal", "an error of the service; the log has it under the request's id")
