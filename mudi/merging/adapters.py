"""One stored adapter out of the adapters of single subjects of one base model: their LoRAs merged, their token rows side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mudi import adapter_folder, adapters
from mudi.adapter_folder import DOWN, Origin
from mudi.backbone import Backbone
from mudi.merging.concept_grams import subject_grams
from mudi.merging.loras import State, merge_fusion, merge_peft, merge_sum
from mudi.merging.neutral_captions import neutral_grams
from mudi.merging.recipes import Fusion, Mean, Merge, Sum, Svd, Union
from mudi.options import LoraSettings
from mudi.records import Adapter, Combination
from mudi.text import tokens


@dataclass(frozen=True, kw_only=True)
class MergeFacts:
    """What a manifest says of a merge that the merged adapters do not: the method, its seed, and details."""

    method: str
    seed: int = 0
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class MergedParts:
    """A merge before it is stored: a LoRA on `targets` (B A is the update: alpha equals the rank), an empty state for none, and rows."""

    state: State
    targets: Sequence[str]
    rows: tokens.Rows


def merged_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, merge: Merge, facts: MergeFacts
) -> Adapter:  # fmt: skip
    """Merge the adapters of the combination's subjects, in their order, into one stored in `out_dir`, and leave it on the backbone.

    merge: one of `mudi.merging.recipes` that takes LoRAs of any places. Without a `rank` the merge has the sum of the ranks.
    `combination` names the subjects as the adapters were fitted. The manifest holds what was merged and, for
    fusion, each layer's error a subject. Raises ValueError for adapters of different bases or places, and for subjects that
    share a trained word.
    """
    settings, states = lora_states(backbone, singles)
    rows = united_rows(singles)
    noted: dict = {"kind": merge.name, "ranks": [own.rank for own in settings], "singles": [described(single) for single in singles]}
    if isinstance(merge, Fusion):
        state, of_fusion = _fused(backbone, singles, states, combination, merge, settings[0].targets)
        noted |= of_fusion
    elif isinstance(merge, Sum | Mean):
        state = merge_sum(states, [1.0 if isinstance(merge, Sum) else 1 / len(states)] * len(states))
    elif isinstance(merge, Svd):
        state = merge_peft(states, kind=merge.name, rank=merge.rank, seed=facts.seed)
    else:
        state = merge_peft(states, kind=merge.name, rank=merge.rank, density=merge.density, seed=facts.seed)
        noted |= {"density": merge.density}
    return store_merged(backbone, MergedParts(state, settings[0].targets, rows), combination, out_dir, facts, noted)


def _fused(
    backbone: Backbone, singles: Sequence[Adapter], states: Sequence[State], combination: Combination, merge: Fusion,
    targets: Sequence[str],
) -> tuple[State, dict]:  # fmt: skip
    neutral = None
    if merge.neutral_weight:
        neutral = neutral_grams(backbone, [subject.class_noun for subject in combination.subjects], targets)
    pairs = zip(singles, combination.subjects, strict=True)
    collected = [subject_grams(backbone, single, subject, merge.positions) for single, subject in pairs]
    state, errors = merge_fusion(states, collected, ridge=merge.ridge, prior=neutral, prior_weight=merge.neutral_weight)
    noted = {"neutral_weight": merge.neutral_weight} if merge.neutral_weight else {}
    return state, noted | {
        "positions": merge.positions, "ridge": merge.ridge, "gram_bytes": sum(s.nbytes for s in collected[0].sums.values()),
        "error": [_summary([of_layer[i] for of_layer in errors.values()]) for i in range(len(singles))], "errors": errors,
    }  # fmt: skip


def united_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, merge: Union, facts: MergeFacts
) -> Adapter:  # fmt: skip
    """The token rows of the combination's subjects side by side in one adapter without a LoRA, stored in `out_dir` and left on.

    Each row is what its own fit made it, bit for bit, and no other stands in a prompt that names that subject alone. Raises
    ValueError as `merged_adapter` does, and for an adapter with a LoRA, which would be lost.
    """
    for single in singles:
        require_base(backbone, single)
        if adapter_folder.read_manifest(single.path)["lora"] is not None:
            raise ValueError(f"{single.path}: holds a LoRA, which a union of token rows would lose; use one of the merges")
    noted = {"kind": merge.name, "singles": [described(single) for single in singles]}
    return store_merged(backbone, MergedParts({}, (), united_rows(singles)), combination, out_dir, facts, noted)


def store_merged(
    backbone: Backbone, merged: MergedParts, combination: Combination, out_dir: Path, facts: MergeFacts, noted: Mapping[str, object]
) -> Adapter:  # fmt: skip
    """Put a merge on the backbone and store it in `out_dir`; `noted` is what the manifest says of how it was merged."""
    adapters.detach(backbone)
    settings = None
    if merged.state:
        rank = len(next(value for key, value in merged.state.items() if key.endswith(DOWN)))
        settings = LoraSettings(rank=rank, alpha=rank, targets=tuple(merged.targets))
        adapters.put_matrices(backbone.unet, settings, merged.state, origin="merged LoRA")
    if merged.rows:
        tokens.attach_rows(backbone, merged.rows)
    parameters = sum(p.numel() for p in [*adapters.parameters(backbone.unet), *tokens.row_parameters(backbone)])
    details = {**adapters.base_facts(backbone), "parameters": parameters, "seed": facts.seed, **facts.details, "merge": noted}
    origin = Origin(method=facts.method, combination=combination.key, details=details)
    return adapters.save(backbone, out_dir, settings, origin, identifiers=list(merged.rows))


def lora_states(backbone: Backbone, singles: Sequence[Adapter]) -> tuple[list[LoraSettings], list[State]]:
    """The LoRAs of adapters that may be merged, each with its scale alpha / rank in A.

    ValueError unless all were fitted on `backbone`, in its precision, and sit on the same layers.
    """
    settings, states = [], []
    for single in singles:
        require_base(backbone, single)
        own, state = adapters.read_lora(single)
        settings.append(own)
        states.append({key: value * (own.alpha / own.rank) if key.endswith(DOWN) else value for key, value in state.items()})
        if settings[0].targets != own.targets:
            raise ValueError(
                f"{single.path}: its LoRA sits on {', '.join(own.targets)} and that of {singles[0].path} on "
                f"{', '.join(settings[0].targets)}; fit both with one method"
            )
    return settings, states


def require_base(backbone: Backbone, single: Adapter) -> None:
    """ValueError unless the adapter was fitted on `backbone`, in its precision."""
    base, manifest = adapters.base_facts(backbone), adapter_folder.read_manifest(single.path)
    for key, wanted in base.items():
        # One model may lie in two folders, so what counts is its weights.
        if key != "backbone" and manifest.get(key) != wanted:
            raise ValueError(
                f"{single.path}: was fitted on {manifest.get('backbone')!r} with {key} {manifest.get(key)!r} and the merge is for "
                f"{base['backbone']!r} with {wanted!r}; merge adapters of one base model and precision"
            )


def united_rows(singles: Sequence[Adapter]) -> tokens.Rows:
    """The token rows of all adapters; ValueError if two of them trained one word."""
    rows: tokens.Rows = {}
    for single in singles:
        own = adapters.stored_rows(single)
        if shared := sorted(set(rows) & set(own)):
            raise ValueError(f"{single.path}: trains the word {shared[0]!r} as another subject does; give each subject its own identifier")
        rows |= own
    return rows


def described(single: Adapter) -> dict[str, str]:
    """What a merge's manifest says of an adapter that went into it."""
    return {"subject": single.combination, "method": single.method, "sha256": single.sha256}


def _summary(errors: Sequence[float | None]) -> dict[str, float | None]:
    """A subject's errors over the layers on which its own update does something."""
    known = [error for error in errors if error is not None]
    return {"median": median(known) if known else None, "largest": max(known, default=None)}
