"""Detection: boxes land where the model puts them, whatever the image's shape, its batch and the order of the queries."""

import numpy as np
import pytest
import torch
from double import ROUNDING, in_double
from transformers import Owlv2ImageProcessor, Owlv2Processor

from mudi.detect import Detector, detect
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.world import SIZE


@pytest.fixture(scope="module")
def detector():
    """A tiny OWLv2 with random weights, in float64. Its logits are the plain cosines, without the learned shift and scale:
    random ones saturate the confidences, which would then tie. They are rounded to float32, and a confidence is at most a
    quarter as steep."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = architectures.detector(tokenizer).eval()
    for layer in (model.class_head.logit_shift, model.class_head.logit_scale):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    processor = Owlv2Processor(Owlv2ImageProcessor(size={"height": SIZE, "width": SIZE}), tokenizer)
    return Detector(name="random", model=in_double(model), processor=processor)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((48, 48, 3), (24, 48, 3), (64, 32, 3))]


def boxes(detections):
    return np.array([d.box_xyxy for d in detections]).reshape(-1, 4)


def confidences(detections):
    return np.array([d.confidence for d in detections])


def test_a_patch_that_predicts_no_offset_gives_its_own_cell_on_a_wide_image(detector, images):
    """With the box head silenced OWLv2 predicts its prior: patch (row i, column j) of the n x n grid has its centre at
    ((j+1)/n, (i+1)/n) and the size 1/n of the padded square. An image 48 wide and 24 high has a square of side 48 and
    cells of c = 48/n px, so the box is c [j+1/2, j+3/2] x c [i+1/2, i+3/2]. Rows that begin below 24 lie in the padding
    and are dropped; the last row and column that remain are cut at 24 and 48."""
    state = {k: v.clone() for k, v in detector.model.box_head.state_dict().items()}
    try:
        torch.nn.init.zeros_(detector.model.box_head.dense2.weight)
        torch.nn.init.zeros_(detector.model.box_head.dense2.bias)
        (found,) = detect(detector, images[1:2], [["dog"]], threshold=0.0)
    finally:
        detector.model.box_head.load_state_dict(state)
    n = SIZE // detector.model.config.vision_config.patch_size
    c = 48 / n
    expected = [
        (c * (j + 0.5), c * (i + 0.5), min(c * (j + 1.5), 48), min(c * (i + 1.5), 24))
        for i in range(n) if c * (i + 0.5) < 24 for j in range(n)
    ]  # fmt: skip
    np.testing.assert_allclose(boxes(found), expected, atol=0.01)


def test_a_tall_or_wide_image_gives_the_boxes_of_its_black_padded_square(detector, images):
    """The processor pads to a square with black at the right and bottom, so padding beforehand changes nothing but
    the boxes' limits: clipped to the true image, the detections agree."""
    for image in images[1:]:
        height, width = image.shape[:2]
        square = np.zeros((max(height, width),) * 2 + (3,), dtype=np.uint8)
        square[:height, :width] = image
        plain, padded = detect(detector, [image, square], [["dog"], ["dog"]], threshold=0.0)
        clipped = np.minimum(boxes(padded), [width, height, width, height])
        kept = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        np.testing.assert_allclose(boxes(plain), clipped[kept], atol=1e-3)
        np.testing.assert_allclose(confidences(plain), confidences(padded)[kept], rtol=0, atol=ROUNDING)


def test_a_batch_gives_what_its_images_give_alone(detector, images):
    queries = [["dog", "cat"], ["cat"], ["dog", "cat"]]
    together = detect(detector, images, queries, threshold=0.5, batch=2)
    alone = [detect(detector, [image], [asked], threshold=0.5)[0] for image, asked in zip(images, queries, strict=True)]
    for batched, single in zip(together, alone, strict=True):
        np.testing.assert_allclose(boxes(batched), boxes(single), atol=1e-3)
        assert [d.query for d in batched] == [d.query for d in single]


def test_the_order_and_repetition_of_queries_change_no_detection(detector, images):
    """Each is asked by itself, so that the sums are the same: in a batch, rows may be added in another order."""
    orders = (["dog", "cat"], ["cat", "dog"], ["dog", "cat", "dog"])
    reference, reordered, repeated = (detect(detector, images[:1], [asked], threshold=0.5)[0] for asked in orders)
    assert len(reference) > 0
    assert repeated == reference
    np.testing.assert_allclose(boxes(reordered), boxes(reference), atol=1e-3)
    assert [d.query for d in reordered] == [d.query for d in reference]


def test_the_confidence_is_that_of_the_best_query(detector, images):
    both, dog, cat = detect(detector, [images[0]] * 3, [["dog", "cat"], ["dog"], ["cat"]], threshold=0.0)
    np.testing.assert_allclose(confidences(both), np.maximum(confidences(dog), confidences(cat)), rtol=0, atol=ROUNDING)
    winners = ["dog" if d > c else "cat" for d, c in zip(confidences(dog), confidences(cat), strict=True)]
    assert [d.query for d in both] == winners


def test_a_higher_threshold_keeps_exactly_the_more_confident(detector, images):
    (everything,) = detect(detector, images[:1], [["dog"]], threshold=0.0)
    level = float(np.median(confidences(everything)))
    (kept,) = detect(detector, images[:1], [["dog"]], threshold=level)
    assert kept == tuple(d for d in everything if d.confidence > level)
    assert detect(detector, images[:1], [["dog"]], threshold=1.0) == [()]


def test_no_images_give_no_detections(detector):
    assert detect(detector, [], []) == []


@pytest.mark.parametrize(
    ("queries", "threshold", "message"),
    [
        ([], 0.4, "1 images but 0 lists of queries"),
        ([[]], 0.4, "at least one query"),
        ([["dog", " "]], 0.4, "no empty one"),
        ([["dog " * 20]], 0.4, "22 tokens long and random reads 16"),
        ([["dog"]], 40, "threshold 40 is outside 0..1"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(detector, images, queries, threshold, message):
    with pytest.raises(ValueError, match=message):
        detect(detector, images[:1], queries, threshold=threshold)
