"""Merging whole LoRAs into one: by sum, by peft's merges, or by gradient fusion, layer by layer.

A LoRA is a state as `mudi.adapters` stores it: LAYER.lora_A.weight (r, in) and LAYER.lora_B.weight (out, r), alpha equal to r,
so that its update is B A. What comes back is such a state; its rank is the alpha to store it with.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import nn

from mudi.adapter_folder import DOWN, PREFIX, UP
from mudi.fusion import RIDGE, fuse_low_rank, inverse_of, low_rank_error
from mudi.merging.grams import Grams

State = dict[str, torch.Tensor]
DARE = "dare_linear_svd"
KINDS = ("svd", "ties_svd", DARE)


def merge_sum(states: Sequence[State], weights: Sequence[float] | None = None) -> State:
    """sum_i w_i B_i A_i exactly, by concatenation: rank sum r_i, the weights (one each if not given) in A.

    The same as diffusers' `set_adapters(names, weights)` and peft's "cat".
    """
    layers, weights = _checked(states, weights)
    merged = {}
    for layer in layers:
        merged[layer + DOWN] = torch.cat([weight * state[layer + DOWN] for state, weight in zip(states, weights)])
        merged[layer + UP] = torch.cat([state[layer + UP] for state in states], 1)
    return merged


def merge_peft(
    states: Sequence[State], weights: Sequence[float] | None = None, kind: str = "ties_svd", *,
    rank: int | None = None, density: float = 0.5, seed: int | None = None,
) -> State:  # fmt: skip
    """A merge of two or more LoRAs done by peft's `add_weighted_adapter`, weights one each if not given.

    kind: "svd", the best approximation of the sum at `rank`; "ties_svd" (Yadav et al., arXiv 2306.01708) and "dare_linear_svd" (Yu
    et al., arXiv 2311.03099) prune each update to `density` of its entries, then sum and approximate. rank: sum r_i if not given, at
    which "svd" is exact (departure: peft's default is the largest r_i); layers narrower than that are filled with zero rows. seed:
    of "dare_linear_svd", which draws what to drop. The singular values are those of the whole update (out, in), minutes for SDXL.
    """
    layers, weights = _checked(states, weights)
    ranks = [len(state[layers[0] + DOWN]) for state in states]
    _check_peft(kind, ranks, rank, density, seed)
    rank, merged = rank or sum(ranks), {}
    devices = [states[0][layers[0] + DOWN].device] if states[0][layers[0] + DOWN].is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0 if seed is None else seed)
        for layer in layers:
            pairs = [(state[layer + DOWN], state[layer + UP]) for state in states]
            down, up = _weighted_by_peft(pairs, weights, kind, rank, density)
            merged[layer + DOWN] = nn.functional.pad(down, (0, 0, 0, rank - len(down)))
            merged[layer + UP] = nn.functional.pad(up, (0, rank - up.shape[1]))
    return merged


def merge_fusion(
    states: Sequence[State], grams: Sequence[Grams], weights: Sequence[float] | None = None, ridge: float = RIDGE, *,
    prior: Grams | None = None, prior_weight: float = 0.0,
) -> tuple[State, dict[str, list[float | None]]]:  # fmt: skip
    """Gradient fusion of LoRAs, each with the Grams of its own concept: (state of rank sum r_i, errors of each concept by layer).

    Layer by layer `fusion.fuse_low_rank` and `fusion.low_rank_error`, computed where the first state lies; layers that share a
    Gram share its factorisation. The errors are of the factors as returned. prior: Grams of inputs on which the update should
    vanish, with weight prior_weight, of all layers or of some.
    """
    layers, weights = _checked(states, weights)
    if len(grams) != len(states):
        raise ValueError(f"{len(states)} adapters and {len(grams)} Grams; give one of each a concept")
    merged, errors = {}, {}

    def left_alone(name: str) -> bool:
        return bool(prior and prior_weight and name in prior.keys)

    def shared(layer: str) -> tuple[str, ...]:
        name = layer.removeprefix(PREFIX)
        return tuple(of.key(name) for of in (*grams, *([prior] if left_alone(name) else [])))

    for _, group in groupby(sorted(layers, key=shared), shared):
        group = list(group)
        name = group[0].removeprefix(PREFIX)
        device = states[0][group[0] + UP].device
        means = [of.mean(name).to(device) for of in grams]
        held = left_alone(name)
        solve = inverse_of(means, ridge, prior.mean(name).to(device) if held else None, prior_weight if held else 0.0)
        means = [mean.double() for mean in means]
        for layer in group:
            factors = [(state[layer + UP], state[layer + DOWN], 1.0) for state in states]
            up, down = fuse_low_rank(factors, means, weights, solve=solve)
            merged[layer + UP], merged[layer + DOWN] = up, down
            errors[layer] = low_rank_error((up, down), factors, means, weights)
    return dict(sorted(merged.items())), {layer: errors[layer] for layer in layers}


def _weighted_by_peft(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], weights: Sequence[float], kind: str, rank: int, density: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer's A and B out of peft, with a bare linear layer in the UNet's place: the merge looks at nothing else."""
    from peft import LoraConfig, get_peft_model

    down, up = pairs[0]
    bare = nn.Sequential(nn.Linear(down.shape[1], up.shape[0], bias=False, dtype=down.dtype, device="meta").to_empty(device=down.device))
    names = [str(index) for index in range(len(pairs))]
    configs = [LoraConfig(r=len(down), lora_alpha=len(down), target_modules=["0"], init_lora_weights=False) for down, _ in pairs]
    model = get_peft_model(bare, configs[0], adapter_name=names[0])
    layer = model.base_model.model[0]
    for name, config, (down, up) in zip(names, configs, pairs):
        if name not in layer.lora_A:
            model.add_adapter(name, config)
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = down, up
    pruned = {} if kind == "svd" else {"density": density}
    model.base_model.add_weighted_adapter(
        names, list(weights), "merged", combination_type=kind, svd_rank=rank, svd_full_matrices=False, **pruned
    )
    # Narrow layers give fewer singular vectors than the rank, and slices hold on to all of them.
    return layer.lora_A["merged"].weight.data.clone(), layer.lora_B["merged"].weight.data.clone()


def _check_peft(kind: str, ranks: Sequence[int], rank: int | None, density: float, seed: int | None) -> None:
    if kind not in KINDS:
        raise ValueError(f"merge kind {kind!r} is unknown; use one of {', '.join(KINDS)}")
    if len(ranks) < 2:
        raise ValueError(f"{kind} merges two or more adapters, not {len(ranks)}")
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}; give 1 or more, or leave it out for the sum of ranks, {sum(ranks)}")
    if not 0 < density < 1 and kind != "svd":
        raise ValueError(f"density is {density}; give a share between 0 and 1 of the entries to keep")
    if kind == DARE and seed is None:
        raise ValueError(f"{DARE} drops entries at random; give a seed")


