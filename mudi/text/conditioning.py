"""Prompts to what the UNet is told: states of the text encoders, which of them are words, and SDXL's pooled text and sizes."""

from dataclasses import dataclass

import torch

from mudi.backbone import Backbone
from mudi.options import Padding
from mudi.text.residuals import with_residuals


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told. states: (B, T, D); pooled: (B, D2) and time_ids: (B, 6), None without SDXL's added embedding;
    mask: bool (B, T), False where a state is padding that attention must not see, or None if there is none."""

    states: torch.Tensor
    pooled: torch.Tensor | None
    time_ids: torch.Tensor | None
    mask: torch.Tensor | None = None

    def rows(self, index: torch.Tensor | list[int]) -> "Conditioning":
        """The given rows, in the given order, repeated where an index repeats."""
        return Conditioning(*(None if part is None else part[index] for part in (self.states, self.pooled, self.time_ids, self.mask)))


def join(*parts: Conditioning) -> Conditioning:
    """One batch from several; of different lengths the shorter ones get states that no attention sees."""
    pooled, time_ids = (
        None if getattr(parts[0], name) is None else torch.cat([getattr(p, name) for p in parts]) for name in ("pooled", "time_ids")
    )
    longest = max(p.states.shape[1] for p in parts)
    if all(p.mask is None and p.states.shape[1] == longest for p in parts):
        return Conditioning(torch.cat([p.states for p in parts]), pooled, time_ids)
    states = [torch.nn.functional.pad(p.states, (0, 0, 0, longest - p.states.shape[1])) for p in parts]
    masks = [p.states.new_ones(p.states.shape[:2], dtype=torch.bool) if p.mask is None else p.mask for p in parts]
    masks = [torch.nn.functional.pad(mask, (0, longest - mask.shape[1])) for mask in masks]
    return Conditioning(torch.cat(states), pooled, time_ids, torch.cat(masks))


def both_sides(negative: Conditioning, positive: Conditioning) -> Conditioning:
    """The batch of guidance: a row of `negative`, which has as many as `positive` or one, for each of `positive`, and then these."""
    count = len(positive.states)
    return join(negative.rows([0] * count if len(negative.states) == 1 else list(range(count))), positive)


def encode_prompts(backbone: Backbone, texts: list[str], padding: Padding = "full", residuals: bool = True) -> Conditioning:
    """The conditions of `texts`, cut at the encoders' context, as diffusers does, with the backbone's residuals added.

    "full" padding fills each up to the context and lets attention see it all. "adaptive" leaves only the words and both
    marks: the encoders are causal, so the states of words are the same with and without padding behind them, and what
    changes is that no attention flows to padding, an emphasis on the words (the report's version 2 of Cones2). It does
    not lengthen the context: what is cut stays cut.

    time_ids are (resolution, resolution, 0, 0, resolution, resolution): uncropped and full size, as in MuDI's released
    training script. SDXL's states are the penultimate ones of both encoders; Stable Diffusion 1.5 and 2.1 (whose
    published encoder already lacks its last layer) take the last ones, normalised. The encoders are frozen, so gradients
    flow into trained token rows only.
    """
    states, pooled, lengths = [], None, []
    two = backbone.text_encoder_2 is not None
    for tokenizer, encoder in backbone.readers.values():
        context = encoder.config.max_position_embeddings
        ids = tokenizer(texts, padding="max_length", max_length=context, truncation=True, return_tensors="pt").input_ids
        # Not by the padding's id: in some tokenizers that is the end mark, which belongs to the text.
        lengths = [len(words) for words in tokenizer(texts, max_length=context, truncation=True).input_ids]
        output = encoder(ids.to(backbone.device), output_hidden_states=two)
        states.append(output.hidden_states[-2] if two else output.last_hidden_state)
        pooled = output.text_embeds if two and hasattr(output, "text_embeds") else None
    joined = torch.cat(states, -1).to(backbone.dtype)
    if residuals:
        joined = with_residuals(backbone, texts, joined)
    mask = None
    if padding == "adaptive":
        joined = joined[:, : max(lengths)]
        if min(lengths) < max(lengths):
            mask = torch.arange(max(lengths), device=joined.device) < torch.tensor(lengths, device=joined.device)[:, None]
    if pooled is None:
        return Conditioning(joined, None, None, mask)
    side = backbone.resolution
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], dtype=backbone.dtype, device=backbone.device)
    return Conditioning(joined, pooled.to(backbone.dtype), time_ids.expand(len(texts), -1), mask)


def encode_negative(backbone: Backbone, text: str | None, padding: Padding = "full") -> Conditioning:
    """The unconditional side: an encoded negative prompt; if there is none, zeros for SDXL and the empty prompt for others.

    Zeros are what SDXL was released with (force_zeros_for_empty_prompt); an empty string is encoded. Residuals are
    never added here: guidance must steer towards the subjects, not away from them.
    """
    encoded = encode_prompts(backbone, [text or ""], padding, residuals=False)
    if text is not None or encoded.pooled is None:
        return encoded
    return Conditioning(torch.zeros_like(encoded.states), torch.zeros_like(encoded.pooled), encoded.time_ids, encoded.mask)


def cut_tokens(backbone: Backbone, text: str) -> int:
    """How many tokens of `text` do not fit the context and are ignored."""
    context = backbone.text_encoder.config.max_position_embeddings
    return max(0, len(backbone.tokenizer(text).input_ids) - context)
