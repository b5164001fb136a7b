"""The objective of a tokenizer: every term once, every gradient the textbook's, the discriminator in its own time."""

import copy
import csv
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sightword.cli.main import main
from sightword.data.image import ImageBatch
from sightword.engine.config import Run
from sightword.engine.init import initialise, origin_of
from sightword.errors import SightwordError
from sightword.ops.quantize import Quantized, VectorQuantizerEMA
from sightword.systems.tokenizer.config import TokenizerConfig
from sightword.systems.tokenizer.evaluate import TokenizerEvaluator
from sightword.systems.tokenizer.loss import LeCam, WithGradient, adaptive_weight, discriminator_loss, generator_loss
from sightword.systems.tokenizer.model import PatchGAN
from sightword.systems.tokenizer.predict import ImageTokenizer
from sightword.systems.tokenizer.task import TokenizerTask, make_task
from sightword.towers.vq.image import Reconstruction, VQImage
from sightword.towers.vq.network import Decoder, Encoder

TINY = {"latent_channels": 8, "encoder_channels": [8, 8], "decoder_channels": [8, 8], "num_res_blocks": 1}
TINY |= {"num_embeddings": 16, "embedding_dim": 8, "use_lpips": False, "disc_channels": 4, "disc_layers": 1}
LAMBDAS = {"lambda_rec": 0.7, "lambda_vq": 1.5, "lambda_commit": 0.4, "lambda_perc": 1.3}


class Blurred(nn.Module):
    """Stands in for LPIPS: some distance (B,) with a gradient of its own."""

    net = "blurred"

    def forward(self, x, y):
        return F.avg_pool2d(x - y, 4).square().mean((1, 2, 3))


def task_of(**options):
    torch.manual_seed(0)
    task = make_task(TokenizerConfig(**(TINY | LAMBDAS | options)))
    task.lpips = Blurred()
    return task.train()


def batch_of(count=2, size=16, skipped=0, seed=0):
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return ImageBatch(images, [str(n) for n in range(count)], skipped)


def gradients(task):
    return {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}


# --------------------------------------------------------------------------------------------------------- the total


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
@pytest.mark.parametrize("gan", [0.0, 0.6], ids=["vqvae", "vqgan"])
def test_the_total_is_the_weighted_sum_of_the_raw_terms(codebook, gan):
    task = task_of(codebook=codebook, lambda_gan=gan, disc_weight=0.5)
    losses = task.losses(batch_of())
    named = {"recon_loss": 0.7, "vq_loss": 1.5, "commitment_loss": 0.4, "perc_loss": 1.3}
    named |= {"gan_loss": 0.6 * 0.5 * float(task.adaptive)} if gan else {}
    assert losses.keys() == named.keys()
    expected = sum(weight * losses[name].item() for name, weight in named.items())
    assert task.total(losses).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_the_terms_are_what_their_names_say(metric):
    task = task_of(metric=metric)
    twin, batch = copy.deepcopy(task.model), batch_of()
    losses, out = task.losses(batch), twin(batch.images)
    raw = (out.latents - out.quantized.codes).square().mean()
    if metric == "cosine":
        raw = 2 - 2 * F.cosine_similarity(out.latents, out.quantized.codes, dim=-1).mean()
    expected = {"recon_loss": (out.images - batch.images).abs().mean(), "commitment_loss": raw, "vq_loss": raw}
    expected |= {"perc_loss": Blurred()(out.images, batch.images).mean()}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name


def test_a_term_of_weight_zero_costs_nothing():
    task = task_of(lambda_perc=0.0)
    task.lpips.forward = lambda x, y: pytest.fail("measured though it weighs nothing")
    assert "perc_loss" not in task.losses(batch_of())


