"""SDXL base, Stable Diffusion 1.5 and 2.1 as published: the settings of their parts, from which shapes and sizes follow."""

from collections.abc import Mapping


def _text(width: int, layers: int, heads: int, **others: object) -> dict[str, object]:
    return {
        "vocab_size": 49_408, "max_position_embeddings": 77, "bos_token_id": 49_406, "eos_token_id": 49_407, "hidden_size": width,
        "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads, **others,
    }  # fmt: skip


_TEXT_L = _text(768, layers=12, heads=12, hidden_act="quick_gelu", projection_dim=768, pad_token_id=49_407)
_TEXT_BIG_G = _text(1280, layers=32, heads=20, hidden_act="gelu", projection_dim=1280, pad_token_id=0)
# Of OpenCLIP ViT-H's 24 layers the published folder holds the 23 that are used.
_TEXT_H = _text(1024, layers=23, heads=16, hidden_act="gelu", projection_dim=512, pad_token_id=0)
_VAE = {
    "latent_channels": 4, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "force_upcast": True,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
_UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_UNET_SD = {
    **_UNET,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon",
    "timestep_spacing": "leading", "steps_offset": 1, "use_karras_sigmas": False, "interpolation_type": "linear",
}  # fmt: skip

SDXL = {
    "unet": {
        **_UNET,
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    "text_encoder": _TEXT_L,
    "text_encoder_2": _TEXT_BIG_G,
    "scheduler": _SCHEDULER,
}
SD15 = {
    "unet": {**_UNET_SD, "sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
    "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    "text_encoder": _TEXT_L,
    "scheduler": _SCHEDULER,
}
SD21 = {
    "unet": {
        **_UNET_SD, "sample_size": 96, "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": True,
        "upcast_attention": True,
    },
    "vae": {**_VAE, "sample_size": 768, "scaling_factor": 0.18215},
    "text_encoder": _TEXT_H,
    "scheduler": {**_SCHEDULER, "prediction_type": "v_prediction"},
}  # fmt: skip
# A family's parts by the names that diffusers' folders give them; without a second text encoder there is no key for it.
FAMILIES: Mapping[str, Mapping[str, Mapping]] = {"sdxl": SDXL, "sd15": SD15, "sd21": SD21}
