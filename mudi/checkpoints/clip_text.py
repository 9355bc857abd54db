"""CLIP: the cosine of a picture and a text, raw, neither scaled nor clipped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from mudi.embed import bit_pixels

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, CLIPModel, CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP with the tokenizer and the image processor saved with it."""

    name: str
    model: "CLIPModel"
    tokenizer: "CLIPTokenizer"
    processor: "BaseImageProcessor"


@torch.no_grad()
def text_cosines(clip: Clip, images: Sequence[np.ndarray], texts: Sequence[str], batch: int = 16) -> torch.Tensor:
    """Float32 (I, T) on the CPU in -1..1: of each image uint8 (h, w, 3) with each text.

    A text longer than the context (77 tokens in the published models) is truncated.
    batch: images in one forward pass; bounds memory and moves values by rounding only.
    """
    device, context = clip.model.device, clip.model.config.text_config.max_position_embeddings
    tokens = clip.tokenizer(list(texts), padding="max_length", truncation=True, max_length=context, return_tensors="pt").to(device)
    read = F.normalize(clip.model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output, dim=-1)
    rows = [torch.empty(0, len(texts))]
    for start in range(0, len(images), batch):
        pixels = torch.stack([bit_pixels(clip.processor, image) for image in images[start : start + batch]]).to(device)
        seen = F.normalize(clip.model.get_image_features(pixels).pooler_output, dim=-1)
        rows.append((seen @ read.T).float().cpu())
    return torch.cat(rows)
