"""The objectives of self-training at their limits: what moves nothing, what equals another loss, what turns a gradient around."""

import math

import numpy as np
import pytest
import torch

from mudi.adapters import REFERENCE, TRAINED
from mudi.fit import Noised
from mudi.options import RetrainSettings
from mudi.self_training import OBJECTIVES, negative_aware, preference
from mudi.self_training.candidates import Rewarded

BLACK = np.zeros((2, 2, 3), np.uint8)


def rewarded(*told: tuple[str, float]) -> list[Rewarded]:
    return [Rewarded(BLACK, prompt, reward) for prompt, reward in told]


def batch(rows: int, rewards: list[float], seed: int = 0) -> tuple[Noised, torch.Tensor, torch.Tensor]:
    """What a loss sees of so many rows, and predictions of the old adapter and of the new one, float64 (rows, 2, 3, 3)."""
    source = torch.Generator().manual_seed(seed)
    target, old, new = (torch.randn(rows, 2, 3, 3, generator=source, dtype=torch.float64) for _ in range(3))
    noised = Noised(target, torch.zeros(rows, dtype=torch.bool), None, torch.tensor(rewards), torch.ones(rows))
    return noised, old, new


def value_and_gradient(settings: RetrainSettings, noised: Noised, old: torch.Tensor, new: torch.Tensor) -> tuple[float, torch.Tensor]:
    """The loss of an objective and its gradient by what the new adapter predicts."""
    new = new.clone().requires_grad_()
    value = OBJECTIVES[settings.objective].loss(settings)(noised, {REFERENCE: old, TRAINED: new}.__getitem__)
    value.backward()
    return value.item(), new.grad


def test_a_candidate_counts_as_good_by_its_distance_from_the_mean_of_its_prompt():
    """Of prompt a, rewards 0, 1, 2 have mean 1 and standard deviation sqrt(2 / 3): A is -1.2247, 0, 1.2247. With c = 1 it is clipped
    to -1, 0, 1 and r = 0, 1/2, 1; with c = 2 r = 1/2 + A / 4 = .1938, .5, .8062. Prompt b, where all are alike, tells nothing."""
    candidates = rewarded(("a", 0.0), ("b", 3.0), ("a", 1.0), ("b", 3.0), ("a", 2.0))
    assert negative_aware.shares(candidates, 1.0) == pytest.approx([0, 0.5, 0.5, 0.5, 1])
    assert negative_aware.shares(candidates, 2.0) == pytest.approx([0.193814, 0.5, 0.5, 0.5, 0.806186], abs=1e-6)


def test_rewards_of_a_prompt_count_by_their_order_and_spread_alone():
    """Adding a number to all rewards of a prompt, or multiplying them by one above 0, changes nothing."""
    plain = negative_aware.shares(rewarded(("a", 0.1), ("a", 0.5), ("a", 0.2), ("b", 1.0), ("b", 2.0)), 5.0)
    moved = negative_aware.shares(rewarded(("a", 7.3), ("a", 8.5), ("a", 7.6), ("b", 10.0), ("b", 12.0)), 5.0)
    assert plain == pytest.approx(moved)


@pytest.mark.parametrize("error_in", ["prediction", "clean"])
def test_rewards_that_tell_nothing_move_nothing_at_the_start(error_in):
    """With new = old and r = 1/2 the gradients of the positive and of the negative prediction cancel, whatever beta."""
    noised, old, _ = batch(3, [0.5, 0.5, 0.5])
    settings = RetrainSettings(objective="negative_aware", beta=0.3, error_in=error_in)
    _, gradient = value_and_gradient(settings, noised, old, old)
    assert gradient.abs().max() < 1e-7


def test_a_wholly_good_candidate_at_beta_one_gives_the_filtered_loss():
    noised, old, new = batch(3, [1.0, 1.0, 1.0])
    settings = {"kl_weight": 0.7, "beta": 1.0}
    filtered = value_and_gradient(RetrainSettings(objective="filtered", **settings), noised, old, new)
    aware = value_and_gradient(RetrainSettings(objective="negative_aware", **settings), noised, old, new)
    assert aware[0] == pytest.approx(filtered[0], rel=1e-6)
    torch.testing.assert_close(aware[1], filtered[1], rtol=1e-5, atol=1e-8)


def test_a_bad_candidate_pushes_as_a_good_one_pulls():
    """At the start the gradient is (2 r - 1) of that of the plain error: at r = 0 it is the opposite of that at r = 1."""
    noised, old, _ = batch(2, [1.0, 1.0])
    bad = Noised(noised.target, noised.prior, None, torch.zeros(2), noised.clean_scale)
    settings = RetrainSettings(objective="negative_aware", kl_weight=0.0)
    torch.testing.assert_close(value_and_gradient(settings, noised, old, old)[1], -value_and_gradient(settings, bad, old, old)[1])


