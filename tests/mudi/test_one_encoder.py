"""Models with one text encoder, noise or velocity, and the solvers: held against diffusers' own pipeline and schedulers.

All models compute in float64. The loop's latents and the answers stay float32, and so does diffusers' Euler scheduler: the rounding
of latents up to 24, multiplied by guidance, leaves differences of 5e-6.
"""

from dataclasses import replace

import pytest
import torch
from cfg_plus_plus_steps import by_definition
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from transformers import CLIPTextConfig, CLIPTextModel

from mudi import models
from mudi.checkpoints.full_sizes import FAMILIES
from mudi.diffusion import alphas_cumprod, denoise, euler_schedule, generators, noise_of, predict, standard_noise, target_of
from mudi.guidance import cfg_plus_plus, classifier_free
from mudi.miniature import architectures
from mudi.miniature.captions import TOKENS, build_tokenizer
from mudi.text.conditioning import encode_negative, encode_prompts

PROMPT, NEGATIVE, GUIDANCE = "a photo of a red dog and a blue cat", "blurry", 5.0


@pytest.fixture(scope="module", params=["sd15", "sd21"], ids=["epsilon", "velocity"])
def stored(request, tmp_path_factory):
    """diffusers' pipeline of a tiny one-encoder model with random weights, and the folder that it saved itself to."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=architectures.TEXT_WIDTHS[1], intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=architectures.vae(), text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer,
        unet=architectures.one_encoder_unet().eval(), scheduler=EulerDiscreteScheduler(**FAMILIES[request.param]["scheduler"]),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    folder = tmp_path_factory.mktemp(request.param)
    pipeline.save_pretrained(folder)
    return pipeline.to(torch.float64), folder


@pytest.fixture(scope="module")
def backbone(stored):
    return models.load(str(stored[1]), dtype=torch.float64)


def told(backbone):
    return encode_prompts(backbone, [PROMPT]), encode_negative(backbone, NEGATIVE)


def test_latents_equal_those_of_diffusers(stored, backbone):
    """Same weights, noise, prompts and guidance; the pipeline's scheduler spaces its 5 steps as ours does."""
    noise = standard_noise(backbone, generators([5]))
    ours = denoise(backbone, noise, *told(backbone), steps=5, guidance_scale=GUIDANCE)
    theirs = stored[0](
        PROMPT, negative_prompt=NEGATIVE, latents=noise.double(), num_inference_steps=5, guidance_scale=GUIDANCE,
        height=backbone.resolution, width=backbone.resolution, output_type="latent",
    ).images  # fmt: skip
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def drawn_by(scheduler, backbone, noise):
    """Latents in float64 by a scheduler of diffusers that is set to its timesteps, from the same predictions."""
    positive, negative = told(backbone)
    latents = noise.double()
    for timestep in scheduler.timesteps:
        answers = [predict(backbone, latents, timestep, condition).double() for condition in (negative, positive)]
        latents = scheduler.step(classifier_free(*answers, GUIDANCE), timestep, latents).prev_sample
    return latents


def test_ddim_is_that_of_diffusers(backbone):
    """Without noise, and with the first training timestep's noise left in the end, as Stable Diffusion ships its scheduler."""
    noise = standard_noise(backbone, generators([5]))
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config, set_alpha_to_one=False, clip_sample=False)
    scheduler.set_timesteps(6)
    ours = denoise(backbone, noise, *told(backbone), steps=6, guidance_scale=GUIDANCE, scheduler="ddim")
    torch.testing.assert_close(ours.double(), drawn_by(scheduler, backbone, noise), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("guidance", [GUIDANCE, cfg_plus_plus(0.6)], ids=["cfg", "cfg++"])
def test_ddim_that_begins_its_last_step_at_the_first_timestep_ends_without_noise(backbone, guidance):
    """steps_offset 0 goes with `set_alpha_to_one` True in diffusers, whose DDIM has both by default."""
    backbone = replace(backbone, scheduler=EulerDiscreteScheduler.from_config(backbone.scheduler.config, steps_offset=0))
    noise = standard_noise(backbone, generators([5]))
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config, steps_offset=0, set_alpha_to_one=True, clip_sample=False)
    scheduler.set_timesteps(6)
    assert scheduler.timesteps[-1] == 0
    ours = denoise(backbone, noise, *told(backbone), steps=6, guidance_scale=guidance, scheduler="ddim")
    by_steps = by_definition(backbone, noise, *told(backbone), 6, 0.6, 1.0)
    theirs = by_steps if callable(guidance) else drawn_by(scheduler, backbone, noise)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["euler", "ddim"])
def test_the_loop_makes_the_steps_of_cfg_plus_plus(backbone, scheduler):
    """Of noise and of velocity, both sides turned into noise before they are guided."""
    noise, last = standard_noise(backbone, generators([2])), 1.0 if scheduler == "euler" else float(alphas_cumprod(backbone)[0])
    ours = denoise(backbone, noise, *told(backbone), steps=5, guidance_scale=cfg_plus_plus(0.6), scheduler=scheduler)
    expected = by_definition(backbone, noise, *told(backbone), 5, 0.6, last)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_dpmpp_2m_is_that_of_diffusers(backbone):
    """Given our timesteps (its own leading spacing is another one); both are of first order on the first and last step."""
    noise = standard_noise(backbone, generators([5]))
    timesteps, sigmas = euler_schedule(backbone, 6)
    scheduler = DPMSolverMultistepScheduler.from_config(backbone.scheduler.config, final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    torch.testing.assert_close(scheduler.sigmas, sigmas, rtol=1e-4, atol=1e-6)
    ours = denoise(backbone, noise, *told(backbone), steps=6, guidance_scale=GUIDANCE, scheduler="dpmpp_2m")
    torch.testing.assert_close(ours.double(), drawn_by(scheduler, backbone, noise), rtol=1e-5, atol=1e-5)
    euler = denoise(backbone, noise, *told(backbone), steps=6, guidance_scale=GUIDANCE)
    assert (ours - euler).abs().max() > 1e-2, "the second order should make a difference"


def test_the_noise_is_what_the_target_was_made_of(backbone):
    """noise_of undoes target_of at every signal share, so a perfect answer removes exactly the noise that a fit added."""
    source = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 8, 12, 12, generator=source).double() for _ in range(2))
    signal = alphas_cumprod(backbone)[torch.tensor([0, 300, 700, 999])].view(-1, 1, 1, 1).double()
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    found = noise_of(backbone, target_of(backbone, latents, noise, signal), noisy, signal)
    torch.testing.assert_close(found, noise, rtol=1e-12, atol=1e-12)


def test_one_encoder_tells_its_last_states_and_nothing_else(stored, backbone):
    """The last states, normalised, as `encode_prompt` gives them; no prompt is the empty prompt, not zeros."""
    theirs, empty = stored[0].encode_prompt(PROMPT, "cpu", 1, True, negative_prompt=None)
    ours, nothing = encode_prompts(backbone, [PROMPT]), encode_negative(backbone, None)
    torch.testing.assert_close(ours.states, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nothing.states, empty, rtol=1e-12, atol=1e-12)
    assert (ours.pooled, ours.time_ids) == (None, None)
