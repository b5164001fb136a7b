"""The page and the list of requests: files of this package, read once, found by their names alone."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

from sightword.serve.problem import Problem

FOLDER = Path(__file__).parent / "page"
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Asset:
    """A file of the page."""

    def __init__(self, path: Path) -> None:
        self.content = path.read_bytes()
        self.kind = f"{KINDS[path.suffix]}; charset=utf-8"
        self.tag = f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'

    def answer(self, request: Request) -> Response:
        """Return the file, or that the browser has it already."""
        headers = {"etag": self.tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.kind, headers=headers)


def site() -> APIRouter:
    """Return the routes of the page and of the list of requests."""
    assets = {path.name: Asset(path) for path in sorted(FOLDER.iterdir()) if path.suffix in KINDS}
    routes = APIRouter(include_in_schema=False)

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return assets["index.html"].answer(request)

    @routes.api_route("/docs", methods=["GET", "HEAD"])
    async def docs(request: Request) -> Response:
        return assets["docs.html"].answer(request)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def asset(name: str, request: Request) -> Response:
        if name not in assets:
            raise Problem(404, f"there is no /page/{name[:80]}")
        return assets[name].answer(request)

    return routes
