"""Custom Diffusion's merge: keys and values of cross-attention that answer each subject's words exactly as its own fit does."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mudi import adapters
from mudi.adapter_folder import DOWN, PREFIX, UP
from mudi.adapter_size import TEXT
from mudi.backbone import Backbone
from mudi.fusion import constrained_factors
from mudi.merging.adapters import MergedParts, MergeFacts, described, lora_states, store_merged, united_rows
from mudi.merging.concept_grams import counted
from mudi.merging.loras import State
from mudi.merging.neutral_captions import neutral_states
from mudi.merging.recipes import PROMPTS, Constrained
from mudi.records import Adapter, Combination, Subject
from mudi.text.conditioning import encode_prompts


def constrained_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, merge: Constrained, facts: MergeFacts
) -> Adapter:  # fmt: skip
    """Merge K/V LoRAs with token rows into one adapter in `out_dir`, and leave it on the backbone.

    Source: Kumari et al., *Custom Diffusion* (arXiv 2212.04488), eq. 4, solved by `mudi.fusion.constrained_factors`, where the UNet lies.
    C: the states of "photo of a PHRASE" and "PHRASE" at the phrase and the end mark, V: what each subject's own matrix answers to
    them; K: all words of `neutral_captions` and their end marks, encoded by the bare model (released code: 200 captions of a
    public data set; ours are our own and more, with a ridge, for SDXL's width). The change W - W0 of whole matrices has
    no more rank than C has different rows, so a LoRA of that rank is the merge exactly, to rounding. Raises ValueError as `merged_adapter`
    does, and for a LoRA that sits elsewhere than on keys and values of cross-attention.
    """
    settings, states = lora_states(backbone, singles)
    layers = sorted(key.removesuffix(DOWN) for key in states[0] if key.endswith(DOWN))
    if elsewhere := [layer for layer in layers if not TEXT.fullmatch(layer.removeprefix(PREFIX))]:
        raise ValueError(f"{singles[0].path}: its LoRA sits on {elsewhere[0]} too; this merge takes keys and values of cross-attention")
    rows = united_rows(singles)
    concepts = [concept_states(backbone, single, subject) for single, subject in zip(singles, combination.subjects, strict=True)]
    adapters.detach(backbone)
    neutral, constraints = neutral_states(backbone, [subject.class_noun for subject in combination.subjects]), torch.cat(concepts)
    factors, state = constrained_factors(neutral, constraints, merge.ridge), {}
    for layer in layers:
        base = backbone.unet.get_submodule(layer.removeprefix(PREFIX)).weight.detach().double()
        values = torch.cat([_answers(own, layer, base, named) for own, named in zip(states, concepts)])
        up, down = factors(base, values)
        state |= {layer + DOWN: down.float().cpu(), layer + UP: up.float().cpu()}
    noted = {
        "kind": merge.name, "ranks": [own.rank for own in settings], "ridge": merge.ridge, "constraints": len(constraints),
        "singles": [described(single) for single in singles],
    }  # fmt: skip
    return store_merged(backbone, MergedParts(state, settings[0].targets, rows), combination, out_dir, facts, noted)


@torch.no_grad()
def concept_states(backbone: Backbone, single: Adapter, subject: Subject) -> torch.Tensor:
    """The states (m, D), float64, by which prompts name a subject, encoded with its own token row."""
    adapters.put_on(backbone, single)
    prompts = [prompt.format(subject.phrase) for prompt in PROMPTS]
    states = encode_prompts(backbone, prompts).states
    return states[counted(backbone, prompts, subject.phrase, "concept")].double()


def _answers(own: State, layer: str, base: torch.Tensor, named: torch.Tensor) -> torch.Tensor:
    """What a subject's own matrix, the base's (out, in) and its LoRA, makes of its states (m, in): (m, out)."""
    up, down = own[layer + UP].to(base), own[layer + DOWN].to(base)
    return named @ base.T + (named @ down.T) @ up.T