@pytest.mark.parametrize("gan", [0.0, 0.5], ids=["vqvae", "vqgan"])
def test_what_a_run_logs_adds_up_to_its_total(gan, tiny, tmp_path):
    argv = [f"system.{name}={value}" for name, value in LAMBDAS.items()]
    argv += [f"system.lambda_gan={gan}", "system.disc_start=0", "system.disc_warmup=1"]
    argv += [
        "system.disc_channels=4",
        "system.disc_layers=1",
        "trainer.steps=4",
        "data.val_crops=1",
        f"out={tmp_path}",
    ]
    assert main(["train", "experiment=tokenizer/mini", *tiny, *argv]) == 0
    (file,) = tmp_path.rglob("metrics.csv")
    with file.open(newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row["train/total_loss"]]
    assert len(rows) == 4
    for row in rows:
        total = 0.7 * float(row["train/recon_loss"]) + 1.5 * float(row["train/vq_loss"])
        total += 0.4 * float(row["train/commitment_loss"])
        if row.get("train/gan_loss"):
            total += gan * 0.8 * float(row["train/adaptive_weight"]) * float(row["train/gan_loss"])
        assert float(row["train/total_loss"]) == pytest.approx(total, rel=1e-4)
    assert [bool(row.get("train/gan_loss")) for row in rows] == [False] + [gan > 0] * 3


def test_commitment_is_weighed_once_also_in_a_tokenizer_that_has_a_cost_of_its_own(tmp_path):
    own = VQImage(Encoder(3, (8, 8), 8, 1), VectorQuantizerEMA(16, 8), Decoder(8, (8, 8), 3, 1))
    assert own.quantizer.commitment_cost == 0.25
    own.save_pretrained(tmp_path)
    loaded, config = task_of(), Run(experiment="tokenizer/mini", init_from=str(tmp_path / "model.safetensors"))
    assert initialise(loaded, origin_of(config), config).fits
    for task in (task_of(), loaded):
        losses = task.losses(batch_of())
        assert torch.equal(losses["commitment_loss"], losses["vq_loss"])  # vq_loss is never scaled


def test_with_an_ema_codebook_vq_loss_is_commitment_loss_and_trains_nothing():
    grads = []
    for weight in (0.0, 100.0):
        task = task_of(lambda_vq=weight)
        losses = task.losses(batch_of())
        assert torch.equal(losses["vq_loss"], losses["commitment_loss"].detach())
        assert not losses["vq_loss"].requires_grad
        task.total(losses).backward()
        grads.append(gradients(task))
    assert grads[0].keys() == grads[1].keys() == dict(task.model.named_parameters()).keys()
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


def test_with_a_gradient_codebook_vq_loss_moves_the_codes_and_only_them():
    task = task_of(codebook="gradient")
    losses = task.losses(batch_of())
    assert torch.equal(losses["vq_loss"].detach(), losses["commitment_loss"].detach())
    losses["vq_loss"].backward(retain_graph=True)
    assert gradients(task).keys() == {"quantizer.weight"}
    assert task.model.quantizer.weight.grad.abs().sum() > 0
    task.zero_grad()
    losses["commitment_loss"].backward()
    assert all(name.startswith("encoder.") for name in gradients(task))


# ---------------------------------------------------------------------------------------------------- the discriminator


def two_passes(task, batch):
    """The total as the papers write it, by ordinary autograd: LPIPS and the discriminator run backward twice."""
    out, discriminator = task.model(batch.images), task.discriminator
    looks = 0.7 * F.l1_loss(out.images, batch.images) + 1.3 * task.lpips(out.images, batch.images).mean()
    gan = generator_loss(discriminator.network(out.images), discriminator.kind)
    last = task.model.decoder.conv_out.weight
    norms = [torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (looks, gan)]
    adaptive = (norms[0] / (norms[1] + 1e-4)).clamp(0, 1e4).detach()
    total = looks + 1.5 * out.quantized.codebook_loss + 0.4 * out.quantized.loss + 0.6 * 0.8 * adaptive * gan
    return total, adaptive


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_one_pass_gives_the_gradients_of_two(codebook, kind):
    task = task_of(codebook=codebook, disc_loss=kind, lambda_gan=0.6)
    reference, batch = copy.deepcopy(task), batch_of()
    total = task.total(task.losses(batch))
    total.backward()
    expected, adaptive = two_passes(reference, batch)
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert float(task.adaptive) == pytest.approx(float(adaptive), rel=1e-5)
    assert float(adaptive) > 0.01
    ours, theirs = gradients(task), gradients(reference)
    assert ours.keys() == theirs.keys() == dict(task.model.named_parameters()).keys()
    for name, grad in theirs.items():
        assert (ours[name] - grad).abs().max() < 1e-6 * max(1.0, grad.abs().max()), name
    # Without its share of the adversarial gradient this would not hold:
    alone = task_of(codebook=codebook)
    alone.total(alone.losses(batch)).backward()
    assert (gradients(alone)["decoder.conv_in.weight"] - theirs["decoder.conv_in.weight"]).abs().max() > 1e-4


