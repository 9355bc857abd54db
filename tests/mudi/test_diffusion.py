"""The denoising loop, held against diffusers' own pipeline on the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from double import ROUNDING

from mudi.diffusion import Edit, alphas_cumprod, decode, denoise, encode, euler_schedule, generators, is_valid, standard_noise
from mudi.options import Sampling
from mudi.solvers import renoise_amount
from mudi.text.conditioning import encode_negative, encode_prompts


def pipeline_of(backbone) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=backbone.vae, text_encoder=backbone.text_encoder, text_encoder_2=backbone.text_encoder_2, tokenizer=backbone.tokenizer,
        tokenizer_2=backbone.tokenizer_2, unet=backbone.unet, scheduler=EulerDiscreteScheduler.from_config(backbone.scheduler.config),
        add_watermarker=False,
    )  # fmt: skip


def test_the_schedule_is_that_of_sdxl(miniature):
    """Leading spacing, offset 1: 50 steps begin at t = 49 * 20 + 1 = 981; diffusers' scheduler has the same sigmas."""
    timesteps, sigmas = euler_schedule(miniature, 50)
    reference = EulerDiscreteScheduler.from_config(miniature.scheduler.config)
    reference.set_timesteps(50)
    assert timesteps[0] == 981
    assert timesteps.tolist() == reference.timesteps.tolist()
    torch.testing.assert_close(sigmas, reference.sigmas, rtol=1e-4, atol=1e-6)
    assert (sigmas[0] ** 2 + 1).sqrt().item() == pytest.approx(13.158, abs=2e-3)


