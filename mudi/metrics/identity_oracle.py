"""The oracle as a metric: are both rendered subjects there with every attribute right, and in the place asked for?

Not a metric of the paper: it needs the truth about the subjects, which only rendered ones have, in a `truth.json` beside
their photos. It is there to judge methods and metrics, never to choose what a model is trained on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mudi.model_facts import PAIR, find_folder
from mudi.records import Combination, Prompt, Score, Subject

TRUTH = "truth.json"


class IdentityOracle:
    """Images of two rendered subjects to `oracle_success` (0 or 1), `oracle_identity` (0..1) and `oracle_place` (0 or 1,
    None if the prompt names no place that the oracle knows)."""

    MODELS: ClassVar[tuple[str, ...]] = ("oracle",)
    NAMES: ClassVar[dict[str, bool]] = {"oracle_success": True, "oracle_identity": True, "oracle_place": True}

    def __init__(self, device: str = "cpu", oracle: str = "miniature"):
        """Loads the network once; `oracle` is "miniature", a folder or a hub id."""
        from mudi.oracle import load_oracle

        self.oracle = load_oracle(find_folder(oracle, "oracle"), device, oracle)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its scores; ValueError if the truth is missing or the subjects are not two."""
        from mudi.oracle import asked_place, judge, verdict

        _require_pair(combination)
        identities = [true_traits(subject, self.oracle.config.attributes) for subject in combination.subjects]
        place = asked_place(prompt.text, self.oracle.config.places)
        return [self._scores(verdict(reading, identities, place)) for reading in judge(self.oracle, images)]

    def _scores(self, answer: dict) -> tuple[Score, ...]:
        seen = {key: answer[key] for key in ("count", "scene", "subjects")}
        reasons = {"success": answer.get("reason"), "identity": answer.get("reason"), "place": None}
        if answer["place"] is None:
            reasons["place"] = "the prompt names none of the places that the oracle knows, or several"
        details = {name: seen | ({"reason": reason} if reason else {}) for name, reason in reasons.items()}
        scorer = f"oracle {self.oracle.name}"
        return tuple(Score(metric=f"oracle_{name}", value=answer[name], scorer=scorer, details=of) for name, of in details.items())


def require_truth(combination: Combination) -> None:
    """Raise ValueError unless there are two subjects and the truth about them lies beside their photos."""
    _require_pair(combination)
    for subject in combination.subjects:
        _read_truth(subject)


def _require_pair(combination: Combination) -> None:
    if len(combination.subjects) != PAIR:
        raise ValueError(f"combination {combination.key!r} has {len(combination.subjects)} subjects; the oracle reads pairs only")


def true_traits(subject: Subject, attributes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Attribute -> value of a rendered subject, from the truth.json beside its first photo; ValueError if it is not there."""
    from mudi.oracle import read_traits

    path, words = _read_truth(subject)
    try:
        return read_traits(words, attributes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_truth(subject: Subject) -> tuple[Path, str]:
    folder = Path(subject.references[0].image_path).parent
    path = folder / TRUTH
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {TRUTH}; the oracle judges rendered subjects only; leave it out of the metrics, "
            f"or make the folder with `mudi miniature dataset`"
        )
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not valid JSON ({error.msg}); restore the file") from error
    if not isinstance(truth, dict) or not isinstance(truth.get(subject.key), str):
        raise ValueError(f'{path} says nothing of subject {subject.key!r}; expected {{"{subject.key}": "dog pink blue scarf yellow"}}')
    return path, truth[subject.key]
