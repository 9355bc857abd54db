"""Custom Diffusion's merge: keys and values of cross-attention that answer each subject's words exactly as its own fit does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mudi import adapters
from mudi.concept_grams import PROMPTS, counted
from mudi.conditioning import encode_prompts
from mudi.fusion import RIDGE, constrained_merge
from mudi.grams import TEXT
from mudi.merged import described, lora_states, store_merged, united_rows
from mudi.merging import DOWN, PREFIX, UP, State
from mudi.models import Backbone
from mudi.neutral_captions import neutral_captions
from mudi.records import Adapter, Combination, Subject

BATCH = 64


def constrained_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, *,
    method: str, seed: int = 0, ridge: float = RIDGE, details: Mapping | None = None,
) -> Adapter:  # fmt: skip
    """Merge K/V LoRAs with token rows into one adapter in `out_dir`, and leave it on the backbone.

    Source: Kumari et al., *Custom Diffusion* (arXiv 2212.04488), eq. 4, solved by `mudi.fusion.constrained_merge` on whole matrices.
    C: the states of "photo of a PHRASE" and "PHRASE" at the phrase and the end mark, V: what each subject's own matrix answers to
    them; K: all words of `neutral_captions` and their end marks, encoded by the bare model (released code: 200 captions of a
    public data set; ours are our own and more, with a ridge, for SDXL's width). The change W - W0 has no more rank than C has
    different rows, so a LoRA of that rank is the merge exactly, to rounding. Raises ValueError as `merged_adapter`
    does, and for a LoRA that sits elsewhere than on keys and values of cross-attention.
    """
    settings, states = lora_states(backbone, singles)
    layers = sorted(key.removesuffix(DOWN) for key in states[0] if key.endswith(DOWN))
    if elsewhere := [layer for layer in layers if not TEXT.fullmatch(layer.removeprefix(PREFIX))]:
        raise ValueError(f"{singles[0].path}: its LoRA sits on {elsewhere[0]} too; this merge takes keys and values of cross-attention")
    rows = united_rows(singles)
    concepts = [concept_states(backbone, single, subject) for single, subject in zip(singles, combination.subjects, strict=True)]
    adapters.detach(backbone)
    kept = equivalent_rows(neutral_states(backbone, [subject.class_noun for subject in combination.subjects]))
    constraints, state = torch.cat(concepts), {}
    for layer in layers:
        base = backbone.unet.get_submodule(layer.removeprefix(PREFIX)).weight.detach().double().cpu()
        values = torch.cat([c @ (base + own[layer + UP].double() @ own[layer + DOWN].double()).T for c, own in zip(concepts, states)])
        change = constrained_merge(base, kept, constraints, values, ridge) - base
        state |= _factors(layer, change, len(constraints))
    facts = {"seed": seed, **(details or {}), "merge": {
        "kind": "constrained", "ranks": [own.rank for own in settings], "ridge": ridge, "constraints": len(constraints),
        "singles": [described(single) for single in singles],
    }}  # fmt: skip
    return store_merged(backbone, state, settings[0].targets, rows, combination, out_dir, method=method, details=facts)


@torch.no_grad()
def concept_states(backbone: Backbone, single: Adapter, subject: Subject) -> torch.Tensor:
    """The states (m, D), float64 on the CPU, by which prompts name a subject, encoded with its own token row."""
    adapters.put_on(backbone, single)
    prompts = [prompt.format(subject.phrase) for prompt in PROMPTS]
    states = encode_prompts(backbone, prompts).states
    return states[counted(backbone, prompts, subject.phrase, "concept")].double().cpu()


@torch.no_grad()
def neutral_states(backbone: Backbone, class_nouns: Sequence[str]) -> torch.Tensor:
    """The states (n, D) of the neutral captions' words and end marks, float64 on the CPU."""
    captions = neutral_captions(class_nouns)
    parts = []
    for start in range(0, len(captions), BATCH):
        texts = captions[start : start + BATCH]
        parts.append(encode_prompts(backbone, texts).states[counted(backbone, texts, "", "real")].double().cpu())
    return torch.cat(parts)


def equivalent_rows(rows: torch.Tensor) -> torch.Tensor:
    """At most D rows with the Gram of these (n, D): all that the merge asks of thousands, and the same for every layer."""
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


def _factors(layer: str, change: torch.Tensor, rank: int) -> State:
    """A change (out, in) of at most that rank as A and B of exactly that rank, filled with zeros."""
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    u, s, v = u[:, :rank], s[:rank].sqrt(), v[:rank]
    missing = rank - len(s)
    down = torch.nn.functional.pad(s[:, None] * v, (0, 0, 0, missing))
    return {layer + DOWN: down.float(), layer + UP: torch.nn.functional.pad(u * s, (0, missing)).float()}
