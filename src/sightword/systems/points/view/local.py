"""viser's server for this machine alone: 127.0.0.1, no share address, and no page of another site.

viser compares neither Host nor Origin, so that every page that is open in the user's browser could read the scene by a
WebSocket. Here its listener is wrapped as it is made, and the server is not used before it has refused both.
"""

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus

import rich
import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from sightword.errors import SightwordError

ADDRESS = "127.0.0.1"
NAMES = (ADDRESS, "localhost")  # by which a browser on this machine, or at the end of an SSH tunnel, calls it
HEADERS = {
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' data: blob:; "
    "connect-src 'self' ws://127.0.0.1:* ws://localhost:* data: blob:; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
SECONDS = 10  # that the server has to answer the first requests


class LocalServer(viser.ViserServer):
    """A server that opens no tunnel to the outside, whoever asks for it."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Return nothing: there is no share address, be it that a client asks for it."""
        return None


def refusal(hosts: list[str], origins: list[str]) -> tuple[HTTPStatus, str] | None:
    """Return why a request is refused, by its Host and Origin headers; None if it is not."""
    if len(hosts) != 1 or hosts[0].rsplit(":", 1)[0].lower() not in NAMES:
        return HTTPStatus.MISDIRECTED_REQUEST, f"call this server {ADDRESS} or localhost\n"
    if any(origin.lower() != f"http://{hosts[0].lower()}" for origin in origins):
        return HTTPStatus.FORBIDDEN, "pages of other sites are refused\n"
    return None


def open_server(port: int = 0) -> LocalServer:
    """Return a server that listens on 127.0.0.1, and refuses what is not called by that name or comes from other sites.

    port: 0 is any that is free. Raises SightwordError if the port is taken, and if viser cannot be made to refuse.
    """
    _check_port(port)
    rich.reconfigure(quiet=True)  # viser prints when it starts and ends, be it told not to
    with _wrapped():
        server = LocalServer(host=ADDRESS, port=port, verbose=False)
    server.gui.configure_theme(show_share_button=False, show_logo=False, control_width="large")
    try:
        _prove(server.get_port(), port)
    except BaseException:
        server.stop()
        raise
    return server


def _check_port(port: int) -> None:
    """Raise SightwordError for a port that is taken: viser would take the next one without a word."""
    if not 0 <= port < 1 << 16:
        raise SightwordError(f"port={port} is not a port. Pass a whole number from 0 to 65535; 0 is any that is free")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise SightwordError(f"port={port} cannot be listened on: {reason}. Pass another port=, or 0") from error


@contextmanager
def _wrapped() -> Iterator[None]:
    """Let listeners that are made inside the block refuse requests, see `refusal`."""
    place = vars(websockets.asyncio.server)
    plain = place["serve"]

    def serve(*given: object, **options: object) -> object:
        own = options.get("process_request")
        options["process_request"] = _checked(own if callable(own) else _nothing)
        return plain(*given, **options)

    place["serve"] = serve
    try:
        yield
    finally:
        place["serve"] = plain


def _nothing(connection: ServerConnection, request: Request) -> Response | None:
    return None


def _checked(own: Callable[[ServerConnection, Request], Response | None]) -> object:
    """Return viser's answer to a request, unless it is refused."""

    def answered(connection: ServerConnection, request: Request) -> Response | None:
        headers = request.headers
        refused = refusal(headers.get_all("Host"), headers.get_all("Origin"))
        response = own(connection, request) if refused is None else connection.respond(*refused)
        if response is not None:
            for name, value in HEADERS.items():
                response.headers[name] = value
        return response

    return answered


def _prove(port: int, wanted: int) -> None:
    """Raise SightwordError unless the server answers, and refuses another name and another site."""
    if wanted and port != wanted:
        raise SightwordError(f"port={wanted} was taken while the server started. Pass another port=, or 0")
    here = f"{ADDRESS}:{port}"
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "c2lnaHR3b3JkIHZpZXcgMQ==",
    }
    expected = [
        (200, {"Host": here}),
        (421, {"Host": f"other.example:{port}"}),
        (403, {"Host": here, "Origin": "http://other.example", **upgrade}),
        (403, {"Host": here, "Origin": "null", **upgrade}),
    ]
    got = [status(port, headers) for _, headers in expected]
    if got != [code for code, _ in expected]:
        raise SightwordError(
            f"viser {viser.__version__} does not refuse pages of other sites (answers {got}). Install the version that "
            "was tried: pip install 'viser==1.1.1'"
        )


def status(port: int, headers: dict[str, str]) -> int:
    """Return the status of a GET request to the server's page."""
    connection = http.client.HTTPConnection(ADDRESS, port, timeout=SECONDS)
    try:
        connection.request("GET", "/", headers=headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
