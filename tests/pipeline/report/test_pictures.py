"""A picture with its scores: which score it shows, how, and at what size."""

import base64
import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.report.pictures import data_address, judgement, picture

ROW = SimpleNamespace(width=48, height=40, prompt="a va dog", combination="toys", seed=7)
BOXES, SIMILARITY = [[1.0, 2.0, 3.0, 4.0]], [[0.8, -0.2], [0.2, 0.4]]


def shown(scores: dict, metric: str = "dnc", subjects: tuple[str, ...] = ("va dog", "vb cat")):
    return picture(ROW, "data:", scores, subjects, metric)


def test_similarities_are_shares_of_the_largest_and_never_below_zero():
    cells = shown({"dnc": (0.5, {"similarity": SIMILARITY})}).similarity
    assert cells == (((0.8, 1.0), (-0.2, 0.0)), ((0.2, 0.25), (0.4, 0.5)))


def test_the_pages_metric_comes_first_and_others_stand_in_for_what_it_lacks():
    scores = {"a": (0.1, {"boxes": BOXES, "reason": "one box", "similarity": [[1.0]]}), "dnc": (0.5, {"similarity": SIMILARITY})}
    both = shown(scores)
    assert (both.value, both.similarity_by, both.boxes, both.reason) == (0.5, "dnc", ((1.0, 2.0, 3.0, 4.0),), "one box")
    assert both.scores == (("a", 0.1), ("dnc", 0.5))
    alone = shown({"a": scores["a"]})
    assert (alone.value, alone.similarity_by) == (None, "a")


@pytest.mark.parametrize(("subjects", "named"), [(("x", "y"), ("x", "y")), (("x",), ("subject 1", "subject 2"))])
def test_columns_are_named_by_the_subjects_if_there_are_as_many(subjects, named):
    assert shown({"dnc": (0.5, {"similarity": SIMILARITY})}, subjects=subjects).subjects == named


def test_a_score_that_was_not_computed_has_no_value_and_no_details():
    assert judgement(SimpleNamespace(value=math.nan, details=None)) == (None, {})
    assert judgement(SimpleNamespace(value=0.0, details='{"boxes": []}')) == (0.0, {"boxes": []})


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_small_pictures_keep_their_bytes_and_large_ones_are_reduced_in_proportion():
    small = png(127, 90)
    assert base64.b64decode(data_address(small, 64).removeprefix("data:image/png;base64,")) == small
    large = data_address(png(800, 400), 256).removeprefix("data:image/webp;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(large))).size == (256, 128)
