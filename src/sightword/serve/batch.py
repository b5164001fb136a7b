"""Computes requests of one model in one thread; those that wait together are computed together.

Nothing is waited for: the first request is computed at once, and the next batch collects meanwhile. A thread of its own
is the model's lock, too, and keeps the event loop free for everybody else.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from sightword.serve.problem import Problem

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")

#: Computes some requests of one kind, in order. Their results may not depend on each other.
Compute = Callable[[Sequence[ItemT]], Sequence[AnswerT]]


class _Failure(NamedTuple):
    error: Exception


class _Job(Generic[ItemT, AnswerT]):
    """A request that waits for its answer."""

    def __init__(self, compute: Compute[ItemT, AnswerT], item: ItemT, answer: "asyncio.Future[AnswerT]") -> None:
        self.compute, self.item, self.answer = compute, item, answer


class Worker:
    """The thread of a model, and the requests that wait for it."""

    def __init__(
        self, name: str, waiting: int, batch: int, seconds: float, observe: Callable[[int], None] = lambda size: None
    ) -> None:
        """name: for messages. waiting: requests that may wait. batch: the most that are computed together.

        seconds: from a request to its answer. observe: is told the size of each batch.
        """
        self.name, self.most, self.seconds, self.observe = name, batch, seconds, observe
        self._queue: asyncio.Queue[_Job[object, object]] = asyncio.Queue(waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"sightword-{name}")
        self._loop: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._queue.qsize()

    async def call(self, function: Callable[[], AnswerT]) -> AnswerT:
        """Compute something in the thread that is no request, such as to load the model."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def submit(self, compute: Compute[ItemT, AnswerT], item: ItemT) -> AnswerT:
        """Return the answer to a request. Raises Problem 503 if too many wait, or if it takes too long."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._work())
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Job(compute, item, answer))  # type: ignore[arg-type]  # each job has its own types
        except asyncio.QueueFull:
            told = f"{self.name} is busy: {self.waiting} requests wait. Ask again later"
            raise Problem(503, told, {"Retry-After": "1"}) from None
        try:
            return await asyncio.wait_for(answer, self.seconds)
        except TimeoutError:
            told = f"{self.name} did not answer within {self.seconds:g} seconds. Ask for less, or later"
            raise Problem(503, told, {"Retry-After": "5"}) from None

    def stop(self) -> None:
        """Compute nothing more. What is being computed ends by itself."""
        if self._loop is not None:
            self._loop.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self._queue.get()]
            while len(jobs) < self.most and not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            kinds: dict[Compute[object, object], list[_Job[object, object]]] = {}
            for job in jobs:
                kinds.setdefault(job.compute, []).append(job)
            for compute, some in kinds.items():
                live = [job for job in some if not job.answer.done()]  # nobody waits for the others any more
                if not live:
                    continue
                self.observe(len(live))
                outcomes = await loop.run_in_executor(self._thread, _attempt, compute, [job.item for job in live])
                for job, outcome in zip(live, outcomes, strict=True):
                    if not job.answer.done():
                        _settle(job.answer, outcome)


def _settle(answer: "asyncio.Future[object]", outcome: object) -> None:
    if isinstance(outcome, _Failure):
        answer.set_exception(outcome.error)
    else:
        answer.set_result(outcome)


def _attempt(compute: Compute[object, object], items: Sequence[object]) -> list[object]:
    """Return an answer or a failure for each item. If a batch fails, each item is computed alone."""
    try:
        return list(compute(items))
    except Exception as error:
        if len(items) == 1:
            return [_Failure(error)]
        return [found for item in items for found in _attempt(compute, [item])]
