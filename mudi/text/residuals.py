"""Residuals of words: what is added to the text encoders' states where a prompt names a subject (Cones 2)."""

from collections.abc import Mapping, Sequence

import torch

from mudi.backbone import Backbone, Residual
from mudi.text.spans import occurrences


def with_residuals(backbone: Backbone, texts: Sequence[str], states: torch.Tensor) -> torch.Tensor:
    """The states (B, T, D) of `texts` with the backbone's residuals added where their words stand.

    Residuals with the same words take the occurrences in turn. A text that does not name a subject gets nothing of it.
    """
    if not backbone.residuals:
        return states
    added = torch.zeros_like(states)
    for row, text in enumerate(texts):
        spans = occurrences(backbone, text, [residual.words for residual in backbone.residuals])
        for residual, span in zip(backbone.residuals, spans, strict=True):
            if span is not None:
                added[row, list(span)] += residual.values.to(states.device, states.dtype)
    return states + added


def stored_residuals(residuals: Sequence[Residual]) -> dict[str, torch.Tensor]:
    """Residuals as named tensors, "ORDER/KEY/WORDS"."""
    return {f"{i:03d}/{r.key}/{r.words}": r.values.detach().float().cpu().contiguous() for i, r in enumerate(residuals)}


def read_residuals(tensors: Mapping[str, torch.Tensor], backbone: Backbone) -> list[Residual]:
    """What `stored_residuals` made; ValueError if it does not fit this backbone's tokens and width."""
    width = backbone.unet.config.cross_attention_dim
    found = []
    for name, values in sorted(tensors.items()):
        _, key, words = name.split("/", 2)
        count = len(backbone.tokenizer(words, add_special_tokens=False).input_ids)
        if values.shape != (count, width):
            raise ValueError(
                f"residual of {key} for {words!r} is of shape {tuple(values.shape)}, and this model has {count} tokens of width {width} "
                "for it; was it fitted on another model?"
            )
        found.append(Residual(key=key, words=words, values=values))
    return found
