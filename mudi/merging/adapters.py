"""One stored adapter out of the adapters of single subjects of one base model: their LoRAs merged, their token rows side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from mudi import adapter_folder, adapters
from mudi.adapter_folder import DOWN
from mudi.backbone import Backbone
from mudi.merging.concept_grams import POSITIONS, Positions, subject_grams
from mudi.merging.grams import Grams
from mudi.merging.loras import State, merge_fusion, merge_peft, merge_sum
from mudi.options import LoraSettings
from mudi.records import Adapter, Combination
from mudi.text import tokens
from mudi.work_folder import clear_work

Kind = Literal["sum", "mean", "svd", "ties_svd", "dare_linear_svd", "fusion"]
KINDS = ("sum", "mean", "svd", "ties_svd", "dare_linear_svd", "fusion")
DENSITY = 0.5
FUSION_RIDGE = 1e-2


def merged_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, kind: Kind = "sum", *,
    method: str, seed: int = 0, rank: int | None = None, density: float = DENSITY, ridge: float = FUSION_RIDGE,
    positions: Positions = "real", neutral: Grams | None = None, neutral_weight: float = 0.0, details: Mapping | None = None,
) -> Adapter:  # fmt: skip
    """Merge the adapters of the combination's subjects, in their order, into one stored in `out_dir`, and leave it on the backbone.

    kind: "sum" adds the updates (weight 1 each), "mean" divides that by their number; "svd", "ties_svd" and
    "dare_linear_svd" are peft's, to `rank` or, if not given, the sum of the ranks, at which "svd" equals "sum"; "fusion" is Mix-of-Show's
    gradient fusion on `subject_grams`, which `positions` and `ridge` belong to. Kinds without a `rank` have the sum of the ranks.
    Departure: the ridge of fusion is 1e-2 of the mean diagonal and not next to nothing. The Grams of one subject's prompts do not
    cover those of both together, and where they are weak the exact optimum extrapolates without bound; the released code's 50 and
    500 steps of L-BFGS end before they get there. (Two dogs of the miniature, mean D&C at ridges 1e-6, 1e-4, 1e-2 and 1e-1:
    0.10, 0.12, 0.58 and 0.26.)
    With a `neutral_weight` mu, fusion minimises its objective plus mu times the mean squared change of what the layers answer to
    the inputs of `neutral` (`mudi.merging.neutral_grams`; released code: none), where each subject's own term is a mean as well.
    `combination` names the subjects as the adapters were fitted. The manifest holds what was merged and, for
    fusion, each layer's error a subject. Raises ValueError for adapters of different bases or places, for subjects that
    share a trained word, and for a kind that does not exist.
    """
    check_kind(kind, positions, rank, density)
    settings, states = lora_states(backbone, singles)
    rows = united_rows(singles)
    noted: dict = {"kind": kind, "ranks": [own.rank for own in settings], "singles": [described(single) for single in singles]}
    if kind == "fusion":
        collected = [
            subject_grams(backbone, single, subject, positions) for single, subject in zip(singles, combination.subjects, strict=True)
        ]
        state, errors = merge_fusion(states, collected, ridge=ridge, prior=neutral, prior_weight=neutral_weight)
        noted |= {"neutral_weight": neutral_weight} if neutral_weight else {}
        noted |= {
            "positions": positions, "ridge": ridge, "gram_bytes": sum(s.nbytes for s in collected[0].sums.values()),
            "error": [_summary([of_layer[i] for of_layer in errors.values()]) for i in range(len(singles))], "errors": errors,
        }  # fmt: skip
    elif kind in ("sum", "mean"):
        state = merge_sum(states, [1.0 if kind == "sum" else 1 / len(states)] * len(states))
    else:
        state = merge_peft(states, kind=kind, rank=rank, density=density, seed=seed)
        noted |= {} if kind == "svd" else {"density": density}
    facts = {"seed": seed, **(details or {}), "merge": noted}
    return store_merged(backbone, state, settings[0].targets, rows, combination, out_dir, method=method, details=facts)


def united_adapter(
    backbone: Backbone, singles: Sequence[Adapter], combination: Combination, out_dir: Path, *,
    method: str, seed: int = 0, details: Mapping | None = None,
) -> Adapter:  # fmt: skip
    """The token rows of the combination's subjects side by side in one adapter without a LoRA, stored in `out_dir` and left on.

    Each row is what its own fit made it, bit for bit, and no other stands in a prompt that names that subject alone. Raises
    ValueError as `merged_adapter` does, and for an adapter with a LoRA, which would be lost.
    """
    for single in singles:
        require_base(backbone, single)
        if adapter_folder.read_manifest(single.path)["lora"] is not None:
            raise ValueError(f"{single.path}: holds a LoRA, which a union of token rows would lose; use one of the merges")
    noted = {"kind": "union", "singles": [described(single) for single in singles]}
    facts = {"seed": seed, **(details or {}), "merge": noted}
    return store_merged(backbone, {}, (), united_rows(singles), combination, out_dir, method=method, details=facts)


def store_merged(
    backbone: Backbone, state: State, targets: Sequence[str], rows: tokens.Rows, combination: Combination, out_dir: Path, *,
    method: str, details: Mapping,
) -> Adapter:  # fmt: skip
    """Put a merged LoRA (B A is the update: alpha equals the rank) and token rows on the backbone and store them in `out_dir`.

    An empty `state` is no LoRA."""
    adapters.detach(backbone)
    settings = None
    if state:
        rank = len(next(value for key, value in state.items() if key.endswith(DOWN)))
        settings = LoraSettings(rank=rank, alpha=rank, targets=tuple(targets))
        adapters.put_matrices(backbone.unet, settings, state, origin="merged LoRA")
    if rows:
        tokens.attach_rows(backbone, rows)
    parameters = sum(p.numel() for p in [*adapters.parameters(backbone.unet), *tokens.row_parameters(backbone)])
    facts = {**adapters.base_facts(backbone), "parameters": parameters, **details}
    adapter = adapters.save(
        backbone, out_dir, settings, method=method, combination=combination.key, round=0, details=facts, identifiers=list(rows)
    )
    clear_work(out_dir)
    return adapter


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


def check_kind(
    kind: str, positions: str = "real", rank: int | None = None, density: float = DENSITY, kinds: Sequence[str] = KINDS
) -> None:  # fmt: skip
    """ValueError for a kind of merge, none of `kinds`, or of positions that does not exist, and for a rank or density that no merge
    can have."""
    if kind not in kinds:
        raise ValueError(f"merge = {kind!r}: allowed are {', '.join(map(repr, kinds))}")
    if positions not in POSITIONS:
        raise ValueError(f"kv_positions = {positions!r}: allowed are {', '.join(map(repr, POSITIONS))}")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise ValueError(f"merge_rank = {rank!r}: allowed are whole numbers from 1, or none for the sum of the ranks")
    if rank is not None and not kind.endswith("svd"):
        raise ValueError(f"merge_rank = {rank}: a merge by {kind!r} has the rank that it needs; leave it out, or use merge: svd")
    if not 0 < density < 1:
        raise ValueError(f"density = {density}: allowed are shares between 0 and 1")


def described(single: Adapter) -> dict[str, str]:
    """What a merge's manifest says of an adapter that went into it."""
    return {"subject": single.combination, "method": single.method, "sha256": single.sha256}


def _summary(errors: Sequence[float | None]) -> dict[str, float | None]:
    """A subject's errors over the layers on which its own update does something."""
    known = [error for error in errors if error is not None]
    return {"median": median(known) if known else None, "largest": max(known, default=None)}