def _checked(states: Sequence[State], weights: Sequence[float] | None) -> tuple[list[str], list[float]]:
    """The layers that all states have, sorted, and the weights."""
    weights = [1.0] * len(states) if weights is None else [float(weight) for weight in weights]
    if not states or len(weights) != len(states) or not torch.tensor(weights).isfinite().all():
        raise ValueError(f"{len(states)} adapters with weights {weights}; give one or more adapters and a finite weight for each")
    if odd := sorted({key for state in states for key in state if not key.endswith((DOWN, UP))}):
        raise ValueError(f"{odd[0]!r} is no matrix of a LoRA; expected LAYER{DOWN} and LAYER{UP}")
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in states]
    for index, of_state in enumerate(shapes[1:], 1):
        if differing := sorted(set(of_state) ^ set(shapes[0])):
            place = 0 if differing[0] in shapes[0] else index
            raise ValueError(f"adapters 0 and {index} sit on different layers: only {place} has {differing[0]}; merge adapters of one base")
    layers = sorted(key.removesuffix(DOWN) for key in shapes[0] if key.endswith(DOWN))
    for layer in layers:
        _check_layer(layer, shapes)
    return layers, weights


def _check_layer(layer: str, shapes: Sequence[dict[str, tuple[int, ...]]]) -> None:
    """A and B are both there, fit each other, and are of one width in all states."""
    pairs = [(of_state.get(layer + DOWN, ()), of_state.get(layer + UP, ())) for of_state in shapes]
    fits = all(len(down) == len(up) == 2 and down[0] == up[1] for down, up in pairs)
    if not fits or len({(down[1], up[0]) for down, up in pairs}) > 1:
        raise ValueError(f"{layer}: A and B have shapes {pairs}; expected (r, in) and (out, r) with the same in and out in all")
