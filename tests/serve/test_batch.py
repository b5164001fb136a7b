import asyncio
import threading

import pytest

from sightword.serve.batch import Worker
from sightword.serve.problem import Problem


def worker(**changed):
    options = {"waiting": 8, "batch": 4, "seconds": 5.0} | changed
    return Worker(
        "model", options["waiting"], options["batch"], options["seconds"], options.get("observe", lambda size: None)
    )


def test_requests_that_wait_are_computed_together_and_each_gets_its_own_answer():
    sizes, gate = [], threading.Event()

    def double(items):
        gate.wait(5)
        return [2 * item for item in items]

    async def ask():
        one = worker(observe=sizes.append)
        tasks = [asyncio.create_task(one.submit(double, number)) for number in range(6)]
        await asyncio.sleep(0.05)
        gate.set()
        answers = await asyncio.gather(*tasks)
        one.stop()
        return answers

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert sum(sizes) == 6
    assert max(sizes) > 1


def test_a_request_that_fails_harms_no_other_in_its_batch():
    def inverse(items):
        return [1 / item for item in items]

    async def ask():
        one = worker()
        found = await asyncio.gather(*(one.submit(inverse, number) for number in (2, 0, 4)), return_exceptions=True)
        one.stop()
        return found

    half, error, quarter = asyncio.run(ask())
    assert (half, quarter) == (0.5, 0.25)
    assert isinstance(error, ZeroDivisionError)


def test_two_kinds_of_request_are_not_mixed():
    async def ask():
        one = worker()
        return await asyncio.gather(
            one.submit(lambda items: [str(i) for i in items], 1), one.submit(lambda i: list(i), 2)
        )

    assert asyncio.run(ask()) == ["1", 2]


def test_a_full_queue_says_503_and_when_to_ask_again():
    gate = threading.Event()

    async def ask():
        one = worker(waiting=1, batch=1)
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(one.submit(lambda items: [gate.wait(5)] * len(items), number)))
            await asyncio.sleep(0.02)
        gate.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        one.stop()
        return found

    *answered, refused = asyncio.run(ask())
    assert answered == [True, True]
    assert isinstance(refused, Problem)
    assert refused.status == 503
    assert refused.headers == {"Retry-After": "1"}


def test_a_request_that_takes_too_long_says_503_and_the_next_is_answered():
    gate = threading.Event()

    async def ask():
        one = worker(seconds=0.05)
        with pytest.raises(Problem, match="did not answer within"):
            await one.submit(lambda items: [gate.wait(5)], 1)
        gate.set()
        one.seconds = 5.0
        answer = await one.submit(lambda items: list(items), 2)
        one.stop()
        return answer

    assert asyncio.run(ask()) == 2
