"""Drawing: paired noise, and candidates that do not depend on their neighbours."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mudi.diffusion import generators, standard_noise
from mudi.layout import boxes_of
from mudi.options import LayoutGuidance, Sampling
from mudi.sampling import draw, reference_counts, shifted_noise, start_of, subject_segments

FAST = Sampling(steps=3, guidance_scale=2.0, gamma=1.0)


def test_without_a_shift_the_noise_is_the_plain_one(miniature, two_dogs):
    """gamma 0 and gamma 1 share the Gaussian part: their difference is gamma * E(x) * M and zero off the mask.

    Sums below 8 are rounded to 2.4e-7 in float32, and one of them is doubled."""
    segments = subject_segments(two_dogs)
    plain = shifted_noise(miniature, segments, [3], Sampling(gamma=0.0))
    assert torch.equal(plain, standard_noise(miniature, generators([3])))
    half, full = (shifted_noise(miniature, segments, [3], Sampling(gamma=gamma)) - plain for gamma in (0.5, 1.0))
    assert full.abs().max() < 8
    torch.testing.assert_close(2 * half, full, rtol=0, atol=1e-6)
    outside = (full == 0).all(1)
    assert outside.any()
    assert not outside.all()


def test_the_shift_of_a_candidate_does_not_depend_on_its_neighbours(miniature, two_dogs):
    """Seed 4 alone and between others starts from the same bytes."""
    segments = subject_segments(two_dogs)
    together = shifted_noise(miniature, segments, [3, 4, 5], FAST)
    assert torch.equal(together[1:2], shifted_noise(miniature, segments, [4], FAST))


def test_a_chunk_gives_the_same_bytes_whatever_was_drawn_before(miniature, two_dogs):
    """No state survives a chunk: not the order of chunks, not the global generators of torch and numpy."""
    prompt = two_dogs.prompts[0]
    first = draw(miniature, two_dogs, prompt, [1, 2], FAST)
    torch.manual_seed(99)
    np.random.seed(99)
    draw(miniature, two_dogs, two_dogs.prompts[1], [7, 8, 9], FAST)
    again = draw(miniature, two_dogs, prompt, [1, 2], FAST)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_batches_of_other_sizes_agree_to_rounding(miniature, two_dogs):
    """Sums are split by batch size, so bits may differ, pixels by no more than a few of 255."""
    prompt = two_dogs.prompts[0]
    together = draw(miniature, two_dogs, prompt, [1, 2, 3], FAST)
    alone = draw(miniature, two_dogs, prompt, [2], FAST)
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 3


@pytest.mark.parametrize("gamma", [-0.1, 1.5])
def test_gamma_outside_its_range_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        Sampling(gamma=gamma)


def with_boxes(combination):
    """Two layouts, so that a seed has something to choose."""
    a, b = (subject.key for subject in combination.subjects)
    left, right = (40.0, 300.0, 480.0, 960.0), (540.0, 300.0, 980.0, 960.0)
    return replace(combination, layouts=({a: left, b: right}, {a: right, b: left}))


def test_attention_follows_the_layout_that_initialization_follows(miniature, two_dogs):
    """A seed's layout is the same whether initialization takes it, attention, or both, and so are its references."""
    pair, layouts = with_boxes(two_dogs), boxes_of(with_boxes(two_dogs))
    counts = reference_counts(pair)
    assert counts == list(map(len, subject_segments(pair)))
    initialized = Sampling(layout="given")
    both = replace(initialized, layout_guidance=LayoutGuidance())
    attended = replace(both, gamma=0.0, layout="random")
    starts = [[start_of(seed, counts, options, layouts)[0] for seed in range(12)] for options in (initialized, both, attended)]
    assert starts[0] == starts[1] == starts[2]
    assert {str(start.layout) for start in starts[0]} == {str(layout) for layout in layouts}


def test_guidance_by_layout_of_no_weight_changes_no_bit(miniature, two_dogs):
    pair = with_boxes(two_dogs)
    without = replace(FAST, gamma=0.0)
    weightless = replace(without, layout_guidance=LayoutGuidance(weight=0.0, recurrence=0))
    plain, edited = (draw(miniature, pair, pair.prompts[0], [1, 2], options) for options in (without, weightless))
    assert all(np.array_equal(a, b) for a, b in zip(plain, edited, strict=True))


def test_redone_steps_draw_noise_of_the_candidate_alone(miniature, two_dogs):
    """Seed 2 with a redone step comes out alike alone and between neighbours, and not as without."""
    pair = with_boxes(two_dogs)
    options = replace(FAST, gamma=0.0, layout_guidance=LayoutGuidance())
    together, alone = (draw(miniature, pair, pair.prompts[0], seeds, options) for seeds in ([1, 2, 3], [2]))
    once = draw(miniature, pair, pair.prompts[0], [2], replace(options, layout_guidance=LayoutGuidance(recurrence=0)))
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 3
    assert np.abs(alone[0].astype(int) - once[0]).max() > 3


def test_cfg_plus_plus_of_weight_zero_ignores_the_prompt(miniature, two_dogs):
    """lambda 0 leaves the unconditional prediction at every step: two prompts give one picture, though both passes are made."""
    options = Sampling(steps=3, guidance_scale=None, cfg_plus_plus=0.0, gamma=0.0)
    first, second = (draw(miniature, two_dogs, prompt, [1], options) for prompt in two_dogs.prompts)
    assert np.array_equal(first[0], second[0])


def test_padding_that_is_hidden_adds_nothing_to_a_prompt_that_fills_the_context(miniature, two_dogs):
    """Where no padding is left, adaptive and full padding are the same thing; where there is, they are not."""
    full, adaptive = Sampling(steps=2, gamma=0.0, negative_prompt="x " * 60), Sampling(
        steps=2, gamma=0.0, negative_prompt="x " * 60, padding="adaptive"
    )  # fmt: skip
    long = replace(two_dogs.prompts[0], text="a red dog " * 20)
    assert np.array_equal(*(draw(miniature, two_dogs, long, [1], options)[0] for options in (full, adaptive)))
    assert not np.array_equal(*(draw(miniature, two_dogs, two_dogs.prompts[0], [1], options)[0] for options in (full, adaptive)))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cfg_plus_plus": 0.6}, "give one of the two"),
        ({"guidance_scale": None}, "give one of the two"),
        ({"guidance_scale": None, "cfg_plus_plus": 7.5}, "0 to 1"),
        ({"guidance_scale": None, "cfg_plus_plus": 0.6, "scheduler": "dpmpp_2m"}, "first-order"),
        ({"scheduler": "lms"}, "euler"),
        ({"padding": "none"}, "adaptive"),
        ({"layout_guidance": LayoutGuidance()}, "different places"),
    ],
)
def test_options_that_cannot_work_together_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        Sampling(**options)


def test_a_prompt_that_leaves_a_subject_out_cannot_be_guided_by_layout(miniature, two_dogs):
    pair = with_boxes(two_dogs)
    alone = replace(pair.prompts[0], text=f"a photo of a {pair.subjects[0].phrase}")
    with pytest.raises(ValueError, match="does not name"):
        draw(miniature, pair, alone, [1], replace(FAST, gamma=0.0, layout_guidance=LayoutGuidance()))
