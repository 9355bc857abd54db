"""ImageReward's network: a picture and a text to one number, by BLIP's two encoders and a linear head.

Source: ImageReward (arXiv 2304.05977) and its package image-reward 1.5. A ViT (published: L/16 at 224) reads the picture,
a BERT (base) reads the text and attends to the picture's tokens in every layer, and its first token goes through the head; that is the
tokenizer's own start mark, not the [ENC] that BLIP adds to the vocabulary.
A folder holds `config.json`, the sizes of `RewardConfig`; `model.safetensors`; and the files of a tokenizer. The published
`ImageReward.pt` becomes one by `save_reward(folder, converted(torch.load(...)), ...)` beside the vocabulary of bert-base-uncased.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import nn

from mudi.checkpoints.weights_folder import CONFIG, read_config, read_weights, write_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# CLIP's, as the package uses them.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# After the head's first three layers, so that its layers have the published indices 0, 2, 4, 6 and 7.
HEAD_DROPOUT = (0.2, 0.2, 0.1)
RENAMED = {
    "blip.visual_encoder.cls_token": "vision.embeddings.class_embedding",
    "blip.visual_encoder.pos_embed": "vision.embeddings.position_embedding",
    "blip.visual_encoder.patch_embed.proj.": "vision.embeddings.patch_embedding.",
    "blip.visual_encoder.norm.": "vision.post_layernorm.",
    "blip.visual_encoder.blocks.": "vision.encoder.layers.",
    "blip.text_encoder.": "text.",
    "mlp.layers.": "head.",
}
RENAMED_IN_BLOCKS = {
    ".norm1.": ".layer_norm1.", ".norm2.": ".layer_norm2.", ".attn.qkv.": ".self_attn.qkv.", ".attn.proj.": ".self_attn.projection.",
}  # fmt: skip
# What the published file holds beside the reward: projections of BLIP's contrastive loss, and a constant table of positions.
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The sizes of the network; the defaults are the published ones.

    context: tokens of a text, longer ones are truncated. head: widths between the text's and the single output.
    mean, std: what standardises the head's output, as the package has them.
    """

    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    vision_mlp: int = 4096
    vocabulary: int = 30524
    context: int = 35
    positions: int = 512
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_mlp: int = 3072
    head: tuple[int, int, int, int] = (1024, 128, 64, 16)
    mean: float = 0.16717362830052426
    std: float = 1.0333394966054072


