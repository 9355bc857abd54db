"""SDXL base at its full size with seeded random weights: for measuring speed and memory, and for tests without downloads."""

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from mudi.sdxl_sizes import SCHEDULER, TEXT_BIG_G, TEXT_L, UNET, VAE

# Keeps activations finite through all 70 transformer blocks in bfloat16 and float16.
WEIGHT_STD = 0.02


def empty_unet() -> UNet2DConditionModel:
    """The UNet, 2567.46 M parameters, on the meta device: shapes without memory."""
    with init_empty_weights():
        return UNet2DConditionModel(**UNET)


def empty_vae() -> AutoencoderKL:
    """The autoencoder on the meta device."""
    with init_empty_weights():
        return AutoencoderKL(**VAE)


def empty_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """CLIP ViT-L/14's and OpenCLIP bigG's text towers on the meta device."""
    with init_empty_weights():
        return CLIPTextModel(CLIPTextConfig(**TEXT_L)), CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_BIG_G))


def scheduler() -> EulerDiscreteScheduler:
    """SDXL base's scheduler."""
    return EulerDiscreteScheduler(**SCHEDULER)


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
