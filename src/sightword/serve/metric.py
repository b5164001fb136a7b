"""Counts and durations of a server, as Prometheus reads them."""

import time
from collections import defaultdict
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32)
MEDIA = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """How many values were at most each of some bounds, for each set of labels."""

    def __init__(self, name: str, told: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> None:
        self.name, self.told, self.labels, self.bounds = name, told, labels, bounds
        self._counts: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * (len(bounds) + 1))
        self._sums: dict[tuple[str, ...], float] = defaultdict(float)

    def observe(self, value: float, *labels: str) -> None:
        """Count a value."""
        place = next((number for number, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self._counts[labels][place] += 1
        self._sums[labels] += value

    def lines(self) -> Iterator[str]:
        """Yield the histogram in Prometheus' text format."""
        yield f"# HELP {self.name} {self.told}"
        yield f"# TYPE {self.name} histogram"
        for values, counts in sorted(self._counts.items()):
            labels = [f'{name}="{_escaped(value)}"' for name, value in zip(self.labels, values, strict=True)]
            total = 0
            for bound, count in zip([*map(str, self.bounds), "+Inf"], counts, strict=True):
                total += count
                every = ",".join([*labels, f'le="{bound}"'])
                yield f"{self.name}_bucket{{{every}}} {total}"
            yield f"{self.name}_sum{{{','.join(labels)}}} {self._sums[values]:.6f}"
            yield f"{self.name}_count{{{','.join(labels)}}} {total}"


class Meter:
    """The metrics of one server."""

    def __init__(self) -> None:
        self.seconds = Histogram(
            "sightword_request_seconds",
            "Seconds from a request to the end of its answer.",
            ("route", "status"),
            SECONDS,
        )
        self.sizes = Histogram("sightword_batch_size", "Requests that were computed together.", ("model",), SIZES)
        self.in_flight = 0

    def text(self, waiting: dict[str, int], ready: dict[str, bool]) -> str:
        """Return all metrics. waiting: model → requests that wait. ready: model → whether it is loaded."""
        lines = [*self.seconds.lines(), *self.sizes.lines()]
        lines += _gauge("sightword_in_flight", "Requests that have no answer yet.", {"": self.in_flight})
        lines += _gauge("sightword_waiting", "Requests that wait for a model.", waiting)
        lines += _gauge(
            "sightword_model_ready", "1 if a model is loaded.", {name: int(is_) for name, is_ in ready.items()}
        )
        return "\n".join(lines) + "\n"


class Measure:
    """Middleware that counts requests and their durations by route, never by path."""

    def __init__(self, app: ASGIApp, meter: Meter) -> None:
        self.app, self.meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.meter.in_flight += 1
        try:
            await self.app(scope, receive, noted)
        finally:
            self.meter.in_flight -= 1
            route = getattr(scope.get("route"), "path", "none")
            self.meter.seconds.observe(time.perf_counter() - began, route, str(status))


def _gauge(name: str, told: str, values: dict[str, int]) -> list[str]:
    rows = [
        f'{name}{{model="{_escaped(label)}"}} {value}' if label else f"{name} {value}"
        for label, value in values.items()
    ]
    return [f"# HELP {name} {told}", f"# TYPE {name} gauge", *rows]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
