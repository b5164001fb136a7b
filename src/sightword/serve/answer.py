"""Answers as JSON, and their examples for OpenAPI."""

import json
from collections.abc import Mapping

from fastapi import Response

from sightword.storage.writer import finite

ERRORS = {
    400: "what was sent cannot be answered; detail says why",
    404: "there is no such model, sample, scene or gallery",
    413: "more bytes, pixels or items than are allowed",
    415: "not a picture, or not key points",
    422: "a field is missing or of another kind",
    503: "the model is loading, busy or too slow; Retry-After says when to ask again",
}
PROBLEM = {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": "the text is empty. Pass a sentence"}


def answers(example: Mapping[str, object]) -> dict[int | str, dict[str, object]]:
    """Return OpenAPI's responses of a route: an example, and the problem documents."""
    found: dict[int | str, dict[str, object]] = {
        200: {"description": "the answer", "content": {"application/json": {"example": dict(example)}}}
    }
    for status, told in ERRORS.items():
        shown = {**PROBLEM, "status": status, "detail": told}
        found[status] = {"description": told, "content": {"application/problem+json": {"example": shown}}}
    return found


def reply(content: Mapping[str, object]) -> Response:
    """Return an answer as JSON; numbers that are not finite become null."""
    text = json.dumps(finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode("utf-8", errors="backslashreplace"), media_type="application/json")
