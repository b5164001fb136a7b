"""Loaders whose batches depend only on (seed, epoch, batch number), so that a stopped run resumes exactly.

Nothing here draws from a global generator, so neither loading nor resuming disturbs the model's own randomness
(a plain `DataLoader` takes a number from torch's global generator at every `iter()`).
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sized
from typing import Generic, NamedTuple, TypedDict, TypeVar, Unpack, cast

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, Sampler

from sightword.errors import SightwordError

BatchT = TypeVar("BatchT")


class LoaderOptions(TypedDict, total=False):
    """Options of `torch.utils.data.DataLoader` that the loaders here pass on."""

    collate_fn: Callable[..., object]
    num_workers: int
    pin_memory: bool
    persistent_workers: bool
    prefetch_factor: int
    timeout: float
    multiprocessing_context: str
    worker_init_fn: Callable[[int], None]
    generator: torch.Generator


class Draw(NamedTuple):
    """One item of one epoch: the index that a sampler gives to `dataset[draw]`."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which is not used on a pair


def mix(*parts: int) -> int:
    """Return one 64 bit seed from several integers; near, negative or huge ones give unrelated seeds (blake2b)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def generator_of(seed: int, draw: Draw) -> torch.Generator:
    """Return the CPU generator of one item: the same for (seed, epoch, index) in any process, order or worker."""
    return torch.Generator().manual_seed(mix(seed, draw.epoch, draw.index))


class Shuffled(Sampler[list[Draw]]):
    """A batch sampler with numbered epochs. Epoch `e` has the same batches in every process and at any time.

    The permutation of (seed, epoch) is cut into global batches of `world * batch_size`. Each rank takes its slice, so
    the batches of all ranks together equal the batch of one process with `world` times the batch size.
    With `drop_last=False`, meant for evaluation, the last global batch is split as evenly as possible, and each item
    comes exactly once. If it has fewer items than there are ranks, the last ranks have one batch less.

    rank, world: None reads them from `torch.distributed` at every use, as loaders are made before the process group.
    iter() is epoch 0. Raises SightwordError if `drop_last` would leave no batch.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise SightwordError(
                f"a loader needs items and a batch size of at least 1: size {size}, batch_size {batch_size}"
            )
        if (rank is None) != (world is None):
            raise TypeError(f"give both of rank and world, or neither: rank {rank}, world {world}")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world = rank, world
        self._refuse_empty()

    def place(self) -> tuple[int, int]:
        """Return the present (rank, world) of this process."""
        if self.rank is not None and self.world is not None:
            return self.rank, self.world
        if distributed.is_available() and distributed.is_initialized():
            return distributed.get_rank(), distributed.get_world_size()
        return 0, 1

    def __len__(self) -> int:
        """Return the number of batches per epoch on this rank."""
        self._refuse_empty()
        rank, world = self.place()
        whole, rest = divmod(self.size, self.batch_size * world)
        return whole + (not self.drop_last and rest > rank)

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[list[Draw]]:
        """Yield this rank's batches of one epoch, from batch number `start` on."""
        rank, world = self.place()
        order = self.order(epoch)
        step = self.batch_size * world
        for batch in range(start, len(self)):
            share = np.array_split(order[batch * step : (batch + 1) * step], world)[rank]
            yield [Draw(epoch, int(index)) for index in share]

    def order(self, epoch: int) -> np.ndarray:
        """Return (size,) int64: all items in the order of this epoch, before they are cut into batches."""
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng(mix(self.seed, epoch)).permutation(self.size)

    def _refuse_empty(self) -> None:
        _, world = self.place()
        if self.drop_last and self.size < self.batch_size * world:
            ranks = f" x {world} ranks" if world > 1 else ""
            raise SightwordError(
                f"{self.size} items do not fill one batch of {self.batch_size}{ranks}: lower the batch size to at most "
                f"{max(1, self.size // world)} (data.batch_size={max(1, self.size // world)}), or give more data"
            )


