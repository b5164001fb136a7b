"""Errors as problem documents (RFC 9457): the one line that the command would print, as JSON."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sightword.errors import MissingFileError, SightwordError, printable

MEDIA = "application/problem+json"
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
#: Of every answer.
HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": POLICY,
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class Problem(Exception):
    """An answer that is no result: a status and one line."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, dict(headers or {})


def document(status: int, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return a problem document."""
    title = HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": printable(detail)}
    return JSONResponse(content, status, dict(headers or {}), MEDIA)


def add_handlers(app: FastAPI) -> None:
    """Let an app answer every error by a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(SightwordError, _mistake)
    app.add_exception_handler(Exception, _defect)


def _problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return document(error.status, error.detail, error.headers)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is no {request.url.path}. /docs lists what there is"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} does not take {request.method}. /docs lists what there is"
    return document(error.status_code, str(detail), error.headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = []
    for one in error.errors()[:3]:
        place = ".".join(str(part) for part in one["loc"] if part not in ("body", "query", "path"))
        told.append(f"{place or 'the body'}: {one['msg']}")
    return document(HTTPStatus.UNPROCESSABLE_ENTITY, "; ".join(told))


def _mistake(request: Request, error: Exception) -> JSONResponse:
    status = HTTPStatus.NOT_FOUND if isinstance(error, MissingFileError) else HTTPStatus.BAD_REQUEST
    return document(status, str(error))


def _defect(request: Request, error: Exception) -> JSONResponse:
    """Answer without the cause, which the server's log has. This answer is sent outside the guard."""
    told = "this is a defect of Sightword; the server's log has the rest"
    return document(HTTPStatus.INTERNAL_SERVER_ERROR, told, HEADERS)
