"""The check of a combination folder: the use of every file in it, every mistake, and notes; and of a run file with all its folders.

The mistakes are those for which `mudi.dataset` would refuse a run, all of them rather than the first. Each thread
holds one photo at a time, so a folder of any size fits in memory.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mudi.dataset import Each, Examined, examine, load_combination
from mudi.model_facts import file_sha256
from mudi.records import Combination, Subject
from mudi.user_files.metadata_file import METADATA
from pipeline.check import notes

Item, Result = TypeVar("Item"), TypeVar("Result")
# Files that are neither photo nor mask and yet in their place: the text, files of `mudi prepare`, and the truth about rendered subjects.
OWN_FILES = (METADATA, "subjects.yaml", "prepared.json", "contact_sheet.html", "contact_sheet.png", "layouts.png", "truth.json")
NOT_LISTED, REFUSED, PARTNER = f"not listed in {METADATA}", "refused", "of a photo or mask that is refused"
NO_TEXT = f"{METADATA} is refused"


@dataclass(frozen=True, kw_only=True)
class SubjectReport:
    """A subject, with the sizes of its usable photos as (H, W), the smallest first."""

    key: str
    phrase: str
    query: str
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class FolderReport:
    """found = photos + masks + own + skipped; every file of the folder is counted once, under the first of these that fits."""

    folder: Path
    found: int
    own: tuple[str, ...]
    """The files that are known by name: OWN_FILES."""
    skipped: Mapping[str, tuple[str, ...]]
    """Reason -> names of files."""
    mistakes: tuple[str, ...]
    photos: int = 0
    masks: int = 0
    subjects: tuple[SubjectReport, ...] = ()
    listed: int = 0
    """Lines of photos, usable or not."""
    refused: int = 0
    """The number of these that a run would not accept."""
    notes: tuple[str, ...] = ()
    combination: Combination | None = None
    """As a run would load it; None if a run would refuse it."""


def in_order(executor: Executor, ahead: int) -> Each:
    """A `map` on the executor's threads that is never more than `ahead` items in front of the result it gives."""

    def each(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
        rest = iter(items)
        running = [executor.submit(function, item) for item in islice(rest, ahead)]
        while running:
            yield running.pop(0).result()
            running += [executor.submit(function, item) for item in islice(rest, 1)]

    return each


def check_folder(folder: Path, queries: Mapping[str, str] | None = None, each: Each = map) -> FolderReport:
    """Everything about one folder. `each` opens the photos (`in_order`); what is no folder has one mistake."""
    folder = Path(os.path.abspath(folder))
    mistakes: list[str] = []
    named: list[tuple[str, ...]] = []

    def refuse(mistake: ValueError, names: tuple[str, ...] | None) -> None:
        mistakes.append(str(mistake))
        if names is not None:
            named.append(names)

    try:
        combination = load_combination(folder, queries, refuse)
    except ValueError as mistake:
        return _without_text(folder, (*mistakes, str(mistake)))
    looked = {subject: list(examine(subject, notes.of_pictures, each)) for subject in combination.subjects}
    examined = [one for of_subject in looked.values() for one in of_subject]
    broken = [one for one in examined if one.mistake]
    mistakes += [one.mistake for one in broken]
    photos, masks = _names(folder, (one for one in examined if not one.mistake))
    reasons = dict.fromkeys((os.path.normpath(name) for names in named for name in names), REFUSED) | _reasons(folder, broken)
    sizes = {(folder / name).stat().st_size for name in photos}
    hashes = {one.sha256: one.reference.image_path.name for one in examined if one.sha256}
    files = list(_files(folder))
    own, skipped = [], {}
    for name in files:
        if name in OWN_FILES:
            own.append(name)
        elif name not in photos and name not in masks:
            reason = reasons.get(name) or _why_unlisted(folder / name, sizes, hashes)
            skipped.setdefault(reason, []).append(name)
    return FolderReport(
        folder=folder,
        found=len(files),
        own=tuple(own),
        skipped={reason: tuple(names) for reason, names in skipped.items()},
        mistakes=tuple(mistakes),
        photos=len(photos),
        masks=len(masks),
        subjects=tuple(_row(subject, looked[subject]) for subject in combination.subjects),
        listed=len(examined) + len(named),
        refused=len(broken) + len(named),
        notes=tuple(notes.of_folder(looked)),
        combination=None if mistakes else combination,
    )


def check_run(path: Path, each: Each = map) -> tuple[list[str], list[FolderReport]]:
    """The mistakes of a run file's settings, and the reports on its combinations: everything that the run would refuse.

    Raises ValueError where the file itself cannot be read as what it is, naming the first place. What only a
    running cluster can tell, such as whether it has the GPUs that are asked for, is left to the run.
    """
    from pipeline.ready import ready
    from pipeline.settings.benchmark_config import load_plan

    config = load_plan(path)
    reports = [check_folder(folder, config.queries.get(folder.name), each) for folder in config.combinations]
    mistakes: list[ValueError] = []
    ready(config, mistakes.append, [report.combination for report in reports if report.combination is not None])
    return [str(mistake) for mistake in mistakes], reports


def _without_text(folder: Path, mistakes: tuple[str, ...]) -> FolderReport:
    """The report on a folder whose header or text cannot be read, so that nothing in it can be used."""
    files = list(_files(folder)) if folder.is_dir() else []
    own = tuple(name for name in files if name in OWN_FILES)
    rest = tuple(name for name in files if name not in OWN_FILES)
    return FolderReport(folder=folder, found=len(files), own=own, skipped={NO_TEXT: rest} if rest else {}, mistakes=mistakes)


def _files(folder: Path) -> Iterator[str]:
    """Every file below the folder by its name in it, in a fixed order; of a link to a folder, the link."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted(files + links):
            yield os.path.relpath(os.path.join(parent, name), folder)


def _name(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder))


def _names(folder: Path, usable: Iterable[Examined]) -> tuple[set[str], set[str]]:
    """The names of photos, and of the masks that are not photos too."""
    references = [one.reference for one in usable]
    photos = {_name(folder, reference.image_path) for reference in references}
    return photos, {_name(folder, reference.mask_path) for reference in references if reference.mask_path} - photos


def _reasons(folder: Path, broken: Iterable[Examined]) -> dict[str, str]:
    """Name -> why it is skipped, of the photos that cannot be trained on and their masks."""
    reasons = {}
    for one in broken:
        paths = [path for path in (one.reference.image_path, one.reference.mask_path) if path]
        reasons |= {_name(folder, path): REFUSED if one.mistake.startswith(f"{path}: ") else PARTNER for path in paths}
    return reasons


def _why_unlisted(path: Path, sizes: Collection[int], hashes: Mapping[str, str]) -> str:
    """Why a file that no line lists is skipped; a file is read, to find copies, only if a photo has its size."""
    if path.is_dir():
        return "links to a folder, which are not followed"
    if path.is_file() and path.stat().st_size in sizes and (original := hashes.get(file_sha256(path))):
        return f"the same bytes as {original}"
    return NOT_LISTED


def _row(subject: Subject, looked: Iterable[Examined]) -> SubjectReport:
    sizes = sorted((one.size for one in looked if not one.mistake), key=lambda size: size[0] * size[1])
    return SubjectReport(key=subject.key, phrase=subject.phrase, query=subject.detection_query, sizes=tuple(sizes))