class Stream(DataLoader[BatchT]):
    """A training loader that counts its batches. After `load_state_dict` it gives exactly the remaining batches.

    steps=None: an iteration is one epoch. steps=n: an iteration is n batches, over as many epochs as that takes.
    Either way an iteration ends at the next multiple of len(stream). An iteration that was abandoned is finished by
    the next one. So use `ordered` for evaluation, where Lightning's sanity check stops after two batches. Keep
    `drop_last` on more than one rank, or the ranks may count differently.

    `dataset[Draw(epoch, index)]` gives an item, and the draw seeds its augmentations (see `generator_of`).

    State: {"batches": batches given so far on each rank}. Lightning (2.6) finds `state_dict`/`load_state_dict` by
    itself; it adds the batches done before a resume to what it fetches, so len() stays the full number although the
    resumed iteration is shorter. Use `Trainer(use_distributed_sampler=False)`: this loader splits items across ranks.

    shuffled: a batch sampler to use in place of `Shuffled(size, batch_size, …)`.
    options: of DataLoader; workers persist unless persistent_workers=False.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        batch_size: int,
        seed: int = 0,
        steps: int | None = None,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world: int | None = None,
        shuffled: Shuffled | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        if steps is not None and steps < 1:
            raise SightwordError(f"steps={steps}: give at least 1, or None for whole epochs")
        shuffled = shuffled or Shuffled(_size(dataset), batch_size, seed, shuffle, drop_last, rank, world)
        schedule = _Schedule(shuffled, steps)
        self.schedule = schedule
        super().__init__(cast(Dataset[BatchT], dataset), batch_sampler=schedule, **_defaults(options, seed))

    @property
    def steps(self) -> int | None:
        return self.schedule.steps

    @steps.setter
    def steps(self, steps: int | None) -> None:
        self.schedule.steps = steps

    @property
    def items(self) -> int:
        """Number of items in the data set."""
        return self.schedule.shuffled.size

    @property
    def batch_items(self) -> int:
        """Number of items in a batch of one process."""
        return self.schedule.shuffled.batch_size

    def batches_per_epoch(self, world: int) -> int:
        """Return the number of batches per epoch for each of `world` processes, started or not."""
        return self.schedule.shuffled.size // (self.schedule.shuffled.batch_size * world)

    @property
    def batches(self) -> int:
        """Batches given so far, over all iterations."""
        return self.schedule.start

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to, from 0."""
        return self.batches // len(self.schedule.shuffled)

    def __len__(self) -> int:
        return len(self.schedule)

    def __iter__(self) -> Iterator[BatchT]:  # type: ignore[override]
        batches = _one_line(super().__iter__)
        for batch in batches:
            self.schedule.start += 1  # before the yield: a checkpoint written during this batch must count it
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.schedule.start = int(state["batches"])


def ordered(
    dataset: Dataset[object],
    batch_size: int,
    rank: int | None = None,
    world: int | None = None,
    shuffled: Shuffled | None = None,
    **options: Unpack[LoaderOptions],
) -> DataLoader[BatchT]:
    """Return a loader for evaluation: each item once, in order, split across ranks. All iterations are the same.

    shuffled: a batch sampler to use in place of the ordered one.
    """
    sampler = shuffled or Shuffled(_size(dataset), batch_size, shuffle=False, drop_last=False, rank=rank, world=world)
    return DataLoader(cast(Dataset[BatchT], dataset), batch_sampler=sampler, **_defaults(options, seed=0))


def moved(batch: BatchT, device: torch.device | str) -> BatchT:
    """Return a batch on another device. Moves the tensors of a NamedTuple, also nested ones, and nothing else."""
    return cast(BatchT, _moved(batch, device))


def _moved(batch: object, device: torch.device | str) -> object:
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        parts = [_moved(part, device) for part in batch]
        return cast(Callable[..., object], type(batch))(*parts)
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch


class Loaders(NamedTuple, Generic[BatchT]):
    """The loaders of training and validation."""

    train: Stream[BatchT]
    val: DataLoader[BatchT]


class _Schedule(Sampler[list[Draw]]):
    """The batches of a Stream's current iteration: from `start` to the next multiple of its length."""

    def __init__(self, shuffled: Shuffled, steps: int | None) -> None:
        self.shuffled, self.steps, self.start = shuffled, steps, 0
        self.sampler = self  # where Lightning looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        """Start a new schedule at iteration `epoch`; a schedule that has begun keeps its position.

        Lightning (2.6) does not restore the loader's state from a checkpoint made after a whole epoch, unless
        `max_steps` is set: then only this is called.
        """
        self.start = self.start or epoch * len(self)

    def __len__(self) -> int:
        return self.steps or len(self.shuffled)

    def __iter__(self) -> Iterator[list[Draw]]:
        start, length = self.start, len(self)  # a copy: workers are ahead of the batches that the loop has received
        missing = length - start % length
        epoch, offset = divmod(start, len(self.shuffled))
        while missing > 0:
            for batch in self.shuffled.epoch(epoch, offset):
                yield batch
                missing -= 1
                if missing == 0:
                    return
            epoch, offset = epoch + 1, 0


def _size(dataset: Dataset[object]) -> int:
    return len(cast(Sized, dataset))


def _defaults(options: LoaderOptions, seed: int) -> LoaderOptions:
    persistent = options.get("num_workers", 0) > 0
    # its own generator, or DataLoader would take its workers' base seed from torch's global one at every iter()
    generator = torch.Generator().manual_seed(mix(seed))
    return {"persistent_workers": persistent, "generator": generator, **options}


def _one_line(start: Callable[[], Iterator[BatchT]]) -> Iterator[BatchT]:
    """Iterate, and strip the traceback that torch adds to the message of a worker's SightwordError."""
    try:
        yield from start()
    except SightwordError as error:
        text = str(error)
        if not re.match(r"Caught \w+ in DataLoader worker", text):
            raise
        raise type(error)(re.split(r"\n[\w.]*Error: ", text.strip())[-1]) from None
