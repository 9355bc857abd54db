"""The optimisation loop: exact resume, and gradients that reach only what they should."""

import numpy as np
import pytest
import torch
from double import ROUNDING

from mudi import adapters
from mudi.adapters import TRAINED
from mudi.fit import Example, FitSettings, fit
from mudi.objectives import denoising_loss
from mudi.options import LoraSettings


def examples(step, rng):
    """Two noise pictures that depend on the given generator alone."""
    return [Example(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8), "a red dog") for _ in range(2)]


def loss(noised, predict):
    return denoising_loss(predict(TRAINED), noised.target)


def trained(backbone, work, settings, stop_at=None, source=examples):
    """The matrices after a fit, which can be killed after a given step."""
    adapters.detach_all(backbone.unet)
    adapters.attach(backbone.unet, LoraSettings(rank=2, alpha=2), 0)

    def report(step, value):
        if step == stop_at:
            raise KeyboardInterrupt

    fit(backbone, source, loss, settings, work=work, seed=5, report=report)
    return torch.cat([p.detach().flatten().clone() for p in adapters.parameters(backbone.unet)])


@pytest.mark.slow
def test_a_fit_killed_twice_ends_bit_for_bit_like_an_undisturbed_one(miniature, tmp_path):
    """Seven steps with a checkpoint every two, killed after steps 3 and 5: resumed from 2 and from 4."""
    settings = FitSettings(steps=7, learning_rate=1e-2, batch=2, accumulation=2, checkpoint_every=2)
    whole = trained(miniature, tmp_path / "whole", settings)
    for stop_at in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            trained(miniature, tmp_path / "killed", settings, stop_at)
    assert torch.equal(trained(miniature, tmp_path / "killed", settings), whole)


def photos(step, rng):
    """Two of four recurring pictures, so that each first meets another neighbour after every restart."""
    shades = rng.permutation(4)[:2]
    return [Example(np.random.default_rng(s).integers(0, 255, (48, 48, 3), dtype=np.uint8), "a dog", key=f"photo-{s}") for s in shades]


def test_cached_pictures_do_not_remember_their_first_neighbours(miniature, tmp_path):
    """A killed fit starts with an empty cache and still ends bit for bit like an undisturbed one."""
    settings = FitSettings(steps=8, learning_rate=1e-2, batch=2, accumulation=1, checkpoint_every=3)
    whole = trained(miniature, tmp_path / "whole", settings, source=photos)
    with pytest.raises(KeyboardInterrupt):
        trained(miniature, tmp_path / "killed", settings, 5, source=photos)
    assert torch.equal(trained(miniature, tmp_path / "killed", settings, source=photos), whole)


def test_a_cut_checkpoint_is_passed_over(miniature, tmp_path):
    """The older of the two is used, and the end is still the same."""
    settings = FitSettings(steps=6, learning_rate=1e-2, batch=2, accumulation=1, checkpoint_every=2)
    whole = trained(miniature, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        trained(miniature, tmp_path / "killed", settings, 5)
    newest = max((tmp_path / "killed").glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-64])
    assert torch.equal(trained(miniature, tmp_path / "killed", settings), whole)


def test_the_base_model_does_not_move(miniature, tmp_path):
    before = {key: value.clone() for key, value in miniature.unet.state_dict().items()}
    trained(miniature, tmp_path, FitSettings(steps=2, learning_rate=1e-2, batch=2, accumulation=1))
    adapters.detach_all(miniature.unet)
    after = miniature.unet.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_loss_that_is_not_finite_stops_the_fit(miniature, tmp_path):
    def broken(noised, predict):
        return denoising_loss(predict(TRAINED), noised.target) * float("nan")

    adapters.attach(miniature.unet, LoraSettings(rank=2, alpha=2), 0)
    with pytest.raises(FloatingPointError, match="step 0"):
        fit(miniature, examples, broken, FitSettings(steps=2), work=tmp_path, seed=0)


def test_recurring_pictures_train_as_fresh_ones(miniature, tmp_path):
    """The posterior cache is exact: with and without a key the matrices agree bit for bit."""
    picture = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    results = []
    for key in (None, "photo"):
        adapters.detach_all(miniature.unet)
        adapters.attach(miniature.unet, LoraSettings(rank=2, alpha=2), 0)
        fit(
            miniature, lambda step, rng, key=key: [Example(picture, "a dog", key=key)], loss, FitSettings(steps=3, learning_rate=1e-2),
            work=tmp_path / str(key), seed=0,
        )  # fmt: skip
        results.append(torch.cat([p.detach().flatten() for p in adapters.parameters(miniature.unet)]))
    assert torch.equal(*results)


def test_a_noise_offset_shifts_all_places_of_a_channel_alike(miniature, tmp_path):
    """What the loss sees with an offset of 3, less what it sees without: one number a row and channel, of standard deviation 3.

    Each of the two numbers at a place is rounded to float32 before they are subtracted."""
    seen = {}
    for offset in (0.0, 3.0):

        def watched(noised, predict, offset=offset):
            seen[offset] = noised.target
            return loss(noised, predict)

        adapters.attach(miniature.unet, LoraSettings(rank=2, alpha=2), 0)
        settings = FitSettings(steps=1, batch=2, accumulation=1, noise_offset=offset)
        fit(miniature, examples, watched, settings, work=tmp_path / str(offset), seed=5)
    shift = seen[3.0] - seen[0.0]
    bound = 4 * ROUNDING * float(seen[3.0].abs().max())
    torch.testing.assert_close(shift, shift[..., :1, :1].expand_as(shift), atol=bound, rtol=0)
    assert 1.5 < shift[..., 0, 0].std().item() < 6
