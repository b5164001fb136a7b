import math

import pytest
import torch
import torch.nn.functional as F

from sightword.systems.intent.loss import asymmetric_loss, consistency_loss


def _written_out(logits, targets, gamma_neg, gamma_pos, margin):
    """Equation by equation, a number at a time, in float64."""
    total = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        for x, y in zip(row, wanted, strict=True):
            p = 1 / (1 + math.exp(-x))
            shifted = max(p - margin, 0)
            total -= y * (1 - p) ** gamma_pos * math.log(p) + (1 - y) * shifted**gamma_neg * math.log(1 - shifted)
    return total / len(logits)


@pytest.mark.parametrize("gammas", [(2, 0, 0.05), (4, 1, 0.05), (4, 0, 0.05), (0, 0, 0.0), (1, 2, 0.2)])
def test_the_asymmetric_loss_is_its_formula(gammas):
    generator = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(5, 7, generator=generator), torch.rand(5, 7, generator=generator)
    for wanted in (targets, targets.round()):
        assert asymmetric_loss(logits, wanted, *gammas).item() == pytest.approx(
            _written_out(logits, wanted, *gammas), rel=1e-5
        )


def test_without_focus_and_margin_it_is_binary_cross_entropy():
    logits, targets = torch.randn(4, 28), torch.rand(4, 28)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0, 0, 0), expected)


@pytest.mark.parametrize(("gammas", "value"), [((4, 1, 0.05), 1.3303), ((2, 0, 0.05), 4.534), ((0, 0, 0.0), 19.4)])
def test_at_logit_zero_it_has_the_published_size(gammas, value):
    """Two of 28 classes present: the facts' table."""
    targets = torch.zeros(3, 28)
    targets[:, :2] = 1
    assert asymmetric_loss(torch.zeros(3, 28), targets, *gammas).item() == pytest.approx(value, rel=1e-3)


def test_it_is_finite_with_finite_gradients_at_any_logit_and_in_half_precision():
    for dtype in (torch.float32, torch.bfloat16):
        logits = torch.tensor([[-1e4, -50.0, 0.0, 50.0, 1e4]], dtype=dtype).requires_grad_()
        for targets in (torch.zeros(1, 5), torch.ones(1, 5)):
            loss = asymmetric_loss(logits, targets)
            assert loss.dtype == torch.float32
            (slope,) = torch.autograd.grad(loss, logits)
            assert loss.isfinite()
            assert slope.isfinite().all()


def test_it_leaves_the_gradient_mode_alone():
    with torch.no_grad():
        asymmetric_loss(torch.zeros(1, 2), torch.zeros(1, 2))
        assert not torch.is_grad_enabled()


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected targets \(2, 28\) like the logits, got \(2, 27\)"):
        asymmetric_loss(torch.zeros(2, 28), torch.zeros(2, 27))


def test_the_leash_counts_squared_drift_per_code():
    anchors = torch.eye(4)
    codes = anchors.clone()
    codes[0, 0] = 0.8
    codes[1, 2] = 0.4
    assert consistency_loss(codes, anchors).item() == pytest.approx((0.04 + 0.16) / 4)
    assert consistency_loss(codes.repeat(3, 1), anchors.repeat(3, 1)).item() == pytest.approx(0.05)
    assert consistency_loss(codes, anchors, "sum").item() == pytest.approx(0.04 + 0.16)
