"""Selection: the best candidates, in an order that depends on nothing but ids and values."""

from itertools import permutations

import pytest

from mudi.selection import select_top


def test_best_come_first():
    assert select_top(["a", "b", "c", "d"], [0.1, 0.4, 0.2, 0.3], keep=3) == ["b", "d", "c"]


def test_ties_go_to_the_smaller_id_in_any_input_order():
    scored = [("a", 0.5), ("b", 0.7), ("c", 0.5), ("d", 0.5)]
    for order in permutations(scored):
        ids, values = zip(*order, strict=True)
        assert select_top(ids, values, keep=3) == ["b", "a", "c"]


def test_what_was_not_computed_is_never_selected():
    values = [None, float("nan"), float("inf"), -0.2]
    assert select_top(["a", "b", "c", "d"], values, keep=4, require_positive=False) == ["d"]


def test_zeros_are_dropped_even_if_fewer_than_keep_remain():
    assert select_top(["a", "b", "c"], [0.0, 0.2, 0.0], keep=2) == ["b"]
    assert select_top(["a", "b", "c"], [0.0, 0.2, 0.0], keep=2, require_positive=False) == ["b", "a"]


@pytest.mark.parametrize(
    ("ids", "values", "keep", "message"),
    [
        (["a"], [0.1, 0.2], 1, "1 candidate ids but 2 values"),
        (["a", "a"], [0.1, 0.2], 1, "occur twice"),
        (["a"], [0.1], 0, "keep is 0"),
    ],
)
def test_inconsistent_requests_are_refused(ids, values, keep, message):
    with pytest.raises(ValueError, match=message):
        select_top(ids, values, keep)
