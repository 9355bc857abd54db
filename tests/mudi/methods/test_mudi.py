"""MuDI as a method: it learns, and its adapter belongs to its photos."""

import numpy as np
import pytest
import torch

from mudi import adapter_folder, adapters
from mudi.diffusion import alphas_cumprod, encode
from mudi.methods.mudi import MuDI
from mudi.options import Sampling
from mudi.text.conditioning import encode_prompts
from mudi.user_files.photos import read_image


def photo_loss(backbone, combination, adapter):
    """Mean denoising error on all references with their captions, at ten fixed times and noises."""
    adapters.activate(backbone.unet, adapter)
    references = [r for s in combination.subjects for r in s.references]
    latents = encode(backbone, [read_image(r.image_path) for r in references])
    condition = encode_prompts(backbone, [r.caption for r in references])
    source, errors = torch.Generator().manual_seed(0), []
    for t in range(50, 1000, 100):
        noise = torch.randn(latents.shape, generator=source)
        a = alphas_cumprod(backbone)[t]
        added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
        with torch.no_grad():
            out = backbone.unet(a.sqrt() * latents + (1 - a).sqrt() * noise, t, condition.states, added_cond_kwargs=added).sample
        errors.append((out - noise).square().mean().item())
    return float(np.mean(errors))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dco", "prior_preservation"])
def test_a_short_fit_lowers_the_loss_on_its_photos(miniature, two_dogs, tmp_path, objective):
    """Sixty steps on the plain photos, with either objective, against the bare model on the same times and noises."""
    method = MuDI(
        objective=objective, steps=60, mix_probability=0.0, batch=4, accumulation=1, learning_rate=1e-3, rank=8,
        prior_images=2, prior_prompt="a photo of a {}",
        prior_negative_prompt="",
        sampling=Sampling(steps=4, guidance_scale=2.0),
    )  # fmt: skip
    adapter = method.train(miniature, two_dogs, tmp_path / "adapter", seed=0)
    assert adapter_folder.find(tmp_path / "adapter") == adapter
    assert photo_loss(miniature, two_dogs, adapters.TRAINED) < photo_loss(miniature, two_dogs, None)


def test_impossible_hyperparameters_are_refused():
    with pytest.raises(ValueError, match="objective = 'dpo'"):
        MuDI(objective="dpo")
    for name, value in {"mix_probability": 1.5, "steps": "abc", "batch": 0, "rank": 2.5, "learning_rate": -1.0, "prior_images": -3}.items():
        with pytest.raises(ValueError, match=f"{name} = "):
            MuDI(**{name: value})
    with pytest.raises(ValueError, match="background_weight"):
        MuDI(objective="dco", background_weight=0.5)
