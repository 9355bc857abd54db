"""The KL-regularised round: where it starts, what holds it, what it converges to."""

import numpy as np
import pytest
import torch

from mudi import adapter_folder, adapters
from mudi.adapters import REFERENCE, TRAINED
from mudi.fit import Noised
from mudi.options import RetrainSettings
from mudi.retrain import retrain
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
