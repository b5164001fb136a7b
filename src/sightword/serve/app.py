"""The app of `sightword serve`: the routes of all systems, the page, health and metrics, behind a guard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from sightword.serve import intent, points, retrieval, skeleton, tokenizer
from sightword.serve.answer import answers, reply
from sightword.serve.guard import Guard, hosts_of
from sightword.serve.metric import MEDIA, Measure, Meter
from sightword.serve.model import House, MakeService
from sightword.serve.problem import add_handlers, document
from sightword.serve.setting import Settings
from sightword.serve.site import site
from sightword.version import VERSION

SERVICES: dict[str, MakeService] = {
    "tokenizer": tokenizer.TokenizerService,
    "intent": intent.IntentService,
    "retrieval": retrieval.RetrievalService,
    "skeleton": skeleton.SkeletonService,
    "points": points.SceneService,
}
ROUTERS = (tokenizer.router, intent.router, retrieval.router, skeleton.router, points.router)
ABOUT = (
    "Errors are problem documents (RFC 9457). Send `model` to choose among several of one system; /v1/models names "
    "them. A 503 states in `Retry-After` when to ask again."
)


def make_app(settings: Settings) -> FastAPI:
    """Return the app. Its models load in the background once it is started.

    Raises SightwordError if a path of `settings.models` is not a model.
    """
    meter = Meter()
    house = House(settings, SERVICES, meter)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        house.start()
        yield
        await house.stop()

    app = FastAPI(
        title="Sightword", version=VERSION, description=ABOUT, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.include_router(state(house, meter))
    for make in ROUTERS:
        app.include_router(make(house))
    app.include_router(site())
    add_handlers(app)
    app.add_middleware(Measure, meter=meter)
    hosts = hosts_of(settings.names, settings.host, settings.port)
    app.add_middleware(Guard, hosts=hosts, token=settings.token, limits=settings.limits)
    return app


def state(house: House, meter: Meter) -> APIRouter:
    """Return the routes that say how the server is."""
    routes = APIRouter(tags=["server"])

    @routes.get("/v1/models", responses=answers(MODELS))
    async def models() -> Response:
        """Return the models, what state each is in, and what it knows."""
        limits = {"megabytes": house.settings.limits.body >> 20, "pixels": house.settings.limits.pixels}
        told = {"version": VERSION, "limits": limits, "models": [model.describe() for model in house.models]}
        return reply(told)

    @routes.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
    async def healthz() -> Response:
        return PlainTextResponse("ok\n")

    @routes.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
    async def readyz() -> Response:
        states = {model.name: model.state for model in house.models}
        if house.is_ready:
            return JSONResponse({"models": states})
        told = ", ".join(f"{name} is {state}" for name, state in states.items() if state != "ready")
        return document(503, told, {"Retry-After": "2"})

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Return counts and durations, as Prometheus reads them."""
        waiting = {model.name: model.worker.waiting for model in house.models}
        return Response(
            meter.text(waiting, {model.name: model.state == "ready" for model in house.models}), media_type=MEDIA
        )

    return routes


MODELS = {
    "version": VERSION,
    "limits": {"megabytes": 20, "pixels": 40_000_000},
    "models": [
        {"name": "intent/stage1", "system": "intent", "state": "ready", "domain": "drawn", "classes": ["Playful"]}
    ],
}
