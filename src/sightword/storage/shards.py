"""Any offline job: numbered shards, and a worker that turns one into one file, written beside and renamed.

So a shard may be done twice, killed, or done elsewhere, and its bytes are the same; to resume is to list what
is missing. The same worker runs inline, under torchrun (`shards[rank::world]`), or as actors on a Ray cluster.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

from tqdm import tqdm

Worker = Callable[[int], None]


class Summary(NamedTuple):
    """What this process answered for: under torchrun its own shards only."""

    done: int
    skipped: int  # there before we came
    seconds: float


def run(
    worker_factory: Callable[[], Worker],
    shards: int,
    missing: Callable[[], list[int]],
    engine: str = "inline",
    desc: str = "",
    unit: str = "shard",
    workers: int = 0,
    gpus: float = 0,
) -> Summary:
    """Have every missing shard done, with progress on stderr; Ctrl-C or SIGTERM, and it goes on another time.

    The factory loads the models: called in each process that works, once, and only if there is work. `workers`
    (0: as many as fit), the `gpus` of each (Ray hides those not asked for) and that the factory must pickle
    matter to Ray only. Under torchrun no rank waits for another, so none may count on the whole result.
    """
    check_engine(engine)
    rank, world = (0, 1) if engine == "ray" else place()
    mine = range(shards)[rank::world]
    todo = sorted(set(mine) & set(missing()))
    desc = (desc or "job") + (f" (rank {rank} of {world})" if world > 1 else "")
    done, start = 0, time.perf_counter()
    say(f"{desc}: {len(todo)} of {len(mine)} {unit}s to do")
    if todo:
        try:
            with ENGINES[engine](worker_factory, todo, workers, gpus) as results, terminable():
                for _ in tqdm(results, desc, len(todo), unit=f" {unit}", disable=None):
                    done += 1
        except KeyboardInterrupt:
            say(f"{desc}: stopped, {done} of {len(todo)} {unit}s done; the same command does the rest")
            raise
        check_written(todo, missing(), unit)
    summary = Summary(done, len(mine) - len(todo), time.perf_counter() - start)
    say(f"{desc}: {done} {unit}s done, {summary.skipped} already there, {summary.seconds:.1f} s")
    return summary


def place() -> tuple[int, int]:
    """(rank, world size) as torchrun tells them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def device() -> str:
    """Where a worker computes: on a GPU where there is one, under torchrun each process on its own."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


@contextmanager
def inline(factory: Callable[[], Worker], todo: list[int], workers: int, gpus: float) -> Iterator[Iterator[int]]:
    def results() -> Iterator[int]:
        work = factory()
        for number in todo:
            work(number)
            yield number

    yield results()


@contextmanager
def on_ray(factory: Callable[[], Worker], todo: list[int], workers: int, gpus: float) -> Iterator[Iterator[int]]:
    """The same worker in actors that Ray starts again, with the shard they held, when they or their node die.

    On the cluster that RAY_ADDRESS names, else one of our own (a stale cluster file breaks Ray's own choice).
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.util import ActorPool

    class Hand:
        def __init__(self) -> None:
            self.work: Worker | None = None

        def do(self, number: int) -> int:
            self.work = self.work or factory()
            self.work(number)
            return number

    ours = not ray.is_initialized()
    if ours:
        ray.init(**cluster(workers), logging_level="error", log_to_driver=False)
    try:
        count = min(len(todo), fitting(ray.available_resources(), workers, gpus))
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(Hand)
        pool = ActorPool([kind.remote() for _ in range(count)])
        yield pool.map_unordered(lambda hand, number: hand.do.remote(number), todo)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # the worker's own words, not Ray's page around them
    finally:
        if ours:
            ray.shutdown()


def cluster(workers: int) -> dict[str, Any]:
    """Where to `ray.init`: a cluster has the size it has; one of our own, as many CPUs as workers."""
    if address := os.environ.get("RAY_ADDRESS"):
        return {"address": address}
    return {"address": "local", "num_cpus": workers or None, "include_dashboard": False}


def fitting(free: dict[str, float], workers: int, gpus: float) -> int:
    """How many workers to start: those asked for, as far as they fit; one too many would wait for ever."""
    cpu, gpu = free.get("CPU", 0), free.get("GPU", 0)
    fit = int(min(cpu, gpu / gpus) if gpus else cpu)
    if fit < 1:
        raise ValueError(f"Ray has {cpu:g} CPUs and {gpu:g} GPUs free, a worker needs 1 and {gpus:g}: ask for less")
    return min(workers, fit) if workers else fit


ENGINES = {"inline": inline, "ray": on_ray}


def check_engine(engine: str) -> None:
    """ValueError unless jobs can run on it here. `run` asks; ask before, where something is written first."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine} is none of {', '.join(ENGINES)}")
    if engine == "ray" and find_spec("ray") is None:
        raise ValueError("engine=ray needs Ray: pip install 'sightword[ray]'")


def check_written(todo: list[int], missing: list[int], unit: str) -> None:
    if lost := sorted(set(todo) & set(missing)):
        where = "is the output folder one that all machines share?"
        raise ValueError(f"{len(lost)} {unit}s were done but are not there, {lost[0]} the first: {where}")


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM, which is how torchrun, Slurm and Kubernetes stop a process, does what Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
