"""The published families at their full size with seeded random weights: for speed, memory, and tests without downloads."""

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mudi.checkpoints.clip_vocabulary import PADS, clip_tokenizer
from mudi.checkpoints.full_sizes import FAMILIES

# Keeps activations finite through all 70 transformer blocks in bfloat16 and float16.
WEIGHT_STD = 0.02


def empty_unet(family: str = "sdxl") -> UNet2DConditionModel:
    """The UNet of a family of `full_sizes.FAMILIES` on the meta device: shapes without memory. SDXL's has 2567.46 M parameters."""
    with init_empty_weights():
        return UNet2DConditionModel(**FAMILIES[family]["unet"])


def empty_parts(family: str) -> dict[str, nn.Module | None]:
    """The unet, vae, text_encoder and text_encoder_2 of a family, likewise. The second text encoder, which alone has a
    projection, is None where the family has one only."""
    sizes = FAMILIES[family]
    second, unet = sizes.get("text_encoder_2"), empty_unet(family)
    with init_empty_weights():
        return {
            "unet": unet,
            "vae": AutoencoderKL(**sizes["vae"]),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"])),
            "text_encoder_2": None if second is None else CLIPTextModelWithProjection(CLIPTextConfig(**second)),
        }


@torch.no_grad()
def fill(model: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> nn.Module:
    """The model with random parameters of `dtype`, made in place on the generator's device, never twice in memory.

    Norms get weight 1 and bias 0, everything else is normal with standard deviation 0.02. Equal seeds give equal
    weights on one type of device; CPU and GPU generators differ.
    """
    for module in model.modules():
        norm = isinstance(module, nn.LayerNorm | nn.GroupNorm)
        for name, empty in list(module.named_parameters(recurse=False)):
            values = torch.empty(empty.shape, dtype=dtype, device=generator.device)
            if norm:
                values.fill_(1.0 if name == "weight" else 0.0)
            else:
                values.normal_(0.0, WEIGHT_STD, generator=generator)
            setattr(module, name, nn.Parameter(values, requires_grad=False))
    return model.to(generator.device)


def random_parts(family: str, seed: int, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype) -> dict:
    """All parts of a backbone of `full_sizes.FAMILIES`, by the names of `models.Backbone`, with CLIP's true tokenizers."""
    sizes, generator = FAMILIES[family], torch.Generator(device).manual_seed(seed)
    parts: dict = {"tokenizer_2": None, **empty_parts(family), "scheduler": EulerDiscreteScheduler(**sizes["scheduler"])}
    for key in ("text_encoder", "text_encoder_2", "vae", "unet"):
        if parts[key] is not None:
            parts[key] = fill(parts[key], generator, vae_dtype if key == "vae" else dtype)
        if key.startswith("text") and key in sizes:
            parts[key.replace("text_encoder", "tokenizer")] = clip_tokenizer(PADS[sizes[key]["pad_token_id"]])
    return parts
