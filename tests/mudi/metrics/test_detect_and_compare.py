"""Detect-and-Compare: published vectors, the two-subject algorithm, and laws of matrices and of images."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import BitImageProcessor, Owlv2ImageProcessor, Owlv2Processor

from mudi.detect import detect
from mudi.embed import Embedder
from mudi.metrics import METRICS
from mudi.metrics.detect_and_compare import (
    Compare,
    DetectAndCompare,
    gt_score,
    linear_score,
    max_score,
    reference_matrix,
    similarity_matrix,
)
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.records import Combination, Detection, Prompt, Reference, Subject

PUBLISHED_G = np.array([[0.78, 0.28], [0.28, 0.77]])
COLOURS = {"a": (250, 30, 30), "b": (30, 30, 250), "c": (30, 250, 30)}
PROMPT = Prompt(prompt_id="p00", text="a photo of a olis dog and a hta dog")


def random_similarity(seed: int, boxes: int, subjects: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (boxes, subjects))


@pytest.mark.parametrize(
    ("similarity", "published"),
    [
        ([[0.72, 0.28], [0.27, 0.71]], 0.88),
        ([[0.72, 0.29], [0.52, 0.40]], 0.31),
        ([[0.27, 0.74], [0.25, 0.71]], 0.01),
    ],
)
def test_linear_score_of_the_published_matrices(similarity, published):
    """|S00 + S11 - S01 - S10|: .44 + .44 for both right, .43 - .12 for a mixed second subject, .46 - .47 for one twice."""
    assert linear_score(np.array(similarity)) == pytest.approx(published)


@pytest.mark.parametrize(
    ("similarity", "published"),
    [
        ([[0.72, 0.26], [0.29, 0.71]], 0.933),
        ([[0.64, 0.28], [0.32, 0.70]], 0.853),
        ([[0.27, 0.74], [0.25, 0.71]], 0.313),
        ([[0.72, 0.29], [0.52, 0.41]], 0.565),
    ],
)
def test_gt_score_of_the_published_matrices(similarity, published):
    assert gt_score(np.array(similarity), PUBLISHED_G) == pytest.approx(published, abs=5e-4)


def test_max_score_by_hand_is_blind_to_a_subject_drawn_twice():
    """.72 + .71 = 1.43 for both subjects, and .74 + .71 = 1.45 for the second one twice."""
    assert max_score(np.array([[0.72, 0.28], [0.27, 0.71]])) == pytest.approx(1.43)
    assert max_score(np.array([[0.27, 0.74], [0.25, 0.71]])) == pytest.approx(1.45)


def test_for_two_subjects_linear_score_is_algorithm_3():
    """conf_i = S[i,0] - S[i,1]; both branches of Algorithm 3 come to |conf_0 - conf_1|."""
    for seed in range(300):
        similarity = random_similarity(seed, 2, 2)
        confidence = similarity[:, 0] - similarity[:, 1]
        assert linear_score(similarity) == pytest.approx(abs(confidence[0] - confidence[1]), abs=1e-12)


@pytest.mark.parametrize("subjects", [3, 4])
def test_for_more_subjects_linear_score_takes_the_best_assignment(subjects):
    """Brute force over all assignments; (own - mean of others) grows with own, so the best sum of own is the best score."""
    for seed in range(50):
        similarity = random_similarity(seed, subjects, subjects)
        scores = []
        for assignment in permutations(range(subjects)):
            own = similarity[range(subjects), assignment]
            scores.append((own - (similarity.sum(axis=1) - own) / (subjects - 1)).sum())
        assert linear_score(similarity) == pytest.approx(max(scores))


def test_linear_score_of_one_subject_is_its_similarity():
    assert linear_score(np.array([[0.6]])) == pytest.approx(0.6)


@pytest.mark.parametrize("subjects", [2, 3, 4])
def test_the_order_of_boxes_never_matters(subjects):
    for seed in range(50):
        similarity, reference = random_similarity(seed, subjects, subjects), random_similarity(seed + 1, subjects, subjects)
        shuffled = similarity[np.random.default_rng(seed).permutation(subjects)]
        assert linear_score(shuffled) == pytest.approx(linear_score(similarity))
        assert max_score(shuffled) == pytest.approx(max_score(similarity))
        assert gt_score(shuffled, reference) == pytest.approx(gt_score(similarity, reference))


@pytest.mark.parametrize("subjects", [2, 3, 4])
def test_the_order_of_subjects_does_not_matter_to_linear_and_max_score(subjects):
    for seed in range(50):
        similarity = random_similarity(seed, subjects, subjects)
        shuffled = similarity[:, np.random.default_rng(seed).permutation(subjects)]
        assert linear_score(shuffled) == pytest.approx(linear_score(similarity))
        assert max_score(shuffled) == pytest.approx(max_score(similarity))


def test_gt_score_is_one_for_boxes_as_alike_as_the_photos():
    assert gt_score(PUBLISHED_G[::-1], PUBLISHED_G) == pytest.approx(1)


def test_gt_score_uses_the_spectral_norm():
    """S - G = diag(.3, .4) has the largest singular value .4 and the Frobenius norm .5."""
    assert gt_score(np.diag([0.7, 0.6]), np.eye(2)) == pytest.approx(1 - 0.4)


def test_gt_score_sorts_greedily_and_so_depends_on_the_order_of_subjects():
    """Column 0 takes row 0 (.9 > .8), which leaves row 1 for column 1; swapped, column 1 takes row 0 (.85 > .1) first."""
    similarity, reference = np.array([[0.9, 0.85], [0.8, 0.1]]), np.eye(2)
    assert gt_score(similarity, reference) == pytest.approx(1 - np.linalg.norm(similarity - reference, ord=2))
    swapped = similarity[:, ::-1]
    assert gt_score(swapped, reference) == pytest.approx(1 - np.linalg.norm(swapped - reference, ord=2))
    assert gt_score(swapped, reference) != pytest.approx(gt_score(similarity, reference))


@pytest.mark.parametrize("boxes", [0, 1, 3, 4])
def test_the_wrong_number_of_boxes_scores_zero(boxes):
    similarity = random_similarity(0, boxes, 2)
    assert linear_score(similarity) == max_score(similarity) == gt_score(similarity, PUBLISHED_G) == 0


def test_what_is_no_similarity_matrix_is_refused():
    for matrix in (np.zeros(3), np.array([[np.nan, 1.0]]), np.zeros((2, 0))):
        with pytest.raises(ValueError, match="similarity is"):
            linear_score(matrix)
    with pytest.raises(ValueError, match="2 subjects need"):
        gt_score(np.eye(2), np.eye(3))


def test_similarities_are_mean_cosines_by_hand():
    """(1, 0) against (1, 0) and (0, 1) is (1 + 0) / 2, against (.6, .8) is .6. A set of two orthogonal photos meets itself
    with (1 + 0 + 0 + 1) / 4 = .5, the pairs of a photo with itself included."""
    photos = [np.eye(2), np.array([[0.6, 0.8]])]
    np.testing.assert_allclose(similarity_matrix(np.array([[1.0, 0.0]]), photos), [[0.5, 0.6]])
    np.testing.assert_allclose(reference_matrix(photos), [[0.5, 0.7], [0.7, 1.0]])
    assert similarity_matrix(np.zeros((0, 2)), photos).shape == (0, 2)


def colour_embedder(kind: str = "dreamsim") -> Embedder:
    """The smallest embedder there is: the mean colour of an image, as one linear layer."""
    model = nn.Linear(3, 3, bias=False)
    nn.init.eye_(model.weight)

    def mean_colour(image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.reshape(-1, 3).mean(axis=0)).float()

    return Embedder(name="colour", kind=kind, model=model, preprocess=mean_colour, features=lambda m, pixels: m(pixels), width=3)


def combination(folder: Path, keys: str = "ab") -> Combination:
    """Subjects that are nothing but a colour, with two plain photos each."""
    subjects = []
    for key in keys:
        references = []
        for shade in (0, 5):
            path = folder / f"{key}{shade}.png"
            Image.fromarray(np.full((16, 16, 3), np.uint8(COLOURS[key]) + np.uint8(shade))).save(path)
            references.append(Reference(image_path=path, mask_path=path, caption=key))
        subjects.append(Subject(key=key, identifier=key, class_noun="dog", detection_query="dog", references=tuple(references)))
    return Combination(key="colours", subjects=tuple(subjects))


def picture(keys: str) -> tuple[np.ndarray, tuple[Detection, ...]]:
    """A white canvas with one 10 x 10 block a subject, and the boxes around them."""
    image = np.full((16, 16 * len(keys) or 16, 3), 255, dtype=np.uint8)
    boxes = []
    for index, key in enumerate(keys):
        x = 16 * index + 3
        image[3:13, x : x + 10] = COLOURS[key]
        boxes.append(Detection(box_xyxy=(x, 3, x + 10, 13), confidence=0.9, query="dog"))
    return image, tuple(boxes)


def compare(folder: Path, pictures: list[str], keys: str = "ab") -> list[dict]:
    images, boxes = zip(*map(picture, pictures), strict=True)
    scored = Compare([colour_embedder()], "drawn")(images, boxes, combination(folder, keys))
    return [{score.metric: score for score in scores} for scores in scored]


def test_both_subjects_beat_one_twice_and_linear_score_is_computed_from_the_stored_similarity(tmp_path):
    both, twice = compare(tmp_path, ["ab", "aa"])
    linear = both["dnc_linear_dreamsim"]
    assert linear.value > 1.2
    assert linear.value == linear_score(np.array(linear.details["similarity"]))
    assert twice["dnc_linear_dreamsim"].value == pytest.approx(0, abs=1e-6)
    assert both["dnc_gt_dreamsim"].value > 0.99 > twice["dnc_gt_dreamsim"].value
    assert both["count_correct"].value == twice["count_correct"].value == 1
    assert "reason" not in linear.details


def test_a_zero_for_the_wrong_count_says_why(tmp_path):
    none, one, three = compare(tmp_path, ["", "a", "abc"])
    for scores, reason in ((none, "0 boxes for 2 subjects"), (one, "1 boxes for 2 subjects"), (three, "3 boxes for 2 subjects")):
        assert {score.value for score in scores.values()} == {0.0}
        assert {score.details["reason"] for score in scores.values()} == {reason}
    assert len(three["dnc_linear_dreamsim"].details["similarity"]) == 3


def test_swapping_the_subjects_swaps_the_columns_and_keeps_the_scores(tmp_path):
    (first,), (swapped,) = compare(tmp_path, ["ab"], keys="ab"), compare(tmp_path, ["ab"], keys="ba")
    for name, score in first.items():
        assert score.value == pytest.approx(swapped[name].value)
    columns = np.array(swapped["dnc_linear_dreamsim"].details["similarity"])[:, ::-1]
    np.testing.assert_allclose(first["dnc_linear_dreamsim"].details["similarity"], columns)


def test_an_image_scores_the_same_alone_as_among_others(tmp_path):
    pictures = ["ab", "", "ba", "abc", "aa"]
    for keys, together in zip(pictures, compare(tmp_path, pictures), strict=True):
        (alone,) = compare(tmp_path, [keys])
        assert {name: score.value for name, score in alone.items()} == pytest.approx({n: s.value for n, s in together.items()})


def test_three_subjects_are_told_apart(tmp_path):
    right, doubled = compare(tmp_path, ["cab", "aab"], keys="abc")
    assert right["dnc_linear_dreamsim"].value > doubled["dnc_linear_dreamsim"].value + 0.5


def test_every_embedder_scores_and_the_count_is_given_once(tmp_path):
    image, boxes = picture("ab")
    embedders = [colour_embedder("dreamsim"), colour_embedder("dinov2")]
    (scores,) = Compare(embedders, "drawn")([image], [boxes], combination(tmp_path))
    assert sorted(score.metric for score in scores) == sorted(DetectAndCompare.NAMES)
    assert {score.scorer for score in scores} == {"drawn", "drawn | dreamsim colour", "drawn | dinov2 colour"}


def test_photos_are_read_once(tmp_path):
    pair, metric = combination(tmp_path), Compare([colour_embedder()], "drawn")
    image, boxes = picture("ab")
    first = metric([image], [boxes], pair)
    for subject in pair.subjects:
        for reference in subject.references:
            reference.image_path.unlink()
    assert metric([image], [boxes], pair) == first


def test_the_whole_metric_detects_what_the_detector_finds_and_compares_that(tmp_path):
    """With random weights nothing is recognised, but boxes and scores must be those of its two halves."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    weights = architectures.detector(tokenizer)
    nn.init.constant_(weights.class_head.logit_shift.bias, 0.0)
    weights.save_pretrained(tmp_path / "detector")
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 48, "width": 48}), tokenizer).save_pretrained(tmp_path / "detector")
    architectures.dinov2().save_pretrained(tmp_path / "dinov2")
    square = {"height": 48, "width": 48}
    BitImageProcessor(size={"shortest_edge": 48}, crop_size=square).save_pretrained(tmp_path / "dinov2")

    pair = combination(tmp_path)
    images = list(np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=np.uint8))
    names = {"detector": str(tmp_path / "detector"), "embedders": {"dinov2": str(tmp_path / "dinov2")}}
    metric = METRICS["detect_and_compare"](**names, threshold=0.5)
    detections = detect(metric.detector, images, [["dog", "dog"]] * 2, threshold=0.5)
    scored = metric(images, PROMPT, pair)
    assert any(detections)
    assert scored == metric.compare(images, detections, pair)
    for scores, boxes in zip(scored, detections, strict=True):
        assert all(score.details["boxes"] == [list(box.box_xyxy) for box in boxes] for score in scores)
        assert all(score.metric in metric.NAMES for score in scores)
