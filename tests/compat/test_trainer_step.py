"""What a plain Lightning Trainer is given: batches of any kind, precisions, values to monitor, predictions, metrics."""

import logging
import warnings

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tiny_module import GAN, images_of, loader_of, model_of, trainer_of

from sightword.compat.lightning import AnimeDataModule
from sightword.errors import SightwordError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning")


@pytest.fixture(autouse=True)
def _quiet():
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


# ------------------------------------------------------------------------------------------------------------ monitors


@pytest.mark.parametrize("name", ["train/total_loss", "train/recon_loss", "train/perplexity", "val/psnr"])
def test_training_stops_by_what_callbacks_monitor(name):
    stop = EarlyStopping(name, mode="min", patience=0, min_delta=1e9, check_on_train_epoch_end=True)
    model = model_of()
    trainer_of(max_epochs=5, callbacks=[stop]).fit(model, loader_of(4, 2), loader_of(2, 2))
    assert model.batches == 4, "nothing gets better by so much, so the second epoch is the last"


def test_checkpoints_are_chosen_by_losses_of_training_within_an_epoch_and_after_one(tmp_path):
    within = ModelCheckpoint(tmp_path / "a", "{step}", "train/total_loss", every_n_train_steps=1, save_top_k=-1)
    after = ModelCheckpoint(tmp_path / "b", "{epoch}", "train/total_loss", save_on_train_epoch_end=True)
    model = model_of()
    trainer = trainer_of(max_epochs=2, callbacks=[within, after], enable_checkpointing=True)
    trainer.fit(model, loader_of(6, 2))
    assert len(within.best_k_models) == 6
    values = [float(value) for value in within.best_k_models.values()]
    means = [sum(values[:3]) / 3, sum(values[3:]) / 3]
    assert float(after.best_model_score) == pytest.approx(min(means)), "the mean of the epoch"


def test_test_returns_its_values_under_their_own_names():
    (metrics,) = trainer_of().test(model_of(), loader_of(4, 2), verbose=False)
    (validated,) = trainer_of().validate(model_of(), loader_of(4, 2), verbose=False)
    assert metrics == {name.replace("val/", "test/"): value for name, value in validated.items()}


def test_two_loaders_are_predicted_each():
    model = model_of().eval()
    first, second = trainer_of().predict(model, [loader_of(4, 2), loader_of(2, 2)])
    assert (len(first), len(second)) == (2, 1)
    with torch.no_grad():
        images, info = model(loader_of(2, 2).dataset[0])
    torch.testing.assert_close(second[0][0], images)
    assert torch.equal(second[0][1]["indices"], info["indices"])


@pytest.mark.parametrize("options", [{"overfit_batches": 1}, {"fast_dev_run": True}, {"gradient_clip_val": 0.1}])
def test_a_trainers_shortcuts_work_with_the_data_module(options, photos):
    data = AnimeDataModule(str(photos), batch_size=2, val_split=0.25, image_size=16, num_workers=0)
    model = model_of()
    trainer_of(max_epochs=2, **options).fit(model, datamodule=data)
    assert model.batches == {"overfit_batches": 2, "fast_dev_run": 1}.get(*options, 6)


# ----------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("64-true", torch.float64)])
def test_true_precisions_train_validate_and_predict_with_a_float32_codebook(precision, dtype, codebook):
    model, loader = model_of(codebook=codebook), loader_of(6, 2)
    before = model.task.model.quantizer.weight.detach().clone()
    trainer = trainer_of(max_epochs=1, precision=precision)
    trainer.fit(model, loader, loader)
    assert model.task.model.encoder.conv_in.weight.dtype == dtype
    weight = model.task.model.quantizer.weight
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, before)
    (images, info), *_ = trainer.predict(model, loader)
    assert images.dtype == dtype
    assert torch.equal(info["indices"], model.eval().encode(loader.dataset[0].to(dtype)).view_as(info["indices"]))
    assert model.metrics["val/psnr"] > 0


@pytest.mark.parametrize(
    ("precision", "gan", "told"),
    [
        ("16-true", {}, "precision='16-true' cannot train: .* precision='16-mixed' or 'bf16-true'$"),
        ("bf16-true", GAN, "precision='bf16-true' does not fit a discriminator, .* '16-mixed'$"),
    ],
)
def test_a_precision_that_cannot_train_is_one_line(precision, gan, told):
    with pytest.raises(SightwordError, match=told):
        trainer_of(max_epochs=1, precision=precision).fit(model_of(**gan), loader_of(2, 2))


# -------------------------------------------------------------------------------------------------- the range of images


def warned_by(*batches, **options):
    """The warnings about the range of images of a training on these batches, for two epochs."""
    loader = torch.utils.data.DataLoader(list(batches), batch_size=None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer_of(**({"max_epochs": 2} | options)).fit(model_of(), loader, loader)
    return [str(each.message) for each in caught if "RGB in [-1, 1]" in str(each.message)]


def test_images_from_0_to_1_are_warned_of_once():
    (told,) = warned_by(*((images_of(16) + 1) / 2).split(4))
    assert told.startswith("the first images are in [")
    assert told.endswith("Let the loader give 2 * images - 1")


@pytest.mark.parametrize(
    "images", [images_of(8) * 127.5 + 127.5, images_of(8) * 2.2], ids=["0 to 255", "by mean and std"]
)
def test_images_in_other_ranges_are_warned_of_once(images):
    (told,) = warned_by(images)
    assert told.endswith("Let the loader give Normalize(mean=3 * [0.5], std=3 * [0.5]) after ToTensor()")


@pytest.mark.parametrize(
    "images",
    [
        images_of(16),
        images_of(16) * 1.1,  # a filter overshoots
        (images_of(16) + 1) * 0.4 + 0.2,  # bright photos: nothing is darker than the middle, and nothing near it
        torch.ones(16, 3, 16, 16),  # white
        torch.zeros(4, 3, 16, 16),  # a few grey ones
        torch.cat([images_of(2), (images_of(14) + 1) / 2]),
    ],
    ids=["right", "overshoot", "bright", "white", "few", "mixed"],
)
def test_images_that_may_be_right_are_not_warned_of(images):
    assert not warned_by(*images.split(4), max_epochs=1, limit_val_batches=0, limit_train_batches=len(images) // 4)


# ------------------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("key", ["images", "image", "pixel_values"])
def test_batches_of_named_images_train(key):
    model = model_of()
    trainer_of(max_epochs=1).fit(model, loader_of(4, 2, lambda images: {key: images, "labels": torch.zeros(2)}))
    assert model.batches == 2
    assert model.losses["total_loss"] == trained_on_tensors().losses["total_loss"]


def trained_on_tensors():
    model = model_of()
    trainer_of(max_epochs=1).fit(model, loader_of(4, 2))
    return model


def test_batches_without_named_images_are_one_line():
    loader = loader_of(4, 2, lambda images: {"jpg": images, "txt": ["a", "b"]})
    with pytest.raises(
        SightwordError, match="^a batch is a dict with the keys jpg, txt. Let the loader give a tensor of"
    ):
        trainer_of(max_epochs=1).fit(model_of(), loader)
