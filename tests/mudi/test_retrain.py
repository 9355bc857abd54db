"""The KL-regularised round: where it starts, what holds it, what it converges to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mudi import adapter_folder, adapters
from mudi.adapter_folder import LOW_WEIGHTS, WEIGHTS, Origin
from mudi.adapters import REFERENCE, TRAINED
from mudi.diffusion import alphas_cumprod, clean_scale, euler_schedule
from mudi.fit import Example, FitSettings, Noised, fit
from mudi.options import RetrainSettings, Sampling
from mudi.retrain import drift, retrain
from mudi.sampling import draw
from mudi.self_training import filtered
from mudi.self_training.candidates import Rewarded
from tests.mudi.test_adapters import noisy_adapter, stored


def test_the_penalty_is_zero_at_step_zero(miniature, tmp_path, two_dogs):
    """Trained and reference adapter start as copies, so the loss with any weight is the plain one."""
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    adapters.detach_all(miniature.unet)
    adapters.load(miniature.unet, start, REFERENCE)
    adapters.load(miniature.unet, start, TRAINED)
    source = torch.Generator().manual_seed(0)
    noisy, noise = (torch.randn(2, 8, 12, 12, generator=source) for _ in range(2))
    added = {"text_embeds": torch.ones(2, 64), "time_ids": torch.full((2, 6), 48.0)}

    def predict(name):
        adapters.activate(miniature.unet, name)
        return miniature.unet(noisy, 500, torch.ones(2, 40, 112), added_cond_kwargs=added).sample

    noised = Noised(noise, torch.zeros(2, dtype=torch.bool), None)
    held, free = (filtered.loss(RetrainSettings(kl_weight=weight)) for weight in (1.0, 0.0))
    assert held(noised, predict).item() == free(noised, predict).item()


def test_the_minimiser_is_the_weighted_mean_of_noise_and_reference():
    """d/dp [(p - e)^2 + w (p - r)^2] = 0 at p = (e + w r) / (1 + w); with e = 1, r = 4, w = 2 that is 3."""
    prediction = torch.full((1, 1, 1, 1), 3.0, requires_grad=True)
    answers = {TRAINED: prediction, REFERENCE: torch.full((1, 1, 1, 1), 4.0)}
    noised = Noised(torch.ones(1, 1, 1, 1), torch.zeros(1, dtype=torch.bool), None)
    filtered.loss(RetrainSettings(kl_weight=2.0))(noised, answers.__getitem__).backward()
    assert prediction.grad.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_the_penalty_holds_the_adapter_near_its_start(miniature, tmp_path, two_dogs):
    """Fitted on noise pictures, the distance to the start's matrices is smaller with a strong KL than without,
    the start's file is untouched, and the new adapter belongs to the next round."""
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    origin = torch.cat([p.detach().flatten() for p in adapters.parameters(miniature.unet)])
    images = [np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8) for i in range(3)]
    candidates = [Rewarded(image, "a red dog", 1.0) for image in images]
    drift = {}
    for weight in (0.0, 30.0):
        settings = RetrainSettings(steps=30, learning_rate=3e-3, batch=4, accumulation=1, kl_weight=weight)
        adapter = retrain(miniature, two_dogs, start, candidates, settings, tmp_path / f"{weight}", 1, 0)
        assert adapter.round == 1
        adapters.load(miniature.unet, adapter)
        drift[weight] = (torch.cat([p.detach().flatten() for p in adapters.parameters(miniature.unet)]) - origin).norm().item()
    assert drift[30.0] < 0.8 * drift[0.0]
    assert adapter_folder.find(tmp_path / "start") == start


def test_an_empty_selection_is_refused(miniature, tmp_path, two_dogs):
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    with pytest.raises(ValueError, match="nothing to train on"):
        retrain(miniature, two_dogs, start, [], RetrainSettings(), tmp_path / "next", 1, 0)


SHORT = RetrainSettings(steps=3, learning_rate=3e-2, batch=2, accumulation=1, kl_weight=0.0)


def refitted(backbone, combination, folder, start, noise_from):
    """A refit of `start`, three steps long, on pictures of noise."""
    images = [np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8) for i in range(2)]
    settings = replace(SHORT, noise_from=noise_from)
    return retrain(backbone, combination, start, [Rewarded(image, "a red dog", 1.0) for image in images], settings, folder, 1, 0)


def drawn_with(backbone, combination, adapter):
    adapters.put_on(backbone, adapter)
    return np.stack(draw(backbone, combination, combination.prompts[0], [1, 2], Sampling(steps=4, guidance_scale=2.0, gamma=0.0)))


