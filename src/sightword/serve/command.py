"""The command `serve`. Nothing heavy is imported before it is executed: the command line imports this file."""

import os
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.engine.argument import Count, Names, expanded
from sightword.errors import SightwordError
from sightword.serve.setting import MIB, Limits, Settings, Sources

if TYPE_CHECKING:
    from types import FrameType

NEEDED = ("fastapi", "uvicorn", "python_multipart")
LOCAL = ("127.0.0.1", "localhost", "::1")
GRACE = 5  # seconds that requests have left when the server is told to stop
LEAST = 16  # characters of a token
DEMO = Path("runs/demo")


def serve(
    models: Names = (),  # run directories, exported folders or hub ids, with commas; empty: those of the demo
    images: Path | None = None,  # a folder of pictures, some of which the page offers as samples
    gallery: Names = (),  # folders of pictures to search, or those that sightword index wrote
    clips: Path | None = None,  # an annotation file, .pkl or .npz, whose recordings the page offers
    scenes: Path | None = None,  # a scene of posed RGB-D frames to ask about, or a folder of scenes
    host: str = "127.0.0.1",  # the address to listen on; any other than this machine's own needs a token
    port: int = 8000,  # 0: any that is free
    token: str = "",  # that every request has to bring; better in SIGHTWORD_TOKEN, which other users do not see
    names: Names = (),  # by which browsers call this server, if there is a proxy before it, as in names=example.org
    threads: Count = 1,  # CPU threads of each model
    megabytes: Count = 20,  # of an upload, at most
    seconds: Count = 60,  # from a request to its answer, at most
) -> None:
    """Answer requests over HTTP, and show the page: photo, sentence, picture, clip and scene, each with its answer.

    Without models=, serves what `sightword demo` trained. Needs the extra: pip install 'sightword[serve]'.
    Only the folders that are given are read and shown. /docs lists the requests, /readyz says when the models are
    loaded, /metrics is for Prometheus. Ctrl-C or SIGTERM: requests end, then the server does.
    """
    if lacking := [name for name in NEEDED if find_spec(name) is None]:
        raise SightwordError(f"serve needs {', '.join(lacking)}. Install them: pip install 'sightword[serve]'")
    token = token or os.environ.get("SIGHTWORD_TOKEN", "")
    _check_address(host, port, token, names)
    shown = _folders("images", () if images is None else (str(images),))
    rooms = _folders("scenes", () if scenes is None else (str(scenes),))
    sources = Sources(
        dict.fromkeys(("intent", "tokenizer"), shown) if shown else {}, _folders("gallery", gallery), clips, rooms
    )
    limits = Limits(body=megabytes * MIB, seconds=float(seconds))
    if not models:
        from sightword.serve.demo import models_of_demo, sources_of_demo

        models = models_of_demo(DEMO)
        sources = sources_of_demo(DEMO, sources)
    with _listen(host, port) as listening:
        own = listening.getsockname()[1]
        _run(Settings(tuple(models), sources, host, own, token, tuple(names), threads, limits), listening)


def _run(settings: Settings, listening: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    import uvicorn

    from sightword.serve.app import make_app

    app = make_app(settings)
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    print(f"the page: http://{shown}:{settings.port}/   the requests: http://{shown}:{settings.port}/docs")
    if settings.token:
        print("the page asks for the token once; programs send it as Authorization: Bearer …")
    print("models load now; Ctrl-C stops the server", flush=True)
    config = uvicorn.Config(
        app,
        timeout_graceful_shutdown=GRACE,
        limit_concurrency=settings.limits.open,
        access_log=False,
        server_header=False,
        log_level="warning",
        ws="none",
    )
    before = {number: signal.signal(number, _nothing) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        uvicorn.Server(config).run(sockets=[listening])  # it raises the signal again when it has stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print("stopped", file=sys.stderr)


def _nothing(number: int, frame: "FrameType | None") -> None:
    """Take a signal that has been answered."""


def _check_address(host: str, port: int, token: str, names: Names) -> None:
    if not 0 <= port < 1 << 16:
        raise SightwordError(f"port={port} is not a port. Pass a whole number from 0 to 65535")
    if token and (len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token):
        raise SightwordError(
            f"token= has under {LEAST} characters, or others than letters, digits and signs. Pass what this prints: "
            "openssl rand -hex 16"
        )
    if host not in LOCAL and not token:
        raise SightwordError(
            f"host={host} can be reached from other machines. Set a token in SIGHTWORD_TOKEN, as of: openssl rand -hex "
            "16; or leave host= away"
        )
    if host in ("0.0.0.0", "::") and not names:
        raise SightwordError(
            f"host={host} is every address of this machine. Pass the names= by which browsers call it, as in "
            "names=example.org"
        )


def _folders(name: str, folders: Names) -> tuple[Path, ...]:
    found = tuple(expanded(folder) for folder in folders)
    if missing := next((folder for folder in found if not folder.is_dir()), None):
        raise SightwordError(f"{name}={missing} is not a folder. Pass one that exists, or several with commas")
    return found


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises SightwordError if the address is taken, or not this machine's."""
    # with its protocol named, asyncio sends short answers at once; otherwise each waits 40 ms for the client's receipt
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise SightwordError(f"host={host} port={port} cannot be listened on: {reason}. Pass another port=") from error
    return listening