def test_signal_at_the_first_step_is_what_makes_a_shift_strong(miniature):
    """sqrt(alpha_bar) at t = 981 is 0.076: a mean shift of weight 1 is 13 times the natural signal."""
    assert alphas_cumprod(miniature)[981].sqrt().item() == pytest.approx(0.076, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("negative", [None, "blurry"])
def test_latents_equal_those_of_diffusers(miniature, negative):
    """Same noise, prompt and guidance through StableDiffusionXLPipeline with output_type="latent"."""
    prompt = "a photo of a red dog and a blue cat on the grass"
    noise = standard_noise(miniature, generators([5]))
    ours = denoise(miniature, noise, encode_prompts(miniature, [prompt]), encode_negative(miniature, negative), steps=6, guidance_scale=4.0)
    theirs = pipeline_of(miniature)(
        prompt, negative_prompt=negative, latents=noise.clone(), num_inference_steps=6, guidance_scale=4.0, output_type="latent",
        height=miniature.resolution, width=miniature.resolution,
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_guidance_scale_one_ignores_the_negative_side(miniature):
    """u + 1 (c - u) = c, so no negative prompt can matter, and only one pass is made."""
    noise, positive = standard_noise(miniature, generators([1])), encode_prompts(miniature, ["a red dog"])
    with_one = denoise(miniature, noise, positive, encode_negative(miniature, "blurry"), steps=2, guidance_scale=1.0)
    with_other = denoise(miniature, noise, positive, encode_negative(miniature, None), steps=2, guidance_scale=1.0)
    assert torch.equal(with_one, with_other)


def test_noise_belongs_to_the_seed_not_to_the_batch(miniature):
    """Row i of a batch is what seed i alone gives."""
    together = standard_noise(miniature, generators([3, 4, 5]))
    assert torch.equal(together[1:2], standard_noise(miniature, generators([4])))


def test_an_image_survives_encoding_and_decoding(miniature, two_dogs):
    """PSNR of a rendered photo through the autoencoder above 25 dB: mean squared error below 10**-2.5 of 255**2."""
    from mudi.user_files.photos import read_image

    image = read_image(two_dogs.subjects[0].references[0].image_path)
    (back,) = decode(miniature, encode(miniature, [image]))
    error = np.square(back.astype(float) - image).mean()
    assert 10 * np.log10(255**2 / error) > 25


def test_broken_latents_are_told_from_pictures(miniature):
    """NaN latents decode to a constant image, which is invalid; finite ones do not."""
    broken, fine = torch.full((1, 8, 12, 12), float("nan")), torch.randn(1, 8, 12, 12)
    assert [is_valid(image) for image in decode(miniature, torch.cat([broken, fine]))] == [False, True]


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_impossible_step_counts_are_refused(miniature, steps):
    """Offset 1 lays 1000 steps from timestep 1000, which a model of 0 to 999 does not have."""
    with pytest.raises(ValueError, match=f"steps = {steps}.* allowed are 1 to 999"):
        euler_schedule(miniature, steps)
    with pytest.raises(ValueError, match=f"steps = {steps}: allowed are 1 to 999"):
        Sampling(steps=steps)


@pytest.mark.parametrize(("offset", "steps"), [(1, 999), (1, 500), (0, 1000), (0, 7)])
def test_noise_falls_at_every_step_of_the_longest_schedules_too(miniature, offset, steps):
    """And is that of diffusers."""
    scheduler = EulerDiscreteScheduler.from_config(miniature.scheduler.config, steps_offset=offset)
    _, sigmas = euler_schedule(replace(miniature, scheduler=scheduler), steps)
    scheduler.set_timesteps(steps)
    assert (sigmas.diff() < 0).all()
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changed", [{"rescale_betas_zero_snr": True}, {"trained_betas": [0.001] * 1000}])
def test_other_betas_are_refused_and_not_passed_over(miniature, changed):
    """diffusers gives such checkpoints other noise levels than the plain ones: with zero terminal SNR the first is above 1000."""
    scheduler = EulerDiscreteScheduler.from_config(miniature.scheduler.config, **changed)
    assert not torch.allclose(scheduler.alphas_cumprod, alphas_cumprod(miniature), rtol=1e-2)
    with pytest.raises(ValueError, match=f"scheduler with {next(iter(changed))}: only the plain"):
        alphas_cumprod(replace(miniature, scheduler=scheduler))


def test_a_redone_step_receives_what_it_began_with_in_noise(miniature):
    """Of 4 steps the first 2 are done three times each. Every answer is all the noise there is on data of 0, so a pass leaves sigma'
    of it, and the pass that does the step again must receive that plus sqrt(sigma^2 - sigma'^2) times each row's own next noise:
    of unit noise the variance sigma^2 again. A step that is not redone receives what the last pass left.

    The state is float32: about ten roundings of what a step begins with lie between two passes.
    """
    _, sigmas = euler_schedule(miniature, 4)
    noise, asked, received = standard_noise(miniature, generators([1, 2])), [], []

    def all_is_noise(backbone, batch, timestep, condition):
        sigma = sigmas[asked[-1]]
        received.append(batch * (sigma**2 + 1).sqrt())
        return received[-1] / sigma

    edit = Edit(before=asked.append, steps=2, repeats=2, sources=generators([7, 8]))
    positive = encode_prompts(miniature, ["a red dog"] * 2)
    denoise(miniature, noise, positive, positive, steps=4, guidance_scale=1.0, edit=edit, predicting=all_is_noise)
    assert asked == [0, 0, 0, 1, 1, 1, 2, 3]
    sources = generators([7, 8])
    for index, following, before, after in zip(asked, asked[1:], received, received[1:]):
        expected = sigmas[index + 1] / sigmas[index] * before
        if following == index:
            drawn = torch.stack([torch.randn(noise.shape[1:], generator=source) for source in sources])
            expected = expected + (sigmas[index] ** 2 - sigmas[index + 1] ** 2).sqrt() * drawn
        torch.testing.assert_close(after, expected, rtol=0, atol=16 * ROUNDING * float(before.abs().max()))


def test_noise_is_added_only_from_a_lower_level_to_a_higher_one():
    """5^2 = 3^2 + 4^2."""
    assert renoise_amount(5.0, 3.0) == 4.0
    for sigma, following in ((1.0, 2.0), (1.0, -0.5)):
        with pytest.raises(ValueError, match="only where noise falls"):
            renoise_amount(sigma, following)