def test_the_adaptive_weight_is_the_papers_formula_and_bounded():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    x = torch.tensor([[[[1.0, 2.0]]]])
    image, wanted = layer(x), torch.tensor([[[[3.0, 1.0]]]])  # ∂/∂W is Σ gradient · x: 5
    for adversarial, expected in (([0.5, 0.0], 5 / (0.5 + 1e-4)), ([0.0, 0.0], 1e4)):
        weight = adaptive_weight(image, wanted, torch.tensor([[[adversarial]]]), layer.weight)
        assert float(weight) == pytest.approx(expected)
        assert not weight.requires_grad


def test_the_adaptive_weight_survives_float16():
    layer = nn.Conv2d(1, 1, 1, bias=False)
    image = layer(torch.ones(1, 1, 1, 2)).half()
    wanted, adversarial = torch.full((1, 1, 1, 2), 1e-9), torch.full((1, 1, 1, 2), 1e-8)
    weight = adaptive_weight(image, wanted, adversarial, layer.weight)
    assert float(weight) == pytest.approx(2e-9 / (2e-8 + 1e-4), rel=1e-3)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float16, 0.01), (torch.bfloat16, 0.1)], ids=str)
def test_under_autocast_the_adversarial_gradients_are_about_the_same(dtype, off):
    grads = []
    for enabled in (False, True):
        task = task_of(codebook="gradient", lambda_gan=0.6)
        with torch.autocast("cpu", dtype, enabled=enabled):
            total = task.total(task.losses(batch_of(4)))
        (total * 1024).backward()  # as a gradient scaler would
        grads.append(torch.cat([p.grad.flatten() for p in task.model.decoder.parameters()]))
    assert F.cosine_similarity(*grads, dim=0) > 1 - off
    assert grads[1].norm().item() == pytest.approx(grads[0].norm().item(), rel=off)


def test_a_known_gradient_is_handed_back_scaled():
    image = torch.zeros(2, requires_grad=True)
    value = WithGradient.apply(image, torch.tensor(7.0), torch.tensor([1.0, -2.0]))
    assert float(value.detach()) == 7
    (3 * value).backward()
    assert image.grad.tolist() == [3, -6]


def test_the_generators_pass_leaves_no_gradient_at_the_discriminator():
    task = task_of(lambda_gan=1.0)
    task.total(task.losses(batch_of())).backward()
    assert all(p.grad is None for p in task.discriminator.parameters())
    task.total(task.discriminator_losses(batch_of())).backward()
    assert all(p.grad is not None for p in task.discriminator.parameters())


