"""Trained token rows: what the identifiers mean to the text encoders, learnt instead of a LoRA or beside one."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from mudi.backbone import Backbone
from mudi.text.mentions import token_id

# Identifier -> encoder -> its row (D,).
Rows = dict[str, dict[str, torch.Tensor]]


class PersonalRows(nn.Module):
    """A token embedding of which a few rows are parameters of their own, the others frozen.

    A lookup that puts the trained rows over the frozen ones leaves nothing to restore after a step; the
    optimiser sees K rows rather than the whole vocabulary. ids: int (K,); rows: float32 (K, D).
    """

    def __init__(self, base: nn.Embedding, ids: torch.Tensor, rows: torch.Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("ids", ids)
        self.rows = nn.Parameter(rows.detach().clone().float())

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, T, D) in the frozen table's dtype, of int (B, T)."""
        own = token_ids[..., None] == self.ids
        trained = (own.to(self.rows.dtype) @ self.rows).to(self.base.weight.dtype)
        return torch.where(own.any(-1, keepdim=True), trained, self.base(token_ids))


def attach_rows(backbone: Backbone, starts: Mapping[str, str | Mapping[str, torch.Tensor]]) -> None:
    """Give each identifier of `starts` a trained row in each text encoder, replacing those that are on.

    The row starts as given (encoder -> (D,)), or as the mean of the rows of the words given: its own
    identifier, as Custom Diffusion starts, or a class noun, as Textual Inversion starts. Departure: the
    originals add a new word to the vocabulary; here the identifier, a rare word, keeps its id, so that no
    tokenizer has to travel with the adapter.
    """
    detach_rows(backbone)
    for key, (tokenizer, encoder) in backbone.readers.items():
        base = encoder.get_input_embeddings()
        ids = [token_id(tokenizer, word) for word in starts]
        if len(set(ids)) != len(ids):
            raise ValueError(f"identifiers {', '.join(starts)} share a token; give each its own rare word")
        rows = [_start(base, tokenizer, start) if isinstance(start, str) else start[key] for start in starts.values()]
        widths = {row.shape[-1] for row in rows}
        if widths != {base.embedding_dim}:
            raise ValueError(f"rows of width {sorted(widths)} for a text encoder of {base.embedding_dim}; was it fitted on another model?")
        device = base.weight.device
        # Rows that are given lie on the CPU, those of words where the encoder is.
        together = torch.stack([row.to(device, torch.float32) for row in rows])
        encoder.set_input_embeddings(PersonalRows(base, torch.tensor(ids, device=device), together))


def _start(base: nn.Embedding, tokenizer, words: str) -> torch.Tensor:
    ids = tokenizer(words, add_special_tokens=False).input_ids
    return base.weight[torch.tensor(ids, device=base.weight.device)].float().mean(0)


def detach_rows(backbone: Backbone) -> None:
    """Give the encoders back the embeddings they were loaded with."""
    for _, encoder in backbone.readers.values():
        embeddings = encoder.get_input_embeddings()
        if isinstance(embeddings, PersonalRows):
            encoder.set_input_embeddings(embeddings.base)


def row_parameters(backbone: Backbone) -> list[nn.Parameter]:
    """The trained rows, (K, D) an encoder; none if none are attached."""
    found = [encoder.get_input_embeddings() for _, encoder in backbone.readers.values()]
    return [embeddings.rows for embeddings in found if isinstance(embeddings, PersonalRows)]


def read_rows(backbone: Backbone, identifiers: Sequence[str]) -> Rows:
    """The rows as they are, float32 on the CPU, in the order they were attached in; {} without any."""
    parameters = row_parameters(backbone)
    if not parameters:
        return {}
    values = {key: p.detach().float().cpu() for key, p in zip(backbone.readers, parameters, strict=True)}
    return {word: {key: value[i].clone() for key, value in values.items()} for i, word in enumerate(identifiers)}
