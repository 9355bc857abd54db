"""Keys that came after runs had been stored: where they have the value that made earlier runs they are left out of what is hashed."""

from collections.abc import Mapping
from typing import Any

LATER = {
    "layout": "random", "cfg_plus_plus": None, "scheduler": "euler", "padding": "full", "layout_guidance": None,
    "objective": "filtered", "beta": None, "reward_clip": 1.0, "error_in": "prediction", "pair_margin": 0.0, "noise_from": 0,
    "per_prompt": False, "pool_sampling": {}, "watched_rounds": "all",
}  # fmt: skip
# A run file has had keys of these names from its first hash on.
LATER_IN_REFITS = {**LATER, "rounds": 1, "sampling": {}}


def without_later(values: Mapping[str, Any], later: Mapping[str, Any] = LATER) -> dict[str, Any]:
    """The keys and values of a run file, `sampling`, `score`, `retrain` or, with LATER_IN_REFITS, a refit that run.json holds and
    hashes are made of."""
    return {key: value for key, value in values.items() if key not in later or value != later[key]}
