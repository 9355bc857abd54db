"""The pairs of subjects that methods are tuned on and those that they are compared on, no subject in both.

All are identities that no model of the miniature was trained on. Within a pair every attribute but the class differs, in
the hardest case, two of a kind, as much as in the easier one of two kinds; six (or, where one wears nothing, five)
different colours tell at a glance whose is whose.
"""

from collections.abc import Mapping
from pathlib import Path

from mudi.miniature.references import write_combination
from mudi.miniature.world import parse_identity

# Name -> first subject, second subject, seed of their pictures.
Pairs = Mapping[str, tuple[str, str, int]]

TUNING_PAIRS: Pairs = {
    "two_dogs_tuning": ("dog purple yellow hat pink", "dog blue green scarf orange", 101),
    "two_rabbits_tuning": ("rabbit orange blue scarf black", "rabbit yellow pink hat green", 102),
    "cat_and_bear_tuning": ("cat pink green hat blue", "bear black orange", 103),
}

HELD_OUT_PAIRS: Pairs = {
    "two_dogs_a": ("dog green blue hat orange", "dog red purple scarf black", 201),
    "two_cats_a": ("cat pink orange scarf green", "cat yellow red hat blue", 202),
    "two_bears": ("bear purple orange scarf pink", "bear green red hat yellow", 203),
    "two_rabbits": ("rabbit orange blue hat pink", "rabbit black green scarf yellow", 204),
    "two_dogs_b": ("dog blue yellow scarf green", "dog red pink", 205),
    "two_cats_b": ("cat black blue hat yellow", "cat purple red scarf pink", 206),
    "cat_and_dog": ("cat yellow green scarf black", "dog pink red hat purple", 207),
    "bear_and_rabbit": ("bear red pink hat yellow", "rabbit green blue", 208),
}


def write_pairs(folder: Path, pairs: Pairs) -> None:
    """One combination folder a pair in `folder`, named as the pair; ValueError if one exists already."""
    for name, (first, second, seed) in pairs.items():
        write_combination(folder / name, [parse_identity(first), parse_identity(second)], seed)
