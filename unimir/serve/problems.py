"""Every error as problem+json (RFC 9457) with a stable code, and nothing of what the caller sent in bulk.

Knows no route.
"""

from __future__ import annotations

import logging
import math

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from unimir.index.connection import IndexRefused, IndexTimeout, IndexUnavailable
from unimir.serve.gateway import NotFound
from unimir.serve.gather import Overloaded
from unimir.serve.parts import Mismatch, PartUnavailable

_log = logging.getLogger(__name__)
_CODES = {
    400: "bad_json",  # all that FastAPI answers so
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    415: "unsupported_type",
}
CODES = (
    "bad_json",
    "deadline_exceeded",
    "index_mismatch",
    "index_refused",
    "index_timeout",
    "index_unavailable",
    "internal",
    "invalid_request",
    "item_not_found",
    "method_not_allowed",
    "not_found",
    "over_quota",
    "overloaded",
    "part_unavailable",
    "too_large",
    "unauthorized",
    "unsupported_type",
)
"""Every code there is; a client may rely on them."""


class Problem(Exception):
    """An answer that is an error: HTTP status, stable code, and one sentence for people."""

    def __init__(self, status: int, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.retry_after_s = status, code, detail, retry_after_s


def respond(problem: Problem) -> Response:
    """The problem as an HTTP answer."""
    headers = {} if problem.retry_after_s is None else {"retry-after": str(math.ceil(problem.retry_after_s))}
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = {"type": "about:blank", "title": problem.code, "status": problem.status, "code": problem.code}
    body["detail"] = problem.detail.encode("utf-8", "replace").decode()[:400]
    return JSONResponse(body, problem.status, headers, "application/problem+json")


def answer_errors(app: FastAPI) -> None:
    """Every error in one form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return respond(Problem(400, "bad_json", "the body is not JSON"))
        where = ".".join(str(step) for step in first["loc"][1:])
        return respond(Problem(422, "invalid_request", f"{where}: {first['msg']}" if where else first["msg"]))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        code = _CODES.get(error.status_code, f"http_{error.status_code}")
        return respond(Problem(error.status_code, code, str(error.detail)))

    kinds = (
        Problem,
        ValueError,
        NotFound,
        Overloaded,
        Mismatch,
        PartUnavailable,
        IndexTimeout,
        IndexUnavailable,
        IndexRefused,
    )
    for kind in (*kinds, Exception):

        @app.exception_handler(kind)
        async def known(request: Request, error: Exception) -> Response:
            return respond(problem_of(error, request.scope.get("state", {}).get("id", "")))


def problem_of(error: Exception, request_id: str) -> Problem:
    """What an error is to the caller."""
    match error:
        case Problem():
            return error
        case Overloaded():
            return Problem(429, "overloaded", str(error), error.retry_after_s)
        case Mismatch():
            return Problem(503, "index_mismatch", str(error), 10.0)
        case PartUnavailable():
            return Problem(503, "part_unavailable", str(error), 1.0)
        case IndexTimeout():
            return Problem(504, "index_timeout", "the index did not answer in time", 1.0)
        case IndexUnavailable():
            return Problem(503, "index_unavailable", "the index does not answer", 1.0)
        case IndexRefused():
            return Problem(503, "index_refused", "the index refuses", 1.0)
        case NotFound():
            return Problem(404, "item_not_found", f"no item {str(error)!r:.80}")
        case ValueError() if not isinstance(error, ValidationError):  # that one is an answer of ours gone wrong
            return Problem(422, "invalid_request", str(error))
    _log.error("request %s", request_id, exc_info=error)
    return Problem(500, "internal", "an error of the service; the log has it under the request's id")
