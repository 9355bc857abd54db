"""The random models have the published sizes, and their weights follow from the seed."""

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import EulerDiscreteScheduler
from peft import LoraConfig
from torch import nn

from mudi.checkpoints.full_sizes import FAMILIES
from mudi.checkpoints.random_weights import WEIGHT_STD, empty_parts, fill
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer


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


@pytest.fixture(scope="module")
def parts():
    """The parts of every family on the meta device: no memory, but a second each."""
    return {family: empty_parts(family) for family in FAMILIES}


@pytest.mark.parametrize(("family", "prediction"), [("sdxl", "epsilon"), ("sd15", "epsilon"), ("sd21", "v_prediction")])
def test_the_scheduler_is_the_published_one(family, prediction):
    """Leading spacing over 1000 steps with offset 1: 50 steps start at 981, and the first noise scale is
    sqrt(sigma^2 + 1) = 13.158 there."""
    euler = EulerDiscreteScheduler(**FAMILIES[family]["scheduler"])
    euler.set_timesteps(50)
    assert euler.timesteps[0] == 981
    assert float(euler.init_noise_sigma) == pytest.approx(13.158, abs=1e-3)
    assert euler.config.prediction_type == prediction


@pytest.mark.parametrize(
    ("family", "unet", "first", "second"),
    [("sdxl", 2567.46, 123.06, 694.66), ("sd15", 859.52, 123.06, None), ("sd21", 865.91, 340.39, None)],
)
def test_the_parts_have_the_published_sizes(parts, family, unet, first, second):
    """In millions: SDXL's UNet, CLIP ViT-L's text tower and bigG's with projection; Stable Diffusion 1.5's UNet with ViT-L;
    2.1's with the 23 layers of OpenCLIP ViT-H that its folder holds; the same autoencoder."""
    found = {key: model and millions(model) for key, model in parts[family].items()}
    expected = {"unet": unet, "vae": 83.65, "text_encoder": first, "text_encoder_2": second}
    assert found == {key: size and pytest.approx(size, abs=0.005) for key, size in expected.items()}


def test_the_text_is_as_wide_as_cross_attention_wants_it(parts):
    """SDXL: 768 + 1280 = 2048; Stable Diffusion 1.5: 768; 2.1: 1024, at 64 and 96 latents a side."""
    widths, sides = {}, {}
    for family, made in parts.items():
        unet = made["unet"]
        key = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_k"))
        encoders = [made[part] for part in ("text_encoder", "text_encoder_2") if made[part] is not None]
        assert key.in_features == unet.config.cross_attention_dim == sum(encoder.config.hidden_size for encoder in encoders)
        widths[family], sides[family] = key.in_features, unet.config.sample_size
    assert widths == {"sdxl": 2048, "sd15": 768, "sd21": 1024}
    assert sides == {"sdxl": 128, "sd15": 64, "sd21": 96}


def test_a_rank_32_attention_lora_has_46_million_parameters(parts):
    """r (in + out) over to_q, to_k, to_v and to_out of 70 blocks, twice each. A block of width w has self-attention 4 x 2w and
    cross-attention 2w + 2 (w + 2048) + 2w, together 14w + 4096. 10 blocks have w = 640 and 60 have 1280:
    32 (10 x (8960 + 4096) + 60 x (17920 + 4096)) = 46,448,640."""
    unet = parts["sdxl"]["unet"].requires_grad_(False)
    with torch.device("meta"):
        unet.add_adapter(LoraConfig(r=32, lora_alpha=32, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    assert millions(unet, trainable=True) * 1e6 == 46_448_640
