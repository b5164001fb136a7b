"""Accumulated batches in a plain Lightning Trainer, and in a run, train the codebook as one large batch does."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, GradientAccumulationScheduler
from made import assert_same
from tiny_module import GAN, images_of, loader_of, model_of, trainer_of

from sightword.data.image import ImageBatch
from sightword.data.loader import Loaders, Stream, ordered
from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.fit import fit
from sightword.systems.tokenizer.evaluate import TokenizerEvaluator

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


class Moves(Callback):
    """How often the codebook moved by the end of each batch."""

    def __init__(self):
        self.updates = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.updates.append(int(pl_module.task.model.quantizer.updates))


def trained(batch_size, accumulate=1, batches=48, model=(), **options):
    """A model after one epoch of `batches` images."""
    made, moves = model_of(learning_rate=1e-4, decay=0.8, **dict(model)), Moves()
    options = {"accumulate_grad_batches": accumulate} | options
    trainer = trainer_of(max_epochs=1, callbacks=[moves], **options)
    trainer.fit(made, loader_of(batches, batch_size))
    return made, moves.updates


def assert_same_codebook(one, other):
    a, b = one.task.model.quantizer, other.task.model.quantizer
    assert torch.equal(a.idle, b.idle)
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("restart_after", [0, 1])
def test_four_batches_of_four_move_the_codebook_as_one_of_sixteen(restart_after):
    options = {"restart_after": restart_after}
    whole, _ = trained(16, model=options)
    parts, updates = trained(4, 4, model=options)
    assert updates == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    assert_same_codebook(whole, parts)
    torch.testing.assert_close(
        whole.task.model.encoder.conv_in.weight, parts.task.model.encoder.conv_in.weight, rtol=1e-3, atol=1e-5
    )


def test_so_it_is_with_a_discriminator_and_the_modules_own_accumulate():
    whole, _ = trained(16, model=GAN)
    parts, updates = trained(4, model=GAN | {"accumulate": 4})
    assert updates == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]
    quantizers = [made.task.model.quantizer for made in (whole, parts)]
    torch.testing.assert_close(*[q.cluster_size for q in quantizers], rtol=0.05, atol=0.05)


def test_so_it_is_in_mixed_precision():
    _, updates = trained(4, 4, precision="16-mixed")
    assert updates == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_the_rest_of_an_epoch_is_a_step_too():
    _, updates = trained(4, 4, batches=24)
    assert updates == [0, 0, 0, 1, 1, 2]


def test_a_schedule_of_accumulation_is_followed():
    made, moves = model_of(), Moves()
    trainer = trainer_of(max_epochs=2, callbacks=[GradientAccumulationScheduler({0: 1, 1: 2}), moves])
    trainer.fit(made, loader_of(16, 4))
    assert moves.updates == [1, 2, 3, 4, 4, 5, 5, 6]


def test_after_training_a_call_moves_the_codes_at_once():
    made, _ = trained(4, 4)
    quantizer = made.task.model.quantizer
    assert not quantizer.deferred
    made.train()(loader_of(4, 4).dataset[0])
    assert quantizer.updates == 4


def test_so_it_is_after_a_training_that_failed():
    class Failing(Callback):
        def on_train_batch_end(self, *args):
            raise MemoryError

    made = model_of()
    with pytest.raises(MemoryError):
        trainer_of(max_epochs=1, callbacks=[Failing()], accumulate_grad_batches=4).fit(made, loader_of(16, 4))
    quantizer = made.task.model.quantizer
    assert not quantizer.deferred
    assert quantizer.gathered is None


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, draw):
        return images_of(48)[draw.index]


def collate(images):
    return ImageBatch(torch.stack(images), [], 0)


def stream_of(batch_size):
    return Stream(Images(), batch_size, shuffle=False, collate_fn=collate)


class Cut(Callback):
    """Saves a checkpoint after batch 6."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 5:
            trainer.save_checkpoint(self.file)


@pytest.mark.parametrize("gan", [{}, GAN], ids=["vqvae", "vqgan"])
def test_a_fit_resumed_between_the_batches_of_a_step_ends_as_a_straight_one(gan, tmp_path):
    options = {"restart_after": 1} | (gan and {"accumulate": 4, **gan})
    accumulate = {} if gan else {"accumulate_grad_batches": 4}
    straight, resumed, file = model_of(**options), model_of(**options), tmp_path / "cut.ckpt"
    trainer_of(callbacks=[Cut(file)], max_epochs=1, **accumulate).fit(straight, stream_of(4))
    trainer_of(max_epochs=1, **accumulate).fit(resumed, stream_of(4), ckpt_path=file, weights_only=True)
    assert straight.batches == resumed.batches == 12
    assert_same(dict(straight.state_dict()), dict(resumed.state_dict()))


def test_a_checkpoint_after_a_step_has_nothing_more_than_others(tmp_path):
    trainer = trainer_of(max_epochs=1, accumulate_grad_batches=3)
    trainer.fit(model_of(), loader_of(24, 4))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert not torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]


def test_a_run_of_the_command_line_accumulates_so(tmp_path):
    found = {}
    for name, batch_size, accumulate in (("whole", 16, 1), ("parts", 4, 4)):
        made = model_of(decay=0.8, restart_after=1)
        loaders = Loaders(stream_of(batch_size), ordered(Images(), 16, collate_fn=collate))
        config = Run(
            experiment="tokenizer/tiny",
            optim=Optim(lr=1e-4, accumulate=accumulate),
            trainer=Trainer(steps=48 // batch_size, accelerator="cpu"),
        )
        fit(made.task, TokenizerEvaluator(made.task), loaders, config, tmp_path / name)
        found[name] = made
    assert found["parts"].task.model.quantizer.updates == 3
    assert_same_codebook(found["whole"], found["parts"])