def test_the_error_of_clean_latents_is_told_by_hand():
    """One row, answers 3 against 1, clean_scale 1/2: the clean error is 1, its square over its own size 1. With r = 1 and beta 1 the
    loss is 1 and, the size being held, its gradient by the answer 2 * 1 * 1/2 / 1 = 1."""
    noised = Noised(torch.ones(1, 1, 1, 1), torch.zeros(1, dtype=torch.bool), None, torch.ones(1), torch.tensor([0.5]))
    settings = RetrainSettings(objective="negative_aware", error_in="clean", kl_weight=0.0)
    value, gradient = value_and_gradient(settings, noised, torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0))
    assert (value, gradient.item()) == (pytest.approx(1.0), pytest.approx(1.0))


def test_exchanging_winner_and_loser_turns_the_gradient_around_at_the_start():
    noised, old, _ = batch(2, [1.0, 1.0])
    settings = RetrainSettings(objective="preference", batch=2, kl_weight=0.0, beta=3.0)
    exchanged = Noised(noised.target.flip(0), noised.prior, None, noised.rewards, noised.clean_scale)
    value, gradient = value_and_gradient(settings, noised, old, old)
    turned = value_and_gradient(settings, exchanged, old.flip(0), old.flip(0))[1].flip(0)
    assert value == pytest.approx(math.log(2))
    torch.testing.assert_close(turned, -gradient)


def test_a_pair_is_told_apart_by_hand():
    """Errors of the new adapter are 1 (winner) and 4 (loser), of the old one 4 and 1, beta 2: -log sigmoid(-1 [(1 - 4) - (4 - 1)]) =
    -log sigmoid(6) = log(1 + e^-6) = .002476."""
    noised = Noised(torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.bool), None, torch.ones(2), torch.ones(2))
    old, new = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1), torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    settings = RetrainSettings(objective="preference", batch=2, kl_weight=0.0, beta=2.0)
    assert value_and_gradient(settings, noised, old, new)[0] == pytest.approx(math.log1p(math.exp(-6)), rel=1e-5)


def test_pairs_are_of_one_prompt_and_differ_by_more_than_the_margin():
    candidates = rewarded(("a", 1.0), ("b", 5.0), ("a", 2.0), ("a", 2.0), ("b", 4.9))
    assert set(preference.pairs(candidates, 0.0)) == {(2, 0), (3, 0), (1, 4)}
    assert set(preference.pairs(candidates, 0.5)) == {(2, 0), (3, 0)}
    with pytest.raises(ValueError, match="none of 5 candidates is better"):
        preference.examples(candidates, RetrainSettings(objective="preference", batch=2, pair_margin=3.0))


def test_the_loser_follows_its_winner_and_takes_its_noise():
    candidates = rewarded(("a", 0.0), ("a", 1.0), ("b", 7.0), ("b", 3.0))
    rows = preference.examples(candidates, RetrainSettings(objective="preference", batch=4))(0, np.random.default_rng(0))
    assert [row.as_before for row in rows] == [False, True, False, True]
    reward = {f"kept-{i}": candidate.reward for i, candidate in enumerate(candidates)}
    assert all(reward[w.key] > reward[lost.key] and w.prompt == lost.prompt for w, lost in (rows[:2], rows[2:]))


@pytest.mark.parametrize("name", ["filtered", "negative_aware"])
def test_candidates_train_with_the_prompts_that_drew_them(name):
    candidates = [Rewarded(np.full((4, 4, 3), i, np.uint8), f"p{i}", float(i)) for i in range(3)]
    examples = OBJECTIVES[name].examples(candidates, RetrainSettings(objective=name, batch=5))
    rows = [row for step in range(10) for row in examples(step, np.random.default_rng(step))]
    assert len({row.prompt for row in rows}) == 3
    assert all(row.prompt == f"p{row.image[0, 0, 0]}" for row in rows)


def test_weights_of_nothing_leave_the_kl_alone():
    """Where the weights are 0 every objective is its KL term, of preference plus log 2."""
    noised, old, new = batch(2, [1.0, 0.0])
    silent = Noised(noised.target, noised.prior, torch.zeros(2, 1, 1, 1), noised.rewards, noised.clean_scale)
    kl = 0.7 * ((new - old) ** 2).mean().item()
    for name, rest in (("filtered", 0.0), ("negative_aware", 0.0), ("preference", math.log(2))):
        settings = RetrainSettings(objective=name, batch=2, kl_weight=0.7)
        assert value_and_gradient(settings, silent, old, new)[0] == pytest.approx(rest + kl, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"objective": "preference", "batch": 3}, "batch = 3: allowed are even numbers"),
        ({"objective": "preference", "batch": 2, "reference_share": 0.1}, "reference_share = 0.1: allowed are 0 with"),
        ({"beta": 0.0}, "beta = 0.0: allowed are numbers"),
        ({"noise_from": 1000}, "noise_from = 1000: allowed are whole numbers from 0 to 999"),
    ],
)
def test_keys_out_of_range_are_refused(keys, said):
    with pytest.raises(ValueError, match=said):
        RetrainSettings(**keys)
