"""CFG++ by a weight that follows the noise, held against CFG++ itself."""

import pytest
import torch
from cfg_plus_plus_steps import by_definition, cfg_plus_plus_step

from mudi.diffusion import alphas_cumprod, denoise, euler_schedule, generators, standard_noise
from mudi.guidance import cfg_plus_plus, cfg_plus_plus_weight, classifier_free, equivalent_scale
from mudi.solvers import SOLVERS
from mudi.text.conditioning import encode_negative, encode_prompts


def test_a_step_by_hand():
    """abar .25 to .64, x = 1, u = .5, c = .9, lambda .6: guided .74, denoised (1 - .8660254 x .74) / .5 = .7182824,
    x' = .8 x .7182824 + .6 x .5 = .8746259. Noise levels are sqrt(3) and .75, so the weight is .6 x 1.7320508 / .9820508
    = 1.0582248, and plain guidance of that weight through a step of DDIM gives the same. All to the seven digits written here."""
    assert cfg_plus_plus_step(1.0, 0.5, 0.9, 0.6, 0.25, 0.64) == pytest.approx(0.8746259, abs=1e-7)
    weight = cfg_plus_plus_weight(3**0.5, 0.75, 0.6)
    assert weight == pytest.approx(1.0582248, abs=1e-7)
    start, unconditional, conditional, *levels = torch.tensor([1 / 0.25**0.5, 0.5, 0.9, 3**0.5, 0.75], dtype=torch.float64)
    after, _ = SOLVERS["ddim"].step(start, classifier_free(unconditional, conditional, weight), *levels, None)
    assert after.item() * 0.64**0.5 == pytest.approx(0.8746259, abs=1e-7)


@pytest.mark.parametrize("scheduler", ["euler", "ddim"])
@pytest.mark.parametrize("lam", [0.6, 1.0])
def test_the_loop_makes_the_steps_of_cfg_plus_plus(double, scheduler, lam):
    """Euler ends without noise, DDIM at that of the first training timestep. Lambda 1 keeps both passes: its weight is above 1.

    The model and the definition compute in float64. The loop's latents and the answers are float32: of latents up to 3.6 the
    rounding is 2e-7, guidance multiplies it by up to 2 x 15.8 + 1, and 2e-6 is left after five steps.
    """
    noise = standard_noise(double, generators([2]))
    positive, negative = encode_prompts(double, ["a photo of a red dog"]), encode_negative(double, "blurry")
    last = 1.0 if scheduler == "euler" else float(alphas_cumprod(double)[0])
    ours = denoise(double, noise, positive, negative, steps=5, guidance_scale=cfg_plus_plus(lam), scheduler=scheduler)
    expected = by_definition(double, noise, positive, negative, 5, lam, last)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_the_mean_weight_of_lambda_six_tenths_is_about_seven(miniature):
    """Over 50 Euler steps the weight is 9.1 lambda at first, 15.8 at its peak, lambda at last, and 12.0 lambda on average."""
    _, sigmas = euler_schedule(miniature, 50)
    weights = torch.tensor([cfg_plus_plus_weight(float(a), float(b), 1.0) for a, b in zip(sigmas, sigmas[1:])])
    assert [weights[0].item(), weights.max().item(), weights[-1].item(), weights.mean().item()] == pytest.approx(
        [9.1, 15.8, 1.0, 12.0], abs=0.06
    )


def test_infinite_noise_leaves_lambda_and_rising_noise_is_refused():
    assert cfg_plus_plus_weight(float("inf"), 14.6, 0.6) == 0.6
    for sigma, following in ((1.0, 1.0), (1.0, 2.0), (1.0, -0.1)):
        with pytest.raises(ValueError, match="must fall"):
            cfg_plus_plus_weight(sigma, following, 0.6)
    with pytest.raises(ValueError, match="lam = 7"):
        cfg_plus_plus_weight(2.0, 1.0, 7.5)


def test_the_scale_that_cfg_plus_plus_amounts_to_is_told_by_hand():
    """Levels 4, 2, 1, 0: 4 / 2, 2 / 1 and 1 / 1, times 0.6, are 1.2, 1.2 and 0.6, mean 1."""
    assert equivalent_scale(0.6, [4.0, 2.0, 1.0, 0.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(("steps", "scale"), [(16, 2.47), (25, 3.70), (50, 7.18)])
def test_on_sdxl_s_schedule_more_steps_are_a_larger_scale(double, steps, scale):
    _, sigmas = euler_schedule(double, steps)
    assert equivalent_scale(0.6, sigmas.tolist()) == pytest.approx(scale, abs=0.01)
