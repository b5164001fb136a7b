"""Execute an offline job of numbered shards: a worker writes one file for each shard number, atomically.

The bytes of a shard are the same wherever and however often it is computed. To resume is to compute the missing shards.
The same worker is executed inline, under torchrun (`shards[rank::world]`), or by actors on a Ray cluster.
"""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple, TextIO, TypeVar

from tqdm import tqdm

from sightword.errors import SightwordError

Worker = Callable[[int], None]
T = TypeVar("T")


class Summary(NamedTuple):
    """The result of a job in this process; under torchrun only of its own shards."""

    done: int
    skipped: int  # complete before the job began
    seconds: float
    missing: tuple[int, ...] = ()  # shards that are still missing; a command then exits with rc ≠ 0


def execute(
    worker_factory: Callable[[], Worker],
    shards: int,
    missing: Callable[[], list[int]],
    engine: str = "inline",
    desc: str = "",
    unit: str = "shard",
    workers: int = 0,
    gpus: float = 0,
) -> Summary:
    """Process every missing shard, with progress on stderr. After Ctrl-C or SIGTERM, the same command does the rest.

    worker_factory: loads the models; called once in each process that has work. For Ray it must be picklable.
    workers: Ray actors (0: as many as fit). gpus: of each actor, for Ray only.
    Under torchrun no rank waits for another, so no rank may rely on the whole result. A closed stderr does not stop the
    job. Raises SightwordError if shards that were processed do not exist afterwards.
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
                for _ in tqdm(results, desc, len(todo), unit=f" {unit}", disable=None, file=LenientStderr()):
                    done += 1
        except KeyboardInterrupt:
            say(f"{desc}: stopped, {done} of {len(todo)} {unit}s done; run the same command again to do the rest")
            raise
        check_written(todo, missing(), unit)
    left = tuple(sorted(set(mine) & set(missing())))
    summary = Summary(done, len(mine) - len(todo), time.perf_counter() - start, left)
    undone = f", {len(left)} missing" if left else ""
    say(f"{desc}: {done} {unit}s done, {summary.skipped} already there{undone}, {summary.seconds:.1f} s")
    return summary


def place() -> tuple[int, int]:
    """Return (rank, world size) as torchrun sets them; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def device() -> str:
    """Return the device of a worker: a GPU if there is one; under torchrun, one for each process."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"


@contextmanager
def inline(factory: Callable[[], Worker], todo: list[int], workers: int, gpus: float) -> Iterator[Iterator[int]]:
    """Execute the worker in this process. `workers` and `gpus` are for Ray and not used."""

    def results() -> Iterator[int]:
        work = factory()
        for number in todo:
            work(number)
            yield number

    yield results()


@contextmanager
def on_ray(factory: Callable[[], Worker], todo: list[int], workers: int, gpus: float) -> Iterator[Iterator[int]]:
    """Execute the worker in Ray actors. If an actor or its node dies, Ray restarts it with the same shard."""
    with connected(workers):
        import ray
        from ray.util import ActorPool

        class RayWorker:
            def __init__(self) -> None:
                self.work: Worker | None = None

            def do(self, number: int) -> int:
                self.work = self.work or in_one_thread(factory)
                self.work(number)
                return number

        count = min(len(todo), fitting(ray.available_resources(), workers, gpus))
        kind = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(RayWorker)
        pool = ActorPool([kind.remote() for _ in range(count)])
        yield pool.map_unordered(lambda actor, number: actor.do.remote(number), todo)


@contextmanager
def connected(workers: int) -> Iterator[None]:
    """Connect to Ray: to the cluster that RAY_ADDRESS names, or a new local one (a stale file breaks Ray's own choice).

    An error of a worker is raised in its own words.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(**cluster(workers), logging_level="error", log_to_driver=False)
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # the worker's own message without Ray's traceback
    finally:
        if ours:
            ray.shutdown()


def in_one_thread(factory: Callable[[], T]) -> T:
    """Return the worker of a process that is one of several on its machine, and set torch to one thread."""
    import torch

    torch.set_num_threads(1)
    return factory()


def cluster(workers: int) -> dict[str, object]:
    """Return the arguments of `ray.init`: the cluster of RAY_ADDRESS, or a new one with as many CPUs as workers."""
    if address := os.environ.get("RAY_ADDRESS"):
        return {"address": address}
    return {"address": "local", "num_cpus": workers or None, "include_dashboard": False}


def fitting(free: dict[str, float], workers: int, gpus: float) -> int:
    """Return how many workers to start: `workers`, or as many as fit. Others would wait for ever."""
    cpu, gpu = free.get("CPU", 0), free.get("GPU", 0)
    fit = int(min(cpu, gpu / gpus) if gpus else cpu)
    if fit < 1:
        raise SightwordError(
            f"Ray has {cpu:g} CPUs and {gpu:g} GPUs free, a worker needs 1 and {gpus:g}: lower workers= or gpus="
        )
    return min(workers, fit) if workers else fit


ENGINES = {"inline": inline, "ray": on_ray}


def check_engine(engine: str) -> None:
    """Raise SightwordError unless this engine can be used here. Call it before anything is written."""
    if engine not in ENGINES:
        raise SightwordError(f"engine={engine} is none of {', '.join(ENGINES)}")
    if engine == "ray" and find_spec("ray") is None:
        raise SightwordError("engine=ray needs Ray: pip install 'sightword[ray]'")


def check_written(todo: list[int], missing: list[int], unit: str) -> None:
    """Raise SightwordError if shards that were processed do not exist."""
    if lost := sorted(set(todo) & set(missing)):
        where = "is the output folder one that all machines share?"
        raise SightwordError(f"{len(lost)} {unit}s were done but do not exist, {lost[0]} the first: {where}")


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise KeyboardInterrupt, as Ctrl-C does. torchrun, Slurm and Kubernetes stop a process with it."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class LenientStderr(io.TextIOBase):
    """The present stderr. Text is dropped without an error if it is None, closed, or a pipe without a reader."""

    def write(self, text: str, /) -> int:
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def isatty(self) -> bool:
        return bool(self._attempt(lambda stream: stream.isatty()))

    def fileno(self) -> int:
        """Return stderr's descriptor, from which tqdm reads the width of the terminal."""
        if sys.stderr is None:
            raise OSError("stderr is closed")
        return sys.stderr.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(sys.stderr, "encoding", None) or "utf-8"

    @staticmethod
    def _attempt(action: Callable[[TextIO], object]) -> object:
        try:
            return None if sys.stderr is None else action(sys.stderr)
        except (OSError, ValueError):  # a pipe without a reader; a closed file
            return None


def say(line: str) -> None:
    """Print a line on stderr; a closed stderr is no error."""
    print(line, file=LenientStderr(), flush=True)
