"""Charts take the page's colour, show names as they are written, and depend on their numbers alone."""

import numpy as np
import pytest

from pipeline.report import charts
from pipeline.report.statistics import Estimate

MEAN = Estimate(mean=0.4, low=0.3, high=0.5, count=10)


@pytest.fixture(scope="module")
def dots():
    return charts.dots([("mudi", MEAN, [0.35, 0.45]), ("a $x^2$ & <b>", None, [])], "score")


def test_ink_is_the_colour_of_the_text_around_the_chart(dots):
    assert "currentColor" in dots
    assert charts.INK not in dots
    assert "<metadata" not in dots


def test_names_are_text_and_a_row_without_a_mean_says_so(dots):
    assert "a $x^2$ &amp; &lt;b&gt;" in dots
    assert dots.count("no complete value") == 1


def test_the_same_numbers_give_the_same_chart(dots):
    assert charts.dots([("mudi", MEAN, [0.35, 0.45]), ("a $x^2$ & <b>", None, [])], "score") == dots
    values, edges = np.array([0.1, 0.1, 0.7]), np.linspace(0.0, 1.0, 11)
    assert charts.histogram(values, edges, 2, "score", 0.3) == charts.histogram(values[::-1], edges, 2, "score", 0.3)


def test_a_claim_without_a_margin_has_the_line_at_zero_alone():
    alone, margin = (charts.difference_strip(MEAN, [0.4], (-1.0, 1.0), guide).count("stroke-dasharray") for guide in (0.0, -0.2))
    assert (alone, margin) == (0, 1)