@pytest.mark.parametrize("low_is_start", [True, False])
def test_two_parts_draw_as_one_where_the_other_has_no_step(miniature, tmp_path, two_dogs, low_is_start):
    """Four steps stand at timesteps 751, 501, 251 and 1. Parts that meet at 1 draw as the trained one alone, whatever lies below;
    parts that meet at 752 as the start alone. The same two LoRAs that meet at 500 draw neither of the two pictures."""
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    plain = drawn_with(miniature, two_dogs, start)
    assert euler_schedule(miniature, 4)[0].tolist() == [751, 501, 251, 1]
    boundary = 752 if low_is_start else 1
    two = refitted(miniature, two_dogs, tmp_path / "two", start, boundary)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / WEIGHTS).write_bytes((two.path / WEIGHTS).read_bytes())
    lora, origin = adapter_folder.read_manifest(two.path)["lora"], Origin(method="mudi", combination="two", round=1)
    alone = adapter_folder.finish(tmp_path / "one", tmp_path / "alone", origin, lora)
    trained = drawn_with(miniature, two_dogs, alone)
    assert not np.array_equal(trained, plain)
    assert np.array_equal(drawn_with(miniature, two_dogs, two), plain if low_is_start else trained)
    halves = drawn_with(miniature, two_dogs, refitted(miniature, two_dogs, tmp_path / "halves", start, 500))
    assert not np.array_equal(halves, plain)
    assert not np.array_equal(halves, trained)


def test_after_drawing_in_two_parts_the_trained_one_is_active(miniature, tmp_path, two_dogs):
    """A second chunk begins as the first did."""
    noisy_adapter(miniature)
    two = refitted(miniature, two_dogs, tmp_path / "two", stored(miniature, tmp_path / "start"), 500)
    first = drawn_with(miniature, two_dogs, two)
    again = np.stack(draw(miniature, two_dogs, two_dogs.prompts[0], [1, 2], Sampling(steps=4, guidance_scale=2.0, gamma=0.0)))
    assert np.array_equal(first, again)
    adapters.detach(miniature)
    assert not miniature.low_parts


def test_all_rounds_share_the_low_part_of_the_first(miniature, tmp_path, two_dogs):
    """The second part of round 2 is the LoRA of round 0, byte for byte; the adapter's sha256 covers both; other boundaries are refused."""
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    first = refitted(miniature, two_dogs, tmp_path / "first", start, 500)
    second = refitted(miniature, two_dogs, tmp_path / "second", first, 500)
    assert (second.path / LOW_WEIGHTS).read_bytes() == (start.path / WEIGHTS).read_bytes()
    assert (second.path / WEIGHTS).read_bytes() != (first.path / WEIGHTS).read_bytes()
    for boundary in (0, 400):
        with pytest.raises(ValueError, match=f"two parts that meet at timestep 500; refit it with noise_from = 500, not {boundary}"):
            refitted(miniature, two_dogs, tmp_path / "third", second, boundary)
    (second.path / LOW_WEIGHTS).write_bytes((second.path / WEIGHTS).read_bytes())
    assert adapter_folder.find(second.path) is None


def test_a_fit_sees_only_timesteps_from_the_lowest_on(miniature, tmp_path):
    """An error of noise is one of clean latents times sqrt((1 - a) / a), which grows with the timestep: none is under that of 700, and
    of 64 rows the least noisy one is below timestep 800 (the chance that it is not is (2 / 3)^64)."""
    noisy_adapter(miniature)
    seen = []

    def loss(noised: Noised, predict) -> torch.Tensor:
        seen.append(noised.clean_scale)
        return predict(TRAINED).square().mean()

    picture = Example(np.zeros((48, 48, 3), np.uint8), "a dog", key="black")
    settings = FitSettings(steps=1, batch=64, accumulation=1, noise_from=700)
    fit(miniature, lambda step, rng: [picture] * 64, loss, settings, work=tmp_path, seed=0)
    bounds = clean_scale(miniature, alphas_cumprod(miniature)[[700, 800]])
    assert bounds[0] <= seen[0].min() < bounds[1]


def test_drift_is_counted_where_the_trained_part_draws(miniature, tmp_path, two_dogs):
    """A boundary above all times at which drift is measured leaves none of it."""
    noisy_adapter(miniature)
    start = stored(miniature, tmp_path / "start")
    adapters.load(miniature.unet, start, REFERENCE)
    for parameter in adapters.parameters(miniature.unet):
        parameter.data += 0.05
    whole, upper, none = (drift(miniature, two_dogs, noise_from) for noise_from in (0, 500, 951))
    assert whole > upper > none == 0
