"""Fits of one subject alone, each made once and found again by what it was made of."""

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mudi import adapter_folder
from mudi.adapter_folder import work_folder
from mudi.backbone import Backbone
from mudi.model_facts import file_sha256, weights_identity
from mudi.records import Adapter, Combination, Report, Subject

if TYPE_CHECKING:
    from mudi.personalization import Personalization, PhotoFit

Value = TypeVar("Value")


def fits_alone(
    single: "PhotoFit", owner: "Personalization", backbone: Backbone, combination: Combination, out_dir: Path,
    report: Report | None = None, only: str | None = None,
) -> list[Adapter]:  # fmt: skip
    """The adapter of each subject alone by the method `single`, for a method `owner` that makes its own of them in `out_dir`; of
    the subject with the key `only`, if that is given.

    Subjects are named as `owner` names them. Their fits lie in `owner.singles`, or in the work folder of `out_dir`, and
    are fitted from `owner.single_seed`. A subject counts by its words and the contents of its photos and masks, so that it is fitted
    once for all combinations that it is part of. Two processes that fit one subject at once both finish; one of the fits stays,
    and on one kind of device they are equal. Steps are reported as if the fits were one. Each is made in the work folder, where
    no other combination's fit of the same subject writes, and comes to its place whole. Raises ValueError before anything
    is fitted if subjects share an identifier.
    """
    named, work = owner.view(combination), work_folder(out_dir)
    require_own_identifiers(named)
    folder = Path(owner.singles) if owner.singles else work / "subjects"
    precision, made = str(backbone.dtype).removeprefix("torch."), []
    for subject in named.subjects:
        if only in (None, subject.key):
            place = single_folder(folder, subject, single.recipe(), owner.single_seed, backbone.name, precision)
            alone = replace(named, key=subject.key, subjects=(subject,), prompts=(), layouts=())
            onwards = after(report, len(made) * single.steps)
            train = partial(single.train, backbone, alone, seed=owner.single_seed, report=onwards)
            made.append(adapter_folder.find(place) or fit_apart(train, place, work))
    return made


def narrowed(kind: type[Value], owner: object) -> Value:
    """The value of `kind`, a dataclass, with the fields that `owner` has of it and more."""
    return kind(**{of.name: getattr(owner, of.name) for of in fields(kind)})


def after(report: Report | None, steps: int) -> Report | None:
    """The report of a fit that follows others of so many steps."""
    return None if report is None else lambda step, loss: report(steps + step, loss)


def require_own_identifiers(combination: Combination) -> None:
    """Raise ValueError if two subjects have one identifier: fitted alone and merged, it would have to mean both. A method that
    names subjects without identifiers has none to share."""
    words = [subject.identifier.lower() for subject in combination.subjects]
    for index, word in enumerate(words):
        if word and word in words[:index]:
            first, second = (combination.subjects[i].key for i in (words.index(word), index))
            raise ValueError(
                f"{combination.key}: subjects {first!r} and {second!r} both have the identifier {word!r}; give each its own rare word"
            )


def fit_apart(train: Callable[[Path], Adapter], place: Path, work: Path) -> Adapter:
    """What `train` leaves in the folder it is given, moved to `place`, or what another process has put there meanwhile.

    Subjects are shared between combinations whose fits run at once. Two processes that fit one must not write the same
    checkpoints, so each fits it in `work`, a folder that belongs to its own combination.
    """
    apart = work / place.name
    made = adapter_folder.find(apart) or train(apart)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.path.rename(place)
    except OSError:
        if (found := adapter_folder.find(place)) is not None:
            return found
        # What lies there is no whole adapter. Moved away before it goes: nothing is ever deleted in a place that others look at.
        broken = place.with_name(f".{place.name}.{uuid.uuid4().hex}")
        place.rename(broken)
        shutil.rmtree(broken)
        made.path.rename(place)
    return replace(made, path=place)


def single_folder(folder: Path, subject: Subject, recipe: Mapping[str, object], seed: int, backbone: str, precision: str) -> Path:
    """Where in `folder` the fit of a subject alone lies, which a plan knows without loading the backbone of this name; its
    weights decide (`mudi.model_facts`), not its name."""
    return folder / subject_digest(subject, {**recipe, "seed": seed, "weights": weights_identity(backbone), "precision": precision})


def subject_digest(subject: Subject, recipe: Mapping[str, object]) -> str:
    """40 hexadecimal digits of the sha256 of a subject's words and files and of a recipe, which JSON can hold.

    Its key is no word of it: the same subject may be "a" in one combination and "b" in another.
    """
    words = {key: value for key, value in asdict(subject).items() if key not in ("key", "references")}
    files = [(file_sha256(r.image_path), None if r.mask_path is None else file_sha256(r.mask_path), r.caption) for r in subject.references]
    canonical = json.dumps({"subject": words, "files": files, "recipe": recipe}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:40]