def test_the_discriminator_is_shown_images_as_real_and_this_batchs_reconstructions_as_false():
    task, batch = task_of(lambda_gan=1.0), batch_of()
    shown = copy.deepcopy(task.model)(batch.images).images
    task.losses(batch)
    real, false = task.discriminator.network(batch.images), task.discriminator.network(shown)
    expected, swapped = (discriminator_loss(*pair, "hinge").item() for pair in ((real, false), (false, real)))
    assert task.discriminator_losses(batch)["disc_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected - swapped) > 1e-3


def test_the_discriminators_pass_leaves_no_gradient_at_the_generator():
    task = task_of(lambda_gan=1.0, lecam_weight=0.1)
    task.losses(batch_of())
    task.total(task.discriminator_losses(batch_of())).backward()
    assert not gradients(task)


def test_the_discriminator_learns_from_disc_start_and_is_heard_after_its_warmup(tiny, tmp_path, monkeypatch):
    losses, seen, states = TokenizerTask.losses, [], []

    def watched(self, batch):
        states.append(copy.deepcopy(self.discriminator.state_dict()))
        seen.append(losses(self, batch))
        return seen[-1]

    monkeypatch.setattr(TokenizerTask, "losses", watched)
    argv = ["experiment=tokenizer/vqgan", *tiny, "system.disc_start=2", "system.disc_warmup=2", "system.disc_layers=1"]
    argv += ["system.disc_channels=4", "trainer.steps=6", "data.val_crops=1", f"out={tmp_path}"]
    assert main(["train", *argv]) == 0

    def same(one, other):
        return all(torch.equal(states[one][name], states[other][name]) for name in states[0])

    assert same(0, 1)
    assert same(1, 2)
    assert not same(2, 3)
    assert ["gan_loss" in terms for terms in seen] == [False] * 4 + [True] * 2
    (file,) = tmp_path.rglob("metrics.csv")
    with file.open(newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if row["train/total_loss"]]
    assert [bool(row["train/disc_loss"]) for row in rows] == [False] * 2 + [True] * 4


def test_hinge_and_non_saturating_by_hand():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert float(generator_loss(fake, "hinge")) == 1.0  # -(-3 + 1) / 2
    assert float(discriminator_loss(real, fake, "hinge")) == 0.625  # ((0 + .5) / 2 + (0 + 2) / 2) / 2

    def softplus(x):
        return math.log(1 + math.exp(x))

    assert float(generator_loss(fake, "non_saturating")) == pytest.approx((softplus(3) + softplus(-1)) / 2)
    expected = (softplus(-2) + softplus(-0.5) + softplus(-3) + softplus(1)) / 4
    assert float(discriminator_loss(real, fake, "non_saturating")) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["hinge", "non_saturating"])
def test_each_loss_pulls_its_logits_the_right_way(kind):
    real, fake = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert real.grad < 0 < fake.grad  # descent: real up, fake down
    fake.grad = None
    generator_loss(fake, kind).backward()
    assert fake.grad < 0


def test_lecam_by_hand_and_in_the_state():
    lecam = LeCam(decay=0.5)
    real, fake = torch.tensor([3.0, 1.0], requires_grad=True), torch.tensor([-1.0, -3.0], requires_grad=True)
    # The averages become (1, -1): relu(3 + 1)², relu(1 + 1)² and relu(1 + 1)², relu(1 + 3)².
    assert lecam(real, fake).item() == (16 + 4) / 2 + (4 + 16) / 2
    assert lecam.averages.tolist() == [1, -1]
    lecam(real, fake).backward()
    assert lecam.averages.tolist() == [1.5, -1.5]
    assert real.grad.tolist() == [4.5, 2.5]  # (real + 1.5), twice halved
    task = task_of(lambda_gan=1.0, lecam_weight=0.3)
    task.losses(batch_of())
    terms = task.discriminator_losses(batch_of())
    expected = terms["disc_loss"].item() + 0.3 * terms["lecam_loss"].item()
    assert task.total(terms).item() == pytest.approx(expected)
    restored = task_of(lambda_gan=1.0, lecam_weight=0.3)
    restored.load_state_dict(task.state_dict())
    assert restored.discriminator.lecam.averages.abs().sum() > 0
    assert torch.equal(restored.discriminator.lecam.averages, task.discriminator.lecam.averages)


