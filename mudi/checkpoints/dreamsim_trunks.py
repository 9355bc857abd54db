"""DreamSim from a local folder: one or more vision transformers whose features, concatenated, are the embedding.

The published loader (dreamsim 0.2.1) downloads pickles and runs code from a moving branch, so the model is put
together here from the package's own transformer class. A folder holds `config.json`, which lists the trunks,
and `model.safetensors`. LoRA weights are expected merged: the result is the same and a pass needs fewer kernels.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from dreamsim.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from dreamsim.feature_extraction.load_clip_as_dino import QuickGELU
from dreamsim.feature_extraction.vision_transformer import VisionTransformer
from torch import nn

from mudi.checkpoints.weights_folder import CONFIG, read_config, read_weights, write_model

ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """One transformer. Without `projection_width` its feature is the class token after the last block, before
    the final norm (DreamSim's "cls"); with it, the normed class token times a projection ("embedding").
    `norm_before_blocks` is CLIP's extra LayerNorm; mean and std normalise pixels in 0..1."""

    name: str
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    norm_eps: float = 1e-6
    activation: str = "gelu"
    norm_before_blocks: bool = False
    projection_width: int | None = None
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD


@dataclass(frozen=True, kw_only=True)
class DreamSimConfig:
    """The side in pixels that images are resized to, and the trunks in the order of concatenation."""

    image_size: int
    trunks: tuple[TrunkConfig, ...]


VIT_B16 = {"patch_size": 16, "width": 768, "depth": 12, "heads": 12, "mlp_ratio": 4.0}
CLIP_B16 = {
    **VIT_B16, "norm_eps": 1e-5, "norm_before_blocks": True, "projection_width": 512, "mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD,
}  # fmt: skip
ENSEMBLE = DreamSimConfig(
    image_size=224,
    trunks=(
        TrunkConfig(name="dino_vitb16", **VIT_B16),
        TrunkConfig(name="clip_vitb16", **CLIP_B16, activation="quick_gelu"),
        TrunkConfig(name="open_clip_vitb16", **CLIP_B16),
    ),
)


class Trunk(nn.Module):
    """A vision transformer and, for CLIP, the projection of its class token."""

    def __init__(self, config: TrunkConfig, image_size: int) -> None:
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise ValueError(f"trunk {config.name}: activation {config.activation!r} is unknown; use one of {', '.join(ACTIVATIONS)}")
        norm = partial(nn.LayerNorm, eps=config.norm_eps)
        self.vit = VisionTransformer(
            img_size=[image_size], patch_size=config.patch_size, embed_dim=config.width, depth=config.depth, num_heads=config.heads,
            mlp_ratio=config.mlp_ratio, qkv_bias=True, norm_layer=norm,
        )  # fmt: skip
        for block in self.vit.blocks:
            block.mlp.act = ACTIVATIONS[config.activation]()
        if config.norm_before_blocks:
            self.vit.pos_drop = norm(config.width)
        self.projection = None
        if config.projection_width is not None:
            self.projection = nn.Parameter(torch.randn(config.width, config.projection_width) * config.width**-0.5)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, side, side) in 0..1 to features (N, D)."""
        tokens = self.vit.prepare_tokens((images - self.mean) / self.std)
        for block in self.vit.blocks:
            tokens = block(tokens)
        if self.projection is None:
            return tokens[:, 0]
        return self.vit.norm(tokens)[:, 0] @ self.projection


class DreamSim(nn.Module):
    """The concatenated features of all trunks, minus their mean, at unit length (`normalize_embeds`)."""

    def __init__(self, config: DreamSimConfig) -> None:
        super().__init__()
        self.config = config
        self.width = sum(trunk.projection_width or trunk.width for trunk in config.trunks)
        self.trunks = nn.ModuleList(Trunk(trunk, config.image_size) for trunk in config.trunks)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, side, side) in 0..1 to (N, width). Unlike the published `embed`, a batch of one stays a batch."""
        features = torch.cat([trunk(images) for trunk in self.trunks], dim=-1)
        features = features - features.mean(dim=-1, keepdim=True)
        return features / features.norm(dim=-1, keepdim=True)


def save_dreamsim(folder: Path, model: DreamSim, dtype: torch.dtype | None = None) -> None:
    """Writes config.json and model.safetensors, the weights in `dtype` if one is given."""
    write_model(folder, asdict(model.config), model, dtype)


def read_dreamsim(folder: Path) -> DreamSim:
    """The float32 model of a folder that `save_dreamsim` wrote."""
    config = read_config(folder)
    try:
        trunks = tuple(TrunkConfig(**trunk) for trunk in config["trunks"])
        model = DreamSim(DreamSimConfig(image_size=config["image_size"], trunks=trunks))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / CONFIG} does not describe a DreamSim ({error}); expected image_size and trunks with the fields of TrunkConfig"
        ) from error
    return read_weights(folder, model)
