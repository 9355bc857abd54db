"""SDXL base at its full size with seeded random weights: for measuring speed and memory, and for tests without downloads."""

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

# Keeps activations finite through all 70 transformer blocks in bfloat16 and float16.
WEIGHT_STD = 0.02

UNET = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "sample_size": 1024,
    "latent_channels": 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "scaling_factor": 0.13025,
    "force_upcast": True,
}
TEXT = {"vocab_size": 49_408, "max_position_embeddings": 77, "bos_token_id": 49_406, "eos_token_id": 49_407}
TEXT_L = {
    **TEXT,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "pad_token_id": 49_407,
}
TEXT_BIG_G = {
    **TEXT,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
    "pad_token_id": 0,
}
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "use_karras_sigmas": False,
    "interpolation_type": "linear",
}


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