class BlipReward(nn.Module):
    """The network. The head has no activations between its layers, only dropout in training, as published."""

    def __init__(self, config: RewardConfig):
        # Imported here: they take seconds, and whoever lists the metrics needs none of them.
        from transformers.models.blip.configuration_blip import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        self.config = config
        # Where transformers' defaults differ from the original: epsilon 1e-6 in the picture's norms, 12 heads in the text's.
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=config.vision_width, intermediate_size=config.vision_mlp, num_hidden_layers=config.vision_layers,
                num_attention_heads=config.vision_heads, image_size=config.image_size, patch_size=config.patch_size,
                hidden_act="gelu", layer_norm_eps=1e-6,
            )
        )  # fmt: skip
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=config.vocabulary, hidden_size=config.text_width, encoder_hidden_size=config.vision_width,
                intermediate_size=config.text_mlp, num_hidden_layers=config.text_layers, num_attention_heads=config.text_heads,
                max_position_embeddings=config.positions, hidden_act="gelu", layer_norm_eps=1e-12, is_decoder=True,
                bos_token_id=None, eos_token_id=None, sep_token_id=None,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
        widths = (config.text_width, *config.head)
        linears = [nn.Linear(a, b) for a, b in pairwise((*widths, 1))]
        dropped = [layer for linear, p in zip(linears, HEAD_DROPOUT, strict=False) for layer in (linear, nn.Dropout(p))]
        self.head = nn.Sequential(*dropped, *linears[len(HEAD_DROPOUT) :])

    def see(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens (B, P + 1, vision width) of normalised pixels (B, 3, S, S)."""
        return self.vision(pixel_values=pixels).last_hidden_state

    def read(self, seen: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The text's last states (B, T, text width), of ids and mask, long (B, T), that attend to pictures as `see` gives them."""
        pictures = seen.new_ones(seen.shape[:2]).long()
        return self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, encoder_attention_mask=pictures).last_hidden_state

    def forward(self, seen: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards (B,) of pictures and texts as `read` takes them."""
        return (self.head(self.read(seen, ids, mask)[:, 0])[:, 0] - self.config.mean) / self.config.std


@dataclass(frozen=True, kw_only=True)
class Reward:
    """A loaded network with its tokenizer."""

    name: str
    model: BlipReward
    tokenizer: "PreTrainedTokenizerBase"


@torch.no_grad()
def rewards(reward: Reward, images: Sequence[np.ndarray], texts: Sequence[str], batch: int = 16) -> torch.Tensor:
    """Float32 (I, T) on the CPU: the reward of each image uint8 (h, w, 3) with each text.

    batch: images in one forward pass; bounds memory and moves values by rounding only.
    """
    model, config = reward.model, reward.model.config
    device = next(model.parameters()).device
    tokens = reward.tokenizer(list(texts), padding="max_length", truncation=True, max_length=config.context, return_tensors="pt").to(device)
    rows = [torch.empty(0, len(texts))]
    for start in range(0, len(images), batch):
        pixels = torch.stack([pixels_of(image, config.image_size) for image in images[start : start + batch]])
        seen = model.see(pixels.to(device))
        columns = [
            model(seen, ids.expand(len(seen), -1), mask.expand(len(seen), -1))
            for ids, mask in zip(tokens.input_ids, tokens.attention_mask, strict=True)
        ]
        rows.append(torch.stack(columns, 1).float().cpu())
    return torch.cat(rows)


def pixels_of(image: np.ndarray, side: int) -> torch.Tensor:
    """Float (3, side, side) of uint8 (h, w, 3): shorter side resized (bicubic, by Pillow), centre cropped, normalised, as published."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    size = (int(side * width / shorter), int(side * height / shorter))
    left, top = (round((extent - side) / 2) for extent in size)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def converted(published: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of a `BlipReward` from the published layout, in which queries, keys and values are packed the same way.

    Raises ValueError naming an entry that the layout does not have.
    """
    state = {}
    for key, value in published.items():
        if key.startswith(UNUSED):
            continue
        old = next((prefix for prefix in RENAMED if key.startswith(prefix)), None)
        if old is None:
            raise ValueError(f"entry {key!r} is no part of ImageReward; expected names beginning with {', '.join(RENAMED)}")
        name = RENAMED[old] + key.removeprefix(old)
        if old == "blip.visual_encoder.blocks.":
            for part, ours in RENAMED_IN_BLOCKS.items():
                name = name.replace(part, ours)
        state[name] = value
    return state


def save_reward(
    folder: Path, config: RewardConfig, state: Mapping[str, torch.Tensor], tokenizer: "PreTrainedTokenizerBase",
    dtype: torch.dtype | None = None,
) -> None:  # fmt: skip
    """Writes config.json, model.safetensors in `dtype` if one is given, and the tokenizer."""
    model = BlipReward(config)
    model.load_state_dict(dict(state))
    write_model(folder, asdict(config), model, dtype)
    tokenizer.save_pretrained(folder)


def read_reward(folder: Path) -> BlipReward:
    """The float32 network of a folder that `save_reward` wrote."""
    stored = read_config(folder)
    try:
        config = RewardConfig(**(stored | {"head": tuple(stored.get("head", ()))}))
        model = BlipReward(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} does not describe a BlipReward ({error}); write the folder with save_reward") from error
    return read_weights(folder, model)
