"""Refuses requests before anything of them is read: of other hosts, of other sites' pages, without the token, too long.

A page of any site can make its visitor's browser send requests to 127.0.0.1. So the name by which the server is called
is checked (DNS rebinding), and so is the site that a request comes from (CSRF). Programs send no `Origin` and pass.
"""

import hmac
from collections.abc import Iterable, Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sightword.serve.problem import HEADERS, document
from sightword.serve.setting import MIB, Limits

#: Paths that are answered without the token: they state nothing but that the server is there, and the page's own files.
OPEN = ("/", "/healthz", "/readyz", "/docs", "/page/")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def hosts_of(names: Iterable[str], host: str, port: int) -> frozenset[str]:
    """Return the values of `Host` that are accepted: names, each with the port unless it states one."""
    own = [*LOOPBACK] if host in ("127.0.0.1", "localhost", "::1") else []
    own += [f"[{host}]" if ":" in host else host] if host not in ("0.0.0.0", "::") and not own else []
    found: set[str] = set()
    for name in [*own, *names]:
        has_port = ":" in name.rpartition("]")[2]
        found |= {name.lower()} if has_port else {f"{name}:{port}".lower()}
        if port in (80, 443) or name in names:
            found.add(name.lower())
    return frozenset(found)


class Guard:
    """Middleware that refuses, bounds the bytes of a body, and adds the headers of safety to every answer."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str, limits: Limits) -> None:
        self.app, self.hosts, self.token, self.limits = app, hosts, token, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = _headers(scope)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        refused = self._refusal(scope, headers)
        if refused is not None:
            status, detail = refused
            challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Connection": "close"}
            await document(status, detail, challenge)(scope, receive, guarded)
            return
        await self.app(scope, self._bounded(receive, self._most(headers)), guarded)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            return 421, f"this server is not {host or 'without a Host'}. Start it with names= to add a name"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() not in self.hosts:
            return 403, "requests of other sites' pages are refused"
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return 403, "requests of other sites' pages are refused"
        if self.token and not _is_open(scope["path"]):
            given = headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode()):
                return 401, "a token is needed: Authorization: Bearer …, as token= of sightword serve has it"
        length, most = headers.get("content-length", "0"), self._most(headers)
        if not length.isdecimal() or len(length) > 15:
            return 400, "Content-Length is not a number"
        if int(length) > most:
            return 413, _too_long(most)
        return None

    def _most(self, headers: Mapping[str, str]) -> int:
        """Return how many bytes a body may have."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return self.limits.body if kind == "multipart/form-data" else self.limits.json

    def _bounded(self, receive: Receive, most: int) -> Receive:
        """Return a `receive` that ends a body that is longer than its sender, or nobody, has said."""
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > most:
                raise HTTPException(413, _too_long(most))
            return message

        return bounded


def _too_long(most: int) -> str:
    return f"the body is longer than {most // MIB} MiB, which are the most"


def _is_open(path: str) -> bool:
    return any(path == known or (known.endswith("/page/") and path.startswith(known)) for known in OPEN)


def _headers(scope: Scope) -> dict[str, str]:
    """Return headers by their lower-case names; of one that stands there twice, both, so that none is hidden."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
