"""The random SDXL has the true sizes, and its weights follow from the seed."""

import pytest
import torch
from accelerate import init_empty_weights
from peft import LoraConfig
from torch import nn

from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.random_sdxl import WEIGHT_STD, empty_text_encoders, empty_unet, empty_vae, fill, scheduler


def millions(model, trainable=False):
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable) / 1e6


def filled(seed, dtype=torch.float32):
    with init_empty_weights():
        unet = architectures.unet()
    return fill(unet, torch.Generator().manual_seed(seed), dtype)


def test_equal_seeds_give_equal_weights_and_other_seeds_others():
    first, second, other = (filled(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_norms_start_as_the_identity_and_nothing_else_is_constant():
    for name, module in filled(0).named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                assert (parameter == (1.0 if key == "weight" else 0.0)).all(), name
            else:
                assert parameter.std() > WEIGHT_STD / 3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_filled_unet_predicts_finite_noise_that_depends_on_the_text(dtype):
    unet, channels = filled(0, dtype).eval(), architectures.LATENT_CHANNELS
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(1, channels, 12, 12, generator=noise, dtype=dtype)
    added = {"text_embeds": torch.randn(1, architectures.TEXT_WIDTHS[1], generator=noise, dtype=dtype), "time_ids": torch.zeros(1, 6)}
    texts = torch.randn(2, 1, 5, sum(architectures.TEXT_WIDTHS), generator=noise, dtype=dtype)
    with torch.no_grad():
        one, two = (unet(latents, 500, text, added_cond_kwargs=added).sample for text in texts)
    assert torch.isfinite(one).all()
    assert not torch.equal(one, two)


def test_text_positions_survive_the_filling():
    """Position ids are a buffer, not a weight; a model built without memory must still have them."""
    with init_empty_weights():
        encoder, _ = architectures.text_encoders(build_tokenizer())
    encoder = fill(encoder, torch.Generator().manual_seed(0), torch.float32)
    ids = torch.tensor([[5, 5, 5]])
    states = encoder(ids).last_hidden_state[0]
    assert not torch.allclose(states[0], states[1])


def test_the_scheduler_is_sdxl_base():
    """Leading spacing over 1000 steps with offset 1: 50 steps start at 981, and the first noise scale is
    sqrt(sigma^2 + 1) = 13.158 there."""
    euler = scheduler()
    euler.set_timesteps(50)
    assert euler.timesteps[0] == 981
    assert float(euler.init_noise_sigma) == pytest.approx(13.158, abs=1e-3)


def test_the_parts_have_sdxl_base_sizes():
    """Published: UNet 2567.46 M, CLIP ViT-L text tower 123.06 M, bigG text tower with projection 694.66 M, autoencoder 83.65 M."""
    first, second = empty_text_encoders()
    counts = [millions(model) for model in (empty_unet(), first, second, empty_vae())]
    assert counts == pytest.approx([2567.46, 123.06, 694.66, 83.65], abs=0.005)


def test_a_rank_32_attention_lora_has_46_million_parameters():
    """r (in + out) over to_q, to_k, to_v and to_out of 70 blocks, twice each. A block of width w has self-attention 4 x 2w and
    cross-attention 2w + 2 (w + 2048) + 2w, together 14w + 4096. 10 blocks have w = 640 and 60 have 1280:
    32 (10 x (8960 + 4096) + 60 x (17920 + 4096)) = 46,448,640."""
    unet = empty_unet().requires_grad_(False)
    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=32, lora_alpha=32, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    assert millions(unet, trainable=True) * 1e6 == 46_448_640