@pytest.mark.parametrize(("layers", "count", "side"), [(3, 2_765_633, 30), (2, 663_361, 62)])
def test_the_discriminator_has_the_published_shape(layers, count, side):
    network = PatchGAN(layers=layers)
    assert sum(p.numel() for p in network.parameters()) == count
    with torch.device("meta"):
        assert PatchGAN(layers=layers)(torch.empty(1, 3, 256, 256)).shape == (1, 1, side, side)


# ------------------------------------------------------------------------------------------------ metrics and the rest


class Fake(nn.Module):
    """Gives each image back, duller: by 51 of 255 levels, or by 20 where its corner is not white."""

    num_codes = 4

    def __init__(self, ids):
        super().__init__()
        self.ids = list(ids)

    def forward(self, images):
        ids = torch.tensor(self.ids.pop(0)).view(len(images), 1, -1)
        corner = images[:, :1, :1, :1]
        shown = images * torch.where(corner > 0, 1 - 102 / 255, 1 - 40 / 255)
        quantized = Quantized(torch.zeros(()), ids, torch.tensor(0.5), torch.tensor(0.25))
        return Reconstruction(shown, torch.zeros(()), quantized)


def halves(white_first):
    """Black and white halves (3, 16, 16): the mean colour is 6.02 dB away."""
    image = torch.ones(3, 16, 16)
    image[:, :, 8:] = -1
    return image if white_first else -image


def measured(evaluator, *batches):
    for images in batches:
        evaluator.update(ImageBatch(torch.stack(images), [], 0))
    return evaluator.compute()


def test_metrics_by_hand():
    task = TokenizerTask(Fake([[[0, 1], [1, 1]], [[2, 2]]]), rec=2.0, vq=3.0, commit=4.0)
    values = measured(TokenizerEvaluator(task), [halves(True), halves(True)], [halves(False)])
    psnr = (2 * -20 * math.log10(51 / 255) - 20 * math.log10(20 / 255)) / 3
    assert values["psnr"] == pytest.approx(psnr, abs=1e-4)
    assert values["psnr_mean_colour"] == pytest.approx(-10 * math.log10(0.25), abs=1e-3)
    assert values["psnr_gain"] == pytest.approx(psnr + 10 * math.log10(0.25), abs=1e-3)
    assert values["recon_loss"] == pytest.approx((102 + 102 + 40) / 255 / 3)
    assert (values["commitment_loss"], values["vq_loss"]) == (0.5, 0.25)
    assert values["total_loss"] == pytest.approx(2 * values["recon_loss"] + 3 * 0.25 + 4 * 0.5)
    assert values["code_usage_rate"] == 3 / 4
    shares = [1 / 6, 3 / 6, 2 / 6]
    assert values["perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert values["perplexity_share"] == pytest.approx(values["perplexity"] / 4)
    assert values["bits_per_pixel"] == pytest.approx(2 * 2 / 256)
    assert 0 < values["ssim"] < 1
    assert "perc_loss" not in values
    assert "skipped_images" not in values


def test_an_evaluator_forgets_what_it_gathered():
    evaluator = TokenizerEvaluator(TokenizerTask(Fake([[[0, 1]], [[3, 3]]])))
    first, second = measured(evaluator, [halves(True)]), measured(evaluator, [halves(False)])
    assert (first["code_usage_rate"], second["code_usage_rate"]) == (0.5, 0.25)
    assert second["perplexity"] == pytest.approx(1.0)
    assert second["recon_loss"] == pytest.approx(40 / 255)
    assert second["psnr"] > first["psnr"] + 5


def test_evaluation_trains_nothing():
    task = task_of(kmeans=True, restart_after=1).eval()
    before = copy.deepcopy(task.state_dict())
    with torch.no_grad():
        TokenizerEvaluator(task).update(batch_of())
    assert task.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], t) for name, t in task.state_dict().items() if isinstance(t, torch.Tensor))


