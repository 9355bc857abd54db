"""One patch answers for one subject, and training sees what the model will compute in use."""

import numpy as np
import pytest
import torch
from double import ROUNDING

from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.training.detector import assign, centres_inside, detection_loss, focal, paired_iou, predictions

GRID = 4  # patches a side in hand-made cases


def test_iou_of_boxes_shifted_by_half_their_width_is_a_third():
    """Two 2 x 1 boxes share 1 of 3 units."""
    assert paired_iou(torch.tensor([0.0, 0, 2, 1]), torch.tensor([1.0, 0, 3, 1])).item() == pytest.approx(1 / 3)


def test_centres_inside_counts_patch_centres():
    """On a 4 x 4 grid the centres are at 1/8, 3/8, 5/8, 7/8; the left half holds columns 0 and 1."""
    inside = centres_inside(GRID**2, torch.tensor([[[0.0, 0.0, 0.5, 1.0]]]))[0, :, 0].reshape(GRID, GRID)
    assert inside.tolist() == [[True, True, False, False]] * GRID


def test_two_subjects_in_one_place_get_two_patches():
    """Both want patch 5, the only confident one; the second must take another inside its box."""
    truth = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]])
    probabilities = torch.zeros(1, GRID**2, 2)
    probabilities[0, 5] = 0.9
    inside = centres_inside(GRID**2, truth)
    patches = assign(probabilities, torch.zeros(1, GRID**2, 4), truth, inside)[0].tolist()
    assert patches[0] == 5
    assert patches[1] != 5
    assert all(inside[0, patch, 0] for patch in patches)


def test_the_box_decides_between_equally_confident_patches():
    truth = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
    corners = torch.zeros(1, GRID**2, 4)
    corners[0, 10] = truth[0, 0]
    assert assign(torch.full((1, GRID**2, 1), 0.5), corners, truth, centres_inside(GRID**2, truth)).item() == 10


def test_focal_loss_vanishes_just_at_its_target():
    """The cross entropy of a target t at probability p is weighted with (t - p)^2, so a soft target can be met exactly."""
    logits = torch.tensor([0.0, 2.0])
    assert focal(logits, logits.sigmoid()).item() == pytest.approx(0, abs=1e-7)
    assert focal(torch.zeros(1), torch.ones(1)).item() == pytest.approx(np.log(2) * 0.25)


def test_a_second_confident_patch_of_the_same_subject_costs():
    """Without suppression afterwards, duplicates must be expensive in training."""
    truth, classes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0, 0, 0]]]), torch.tensor([[0, 0]])
    present = torch.tensor([[True, False]])
    boxes = torch.tensor([0.25, 0.25, 0.5, 0.5]).expand(1, GRID**2, 4)
    logits = torch.full((1, GRID**2, 5), -6.0)
    logits[0, 5, 0] = 6
    doubled = logits.clone()
    doubled[0, 4, 0] = 6
    single, double = (detection_loss((x, boxes, x[..., 0]), truth, classes, present)["class"] for x in (logits, doubled))
    assert double > single + 1


def test_training_predictions_are_those_of_the_model():
    """`predictions` passes the queries once; `forward` once a picture. The outputs must agree.

    In float64, but that `forward` goes on in float32 from its cosines to its logits: cosine, sum and product are rounded.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = architectures.detector(tokenizer).eval().double()
    queries = tokenizer(["dog", "cat"], padding="max_length", max_length=architectures.DETECTOR_TOKENS, return_tensors="pt")
    pixels = torch.randn(3, 3, 48, 48).double()
    with torch.no_grad():
        logits, boxes, objectness = predictions(model, pixels, queries)
        whole = model(queries.input_ids.repeat(3, 1), pixels, queries.attention_mask.repeat(3, 1))
    torch.testing.assert_close(logits, whole.logits.double(), rtol=0, atol=4 * ROUNDING * float(logits.abs().max()))
    torch.testing.assert_close(boxes, whole.pred_boxes, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(objectness, whole.objectness_logits, rtol=1e-10, atol=1e-10)
