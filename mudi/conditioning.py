"""Prompts to SDXL's condition: penultimate states of both text encoders and the pooled second output."""

from dataclasses import dataclass

import torch

from mudi.models import Backbone


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told. states: (B, T, D); pooled: (B, D2); time_ids: (B, 6)."""

    states: torch.Tensor
    pooled: torch.Tensor
    time_ids: torch.Tensor

    def rows(self, index: torch.Tensor | list[int]) -> "Conditioning":
        """The given rows, in the given order, repeated where an index repeats."""
        return Conditioning(self.states[index], self.pooled[index], self.time_ids[index])


def join(*parts: Conditioning) -> Conditioning:
    """One batch from several; token counts must agree, as they do for prompts padded to the full context."""
    return Conditioning(*(torch.cat([getattr(p, field) for p in parts]) for field in ("states", "pooled", "time_ids")))


def encode_prompts(backbone: Backbone, texts: list[str]) -> Conditioning:
    """The conditions of `texts`, each padded to the encoders' context and cut there (as diffusers does).

    time_ids are (resolution, resolution, 0, 0, resolution, resolution): uncropped and full size, as in
    MuDI's released training script. The encoders are frozen, so gradients flow into trained token rows only.
    """
    states, pooled = [], None
    encoders = ((backbone.tokenizer, backbone.text_encoder), (backbone.tokenizer_2, backbone.text_encoder_2))
    for tokenizer, encoder in encoders:
        context = encoder.config.max_position_embeddings
        ids = tokenizer(texts, padding="max_length", max_length=context, truncation=True, return_tensors="pt").input_ids
        output = encoder(ids.to(backbone.device), output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = getattr(output, "text_embeds", None)
    side = backbone.resolution
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=backbone.dtype, device=backbone.device)
    joined = torch.cat(states, -1).to(backbone.dtype)
    return Conditioning(joined, pooled.to(backbone.dtype), time_ids.expand(len(texts), -1))


def encode_negative(backbone: Backbone, text: str | None) -> Conditioning:
    """The unconditional side: an encoded negative prompt, or zeros if there is none.

    Zeros are what SDXL was released with (force_zeros_for_empty_prompt); an empty string is encoded.
    """
    encoded = encode_prompts(backbone, [text or ""])
    if text is not None:
        return encoded
    return Conditioning(torch.zeros_like(encoded.states), torch.zeros_like(encoded.pooled), encoded.time_ids)


def cut_tokens(backbone: Backbone, text: str) -> int:
    """How many tokens of `text` do not fit the context and are ignored."""
    context = backbone.text_encoder.config.max_position_embeddings
    return max(0, len(backbone.tokenizer(text).input_ids) - context)