def test_unreadable_images_are_counted_where_there_were_any():
    task = task_of()
    task.losses(batch_of())
    assert "skipped_images" not in task.stats()
    for skipped in (2, 0, 1):
        task.losses(batch_of(skipped=skipped))
    assert task.stats()["skipped_images"] == 3
    restored = task_of()
    restored.load_state_dict(task.state_dict())
    assert restored.skipped == 3
    evaluator = TokenizerEvaluator(task)
    evaluator.update(batch_of(skipped=1))
    evaluator.update(batch_of(skipped=3))
    assert evaluator.compute()["skipped_images"] == 4
    evaluator.update(batch_of())
    assert "skipped_images" not in evaluator.compute()


def test_a_batch_without_a_readable_image_changes_no_metric():
    evaluator, empty = TokenizerEvaluator(task_of().eval()), ImageBatch(torch.empty(0, 3, 0, 0), [], 5)
    with torch.no_grad():
        evaluator.update(batch_of())
        alone = evaluator.compute()
        for batch in (empty, batch_of(), empty):
            evaluator.update(batch)
        assert evaluator.compute() == alone | {"skipped_images": 10}
        assert evaluator.images(empty) == {}
        evaluator.update(empty)
    with pytest.raises(SightwordError, match="none of the 5 validation images is readable"):
        evaluator.compute()


@pytest.mark.parametrize("options", [{}, {"use_lpips": True}], ids=str)
def test_every_metric_is_announced(options):
    task = task_of(**options)
    evaluator = TokenizerEvaluator(task.eval())
    with torch.no_grad():
        evaluator.update(batch_of(skipped=1))
    assert evaluator.compute().keys() <= evaluator.metric_names()


@pytest.mark.parametrize("options", [{}, {"codebook": "gradient"}, {"lambda_gan": 1.0}, {"embedding_dim": 4}], ids=str)
def test_parameter_groups_hold_each_trainable_parameter_once_and_none_of_the_discriminators(options):
    task = task_of(**options)
    held = [p for parameters in task.parameter_groups().values() for p in parameters]
    assert len(held) == len(set(held))
    assert set(held) == set(task.model.parameters())
    assert ("quantizer.weight" in dict(task.model.named_parameters())) == (options.get("codebook") == "gradient")


def test_images_show_eight_originals_over_their_reconstructions():
    evaluator = TokenizerEvaluator(task_of().eval())
    few, many = (evaluator.images(batch_of(count))["reconstruction"] for count in (2, 12))
    assert few.mode == "RGB"
    assert few.height == many.height
    assert 8 * 64 <= many.width < 12 * 64
    assert 2 * 64 <= many.height < 3 * 64
    assert len(many.getcolors(maxcolors=2**20)) > 100


def test_stats_tell_the_last_batch_from_the_last_hundred():
    task = task_of()
    for seed in range(3):
        task.losses(batch_of(count=1, seed=seed))
    stats, ids = task.stats(), task._ids.flatten()
    counts = torch.bincount(ids, minlength=16).double()
    shares = counts[counts > 0] / len(ids)
    assert stats["code_usage_rate"] == pytest.approx(len(shares) / 16)
    assert stats["perplexity"] == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert stats["code_usage_rate_100"] >= stats["code_usage_rate"]
    assert stats["perplexity_100"] != stats["perplexity"]
    assert "adaptive_weight" not in stats
    task = task_of(lambda_gan=1.0)
    task.losses(batch_of())
    assert task.stats()["adaptive_weight"] == float(task.adaptive)


def test_the_protocol_names_the_perceptual_net_or_says_that_there_is_none():
    with_it, without = (make_task(TokenizerConfig(**(TINY | {"use_lpips": use}))) for use in (True, False))
    assert "vgg" in TokenizerEvaluator(with_it).protocol()["lpips"]
    assert "not measured" in TokenizerEvaluator(without).protocol()["lpips"]


def test_an_exported_tokenizer_gives_the_tasks_ids(tmp_path):
    task = task_of()
    task.losses(batch_of())
    ImageTokenizer.from_task(task).save_pretrained(tmp_path)
    images = batch_of().images
    assert torch.equal(VQImage.from_pretrained(tmp_path).encode(images), task.model.encode(images))
