"""Readings of the similarity matrix: by hand, against the scores they extend, and under exchanges of boxes and subjects."""

from itertools import permutations

import numpy as np
import pytest

from mudi.metrics.detect_and_compare import Matrices, gt_score, linear_score
from mudi.metrics.identity_matrix import (
    FORMS,
    assigned_score,
    collapse,
    degradation,
    id_conf,
    interference,
    mimr,
    surest_score,
)

G = np.array([[0.78, 0.28], [0.28, 0.77]])
RIGHT = np.array([[0.72, 0.26], [0.29, 0.71]])
TWICE = np.array([[0.70, 0.26], [0.66, 0.28]])


def matrices(seed: int, boxes: int, subjects: int) -> Matrices:
    rng = np.random.default_rng(seed)
    reference = rng.uniform(0, 1, (subjects, subjects))
    return Matrices(
        similarity=rng.uniform(-1, 1, (boxes, subjects)), reference_similarity=(reference + reference.T) / 2,
        confidences=rng.uniform(0.4, 1, boxes),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("boxes", "subjects"), [(2, 2), (3, 3), (1, 2), (4, 3), (3, 4)])
def test_no_score_knows_an_order_of_boxes_or_of_subjects(form, boxes, subjects):
    for seed in range(20):
        of = matrices(seed, boxes, subjects)
        expected = FORMS[form](of)
        for rows in list(permutations(range(boxes)))[:6]:
            for columns in list(permutations(range(subjects)))[:6]:
                moved = Matrices(
                    similarity=of.similarity[np.ix_(rows, columns)],
                    reference_similarity=of.reference_similarity[np.ix_(columns, columns)],
                    confidences=of.confidences[list(rows)],
                )
                assert FORMS[form](moved) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_the_demo_s_score_is_the_assigned_one_where_greed_is_right():
    """On RIGHT each subject's best box is its own: both are 1 - ||S - G||_2 = .933, which MuDI publishes."""
    assert assigned_score(RIGHT, G) == pytest.approx(gt_score(RIGHT, G))
    assert assigned_score(RIGHT[::-1], G) == pytest.approx(0.933, abs=5e-4)


def test_greed_takes_a_box_that_another_subject_needs_and_assignment_does_not():
    """S = [[.9, .8], [.7, .1]]: the first subject takes the first box in either way of 1.0 or 1.5; the largest sum is .7 + .8."""
    similarity, reference = np.array([[0.9, 0.8], [0.7, 0.1]]), np.eye(2)
    expected = 1 - np.linalg.norm(np.array([[0.7, 0.1], [0.9, 0.8]]) - np.eye(2), ord=2)
    assert assigned_score(similarity, reference) == pytest.approx(expected)
    assert gt_score(similarity, reference) != pytest.approx(expected)


def test_the_surest_boxes_score_as_if_they_were_all_but_for_the_count():
    """A third box at .5 beside two at .9: the linear score of the two, .72 + .71 - .26 - .29 = .88, times 2 / 3. One box of two
    subjects: .72 - .26 = .46, times 1 / 2."""
    third = np.array([[0.9, 0.9]])
    assert surest_score(RIGHT, np.array([0.9, 0.9])) == pytest.approx(linear_score(RIGHT))
    assert surest_score(np.vstack([third, RIGHT]), np.array([0.5, 0.9, 0.9])) == pytest.approx(0.88 * 2 / 3)
    assert surest_score(RIGHT[:1], np.array([0.9])) == pytest.approx(0.23)
    assert surest_score(RIGHT[:0], np.array([])) == 0.0


def test_the_matching_reward_is_a_quarter_of_the_linear_score_of_two():
    for seed in range(10):
        similarity = matrices(seed, 2, 2).similarity
        assert mimr(similarity) == pytest.approx(linear_score(similarity) / 4)
    assert mimr(np.ones((1, 2))) == pytest.approx(0.0)
    assert mimr(np.ones((0, 2))) is None


def test_the_confidence_is_told_by_hand():
    """(.72 - .29) / .72 = .597 and (.71 - .26) / .71 = .634, mean .6155; one box has no second."""
    assert id_conf(RIGHT) == pytest.approx((0.43 / 0.72 + 0.45 / 0.71) / 2)
    assert id_conf(RIGHT[:1]) is None
    assert id_conf(-RIGHT) is None


def test_a_picture_of_one_subject_twice_has_collapsed():
    assert (collapse(RIGHT), collapse(TWICE), collapse(RIGHT[:1])) == (0.0, 1.0, 1.0)


def test_interference_and_degradation_are_told_by_hand():
    """S - G = [[-.06, -.02], [.01, -.06]]: off the diagonal -.005, on it .06 less. The photos themselves have neither."""
    assert interference(RIGHT, G) == pytest.approx(-0.005)
    assert degradation(RIGHT, G) == pytest.approx(0.06)
    assert (interference(G, G), degradation(G, G)) == (0.0, 0.0)
    assert (interference(RIGHT[:1], G), degradation(RIGHT[:1], G)) == (None, None)
