"""Fits of one subject alone, each made once and found again by what it was made of."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from mudi import adapters
from mudi.dataset import file_sha256
from mudi.models import Backbone
from mudi.records import Adapter, Combination, Subject

# The subject alone as a combination, the folder to leave its adapter in, a seed -> the adapter.
FitOne = Callable[[Combination, Path, int], Adapter]


def single_fits(
    backbone: Backbone, combination: Combination, recipe: Mapping[str, object], seed: int, folder: Path, fit_one: FitOne
) -> list[Adapter]:
    """The adapter of each subject, in their order, from `folder` or made by `fit_one` and left there.

    `recipe` holds all that decides a fit beside the subject: the method and its hyperparameters. A subject counts by its
    words and the contents of its photos and masks, so that it is fitted once for all combinations that it is part of;
    `seed` must not depend on the combination either. Two processes that fit one subject at once both finish; the one
    that is last stays, and on one kind of device they are equal.
    """
    made = []
    for subject in combination.subjects:
        place = single_folder(folder, subject, recipe, seed, backbone.name, str(backbone.dtype).removeprefix("torch."))
        alone = replace(combination, key=subject.key, subjects=(subject,), prompts=(), layouts=())
        made.append(adapters.find(place) or fit_one(alone, place, seed))
    return made


def single_folder(folder: Path, subject: Subject, recipe: Mapping[str, object], seed: int, backbone: str, precision: str) -> Path:
    """Where in `folder` the fit of a subject alone lies, which a plan knows without loading the backbone of this name."""
    return folder / subject_digest(subject, {**recipe, "seed": seed, "backbone": backbone, "precision": precision})


def subject_digest(subject: Subject, recipe: Mapping[str, object]) -> str:
    """40 hexadecimal digits of the sha256 of a subject's words and files and of a recipe, which JSON can hold.

    Its key is no word of it: the same subject may be "a" in one combination and "b" in another.
    """
    words = {key: value for key, value in asdict(subject).items() if key not in ("key", "references")}
    files = [(file_sha256(r.image_path), None if r.mask_path is None else file_sha256(r.mask_path), r.caption) for r in subject.references]
    canonical = json.dumps({"subject": words, "files": files, "recipe": recipe}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]
