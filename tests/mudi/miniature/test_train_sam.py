"""The batched decoder that trains is the one that SamPredictor runs."""

import pytest
import torch

from mudi.miniature import architectures
from mudi.miniature.training.sam import mask_logits, mask_loss


def test_batched_logits_are_those_of_each_picture_alone():
    """`sam.forward` decodes picture by picture without gradients; all must agree to rounding.

    segment-anything encodes boxes in float32 whatever the model's number format. A rounding is 6e-8 of 0.1, the largest answer; the
    sums of some twenty layers, of 64 products each, leave about sqrt(20 x 64) of it, 2e-7, where processors add in another order.
    """
    torch.manual_seed(0)
    sam = architectures.sam().eval()
    images = torch.rand(3, 3, 64, 64) * 255
    boxes = torch.tensor([[4.0, 4, 30, 50], [10, 8, 40, 60], [1, 2, 33, 44]])
    logits, quality = mask_logits(sam, images, boxes)
    for i in range(3):
        alone = sam([{"image": images[i], "boxes": boxes[i : i + 1], "original_size": (64, 64)}], multimask_output=False)[0]
        torch.testing.assert_close(logits[i], alone["low_res_logits"][0, 0], atol=5e-6, rtol=0)
        torch.testing.assert_close(quality[i], alone["iou_predictions"][0, 0], atol=5e-6, rtol=0)


def test_a_perfect_mask_costs_nothing_and_half_a_mask_half():
    """Half of the pixels found and no other: IoU 1/2, and Dice 2 x 32 / (32 + 64) = 2/3 (smoothed by one: 65/97)."""
    truth = torch.ones(1, 8, 8)
    perfect = mask_loss(torch.full((1, 8, 8), 50.0), torch.ones(1), truth)
    assert [perfect[name].item() for name in ("bce", "dice", "quality")] == pytest.approx([0, 0, 0], abs=1e-6)
    half = torch.full((1, 8, 8), 50.0)
    half[:, 4:] = -50
    losses = mask_loss(half, torch.full((1,), 0.5), truth)
    assert losses["_iou"].item() == pytest.approx(0.5)
    assert losses["dice"].item() == pytest.approx(1 - 65 / 97)
    assert losses["quality"].item() == pytest.approx(0)
