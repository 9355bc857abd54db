"""Selection: the best candidates, in an order that depends on nothing but ids and values."""

from itertools import permutations

import pytest

from mudi.selection import rewards, select, select_top


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


POOL = [("a", "p", 0.9), ("b", "p", 0.8), ("c", "p", 0.7), ("d", "q", 0.3), ("e", "q", 0.0), ("f", "q", None)]


def test_an_objective_that_learns_from_all_gets_zeros_and_no_candidate_without_a_score():
    assert [name for name, _, _ in select(POOL, 1, everything=True)] == ["a", "b", "c", "d", "e"]


def test_candidates_that_no_prompt_tells_apart_teach_nothing():
    """p's .9 and .7 differ by .2, q's by .3: with a margin of .3 nothing is left, with .25 all is. Alike in each prompt is nothing."""
    pool = [("a", "p", 0.9), ("b", "p", 0.7), ("c", "q", 0.3), ("d", "q", 0.0)]
    assert [len(select(pool, 1, everything=True, margin=margin)) for margin in (0.0, 0.25, 0.3)] == [4, 4, 0]
    assert select([("a", "p", 0.0), ("b", "p", 0.0), ("c", "q", 1.0)], 1, everything=True) == ()


def test_prompts_take_turns_and_what_one_cannot_fill_goes_to_the_others():
    """Of p's .9, .8, .7 and q's .3: two places go to one each, three to p's second too, all four are there at four."""
    kept = {keep: "".join(name for name, _, _ in select(POOL, keep, per_prompt=True)) for keep in (1, 2, 3, 4, 5)}
    assert kept == {1: "a", 2: "ad", 3: "abd", 4: "abcd", 5: "abcd"}
    assert select(POOL, 2) == tuple(POOL[:2])


@pytest.mark.parametrize("per_prompt", [False, True])
def test_selection_knows_no_order_of_its_input(per_prompt):
    assert select(POOL[::-1], 3, per_prompt=per_prompt) == select(POOL, 3, per_prompt=per_prompt)


def test_several_scores_are_one_reward_by_their_weights():
    """Weights 3 and 1 of 1.0 and 2.0 give (3 + 2) / 4 = 1.25; a score that was not computed leaves no reward."""
    told = [("x", "m", 1.0), ("x", "n", 2.0), ("x", "other", 9.0), ("y", "m", 1.0), ("y", "n", None)]
    scores = [dict(zip(("candidate_id", "metric", "value"), row, strict=True)) for row in told]
    assert rewards(scores, {"m": 3.0, "n": 1.0}) == {"x": 1.25, "y": None}
    assert rewards(scores, {"m": 1.0}) == {"x": 1.0, "y": 1.0}
