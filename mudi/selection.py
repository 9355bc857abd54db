"""Which candidates the next round learns from: the best by their score, or all."""

import math
from collections.abc import Mapping, Sequence


def select_top(candidate_ids: Sequence[str], values: Sequence[float | None], keep: int, require_positive: bool = True) -> list[str]:
    """The ids of the `keep` highest values, best first; ties go to the smaller id, whatever the input order.

    A value that is None, NaN or infinite was not computed and is never selected. Zero is the score of an
    image that failed (a wrong number of boxes): with `require_positive` only values above zero qualify,
    so fewer than `keep` ids may come back. MuDI keeps 50 of 200 and does not say what it does with zeros.
    """
    if len(candidate_ids) != len(values):
        raise ValueError(f"{len(candidate_ids)} candidate ids but {len(values)} values; give one value an id")
    if len(set(candidate_ids)) != len(candidate_ids):
        raise ValueError(f"{len(candidate_ids) - len(set(candidate_ids))} candidate ids occur twice; give each candidate once")
    if keep < 1:
        raise ValueError(f"keep is {keep}; keep at least one candidate")
    scored = [(value, name) for name, value in zip(candidate_ids, values, strict=True) if value is not None and math.isfinite(value)]
    qualified = [(value, name) for value, name in scored if value > 0 or not require_positive]
    return [name for value, name in sorted(qualified, key=lambda pair: (-pair[0], pair[1]))[:keep]]


def select(
    candidates: Sequence[tuple[str, str, float | None]], keep: int, *, everything: bool = False, per_prompt: bool = False,
    margin: float = 0.0, zero_fails: bool = True,
) -> tuple[tuple[str, str, float], ...]:  # fmt: skip
    """Those of `candidates` (id, prompt, value) that a round trains on, best first: the `keep` best, or `everything` with a value.

    The best are those of `select_top`; with `per_prompt` first the best of each prompt, then the second of each, and so on, so that
    all prompts get as many places as they have good candidates for. Everything includes zeros: an objective that learns from bad
    pictures needs them. It is nothing where no two candidates of a prompt differ by more than `margin`, which teaches nothing.
    `zero_fails`: whether a value of 0 or less is a picture that failed, as in Detect-and-Compare, and never among the best.
    """
    by_id = {name: (name, prompt, value) for name, prompt, value in candidates}
    values = [value for _, _, value in candidates]
    ranked = [by_id[name] for name in select_top(list(by_id), values, max(1, len(by_id)), require_positive=zero_fails and not everything)]
    ranks_of = places_by_prompt([prompt for _, prompt, _ in ranked])
    if everything:
        return tuple(ranked) if any(ranked[ranks[0]][2] - ranked[ranks[-1]][2] > margin for ranks in ranks_of) else ()
    if per_prompt:
        turns = sorted((turn, rank) for ranks in ranks_of for turn, rank in enumerate(ranks))
        ranked = [ranked[rank] for rank in sorted(rank for _, rank in turns[:keep])]
    return tuple(ranked[:keep])


def places_by_prompt(prompts: Sequence[str]) -> list[list[int]]:
    """The places of each prompt in `prompts`, prompts in the order in which they come first."""
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(prompt, []).append(place)
    return list(places.values())


def rewards(scores: Sequence[Mapping], weights: Mapping[str, float]) -> dict[str, float | None]:
    """Candidate -> weighted mean of the scores that have a weight, None if one of them was not computed.

    `scores` are rows with candidate_id, metric and value.
    """
    found: dict[str, dict[str, float | None]] = {}
    for score in scores:
        found.setdefault(score["candidate_id"], {})[score["metric"]] = score["value"]
    whole = sum(weights.values())
    return {
        candidate: None
        if any(values.get(name) is None for name in weights)
        else sum(values[name] * weight for name, weight in weights.items()) / whole
        for candidate, values in found.items()
    }
