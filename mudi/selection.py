"""Which candidates the next round learns from: the best by their score, or all."""

import math
from collections.abc import Sequence


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
    candidates: Sequence[tuple[str, str, float | None]], keep: int, *, everything: bool = False
) -> tuple[tuple[str, str, float], ...]:
    """Those of `candidates` (id, prompt, value) that a round trains on, best first: the `keep` best, or `everything` that has a value.

    The best are those of `select_top`. All includes zeros: an objective that learns from bad pictures needs them.
    """
    ids, values = [name for name, _, _ in candidates], [value for _, _, value in candidates]
    chosen = select_top(ids, values, max(1, len(ids)) if everything else keep, require_positive=not everything)
    by_id = {name: (name, prompt, value) for name, prompt, value in candidates}
    return tuple(by_id[name] for name in chosen)
