"""A prompt in every order of its subjects, in words that a model knows that never saw them.

Source: MuDI (arXiv 2404.04243) averages CLIPs and ImageReward over the orders of the subjects (Table 1, the dagger), since
a text encoder weighs what is named first. It does not say how the subjects are named; here identifiers are dropped and
descriptive classes kept, because "olis" means nothing to a judge.
"""

import re
from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING

from mudi.records import Combination, Prompt, Score

if TYPE_CHECKING:
    from torch import Tensor

MOST_PERMUTED = 4


def orders(prompt_text: str, combination: Combination) -> list[str]:
    """The prompt once for each order of the subjects that it names, their own order first, without repetitions.

    "a olis corgi and a hta chow chow" becomes "a corgi and a chow chow" and "a chow chow and a corgi". Up to four subjects
    take all permutations, more take cyclic shifts. All phrases are replaced at once, the longest that fits first, so
    that none is found inside another or in what replaced one; an identifier without its class counts as the phrase.
    The order of the subjects in `combination` plays no part.
    """
    nouns = {words.lower(): s.class_noun for s in combination.subjects for words in (s.phrase, s.identifier)}
    owners = {words.lower(): s.key for s in combination.subjects for words in (s.phrase, s.identifier)}
    longest_first = "|".join(re.escape(words) for words in sorted(nouns, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w)", re.IGNORECASE)
    between, found = pattern.split(prompt_text), [words.lower() for words in pattern.findall(prompt_text)]
    named = {owners[words]: nouns[words] for words in found}
    keys, texts = list(named), []
    shifts = [(*keys[k:], *keys[:k]) for k in range(len(keys))]
    for order in permutations(keys) if len(keys) <= MOST_PERMUTED else shifts:
        noun_of = {key: named[other] for key, other in zip(named, order, strict=True)}
        replaced = [noun_of[owners[words]] for words in found]
        texts.append("".join(part + noun for part, noun in zip(between, [*replaced, ""], strict=True)))
    return list(dict.fromkeys(texts))


def score_orders(
    rate: Callable[[list[str]], "Tensor"], metric: str, scorer: str, prompt: Prompt, combination: Combination
) -> list[tuple[Score, ...]]:
    """For each image its mean over the orders of the prompt, with the value of each order in the details; `rate` gives (I, T)."""
    texts = orders(prompt.text, combination)
    rows = rate(texts).double()
    told = [{"orders": dict(zip(texts, row.tolist(), strict=True))} for row in rows]
    return [
        (Score(metric=metric, value=float(row.mean()), scorer=scorer, details=details),) for row, details in zip(rows, told, strict=True)
    ]
