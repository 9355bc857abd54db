"""A user's folder becomes a Combination; every check on files that a user wrote is made here.

The folder is read as MuDI publishes its own: photos, masks and `metadata.jsonl`, whose first line names
the subjects, {"id": {"a": "olis corgi", "b": "hta chow chow"}}, and whose other lines each name one
photo, {"id": "a", "file_name": "a00.jpg", "mask_path": "mask_a00.jpg", "text": "A photo of a olis corgi."}.
"mask_path" may be left out for methods that cut nothing out.
The first line may also hold {"query": {"a": "dog"}}, what the detector is asked for (null for a style), and {"layouts": [{"a": [0, 200,
500, 1000], "b": [520, 400, 1000, 1000]}]}, boxes (x0, y0, x1, y1) for all subjects on a canvas of 1024 by 1024.

All that is wrong with a folder is a ValueError of one line that names the file, its line or key, and
what to do. Nothing is skipped: a listed file that is missing stops the run. Whoever wants to know every
mistake rather than the first passes a `refuse` that keeps them.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.augment import Segment
from mudi.model_facts import file_sha256
from mudi.records import Combination, Reference, Subject
from mudi.user_files.captions import check_caption
from mudi.user_files.metadata_file import EXAMPLE_HEADER, Refuse, layouts_of, read_lines, stop, text_of
from mudi.user_files.names import check_combination_name, check_subject_key, is_device
from mudi.user_files.photos import decode, mask_levels, read_both, threshold

ENTRY_KEYS = ("id", "file_name", "mask_path", "text")
# The super-categories that the detector is asked for; MuDI's own table is unpublished.
DETECTION_QUERIES = {
    "harry potter toy": "action figure",
    "corgi": "dog",
    "chow chow": "dog",
    "weimaraner": "dog",
    "russian blue": "cat",
    "brown teddy bear": "teddy bear",
    "beige teddy bear": "teddy bear",
    "white robot toy": "robot toy",
    "blue drink can": "can",
    "red monster plush": "monster toy",
    "castle": "castle",
    "white lighthouse": "lighthouse",
}

# From the upright photo and its mask's grey levels, None without a mask, to what is worth knowing of them.
Look = Callable[[Image.Image, np.ndarray | None], tuple[str, ...]]
# `map`, or what does the same in several threads: the results in the order of the references.
Each = Callable[[Callable[[Reference], "Examined"], Iterable[Reference]], Iterable["Examined"]]


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What was found on opening a photo and its mask. `mistake`, if any, is the line why they cannot be trained on."""

    reference: Reference
    size: tuple[int, int] | None = None
    """(H, W) of the upright photo; None where it cannot be read."""
    sha256: str | None = None
    """Of the photo's bytes."""
    mistake: str | None = None
    notes: tuple[str, ...] = ()


def load_combination(folder: Path, queries: Mapping[str, str] | None = None, refuse: Refuse = stop) -> Combination:
    """The combination that `folder` describes, without prompts; its key is the folder's name.

    Checks the text and that every listed file is there, and decodes no image (`check_images` does). A
    subject's detection query is `queries[key]`, else the header's, else that of DETECTION_QUERIES for its
    class noun, else the class noun's last word.

    Lines that `refuse` does not raise for are left out, so a subject may then have no photo. Without a
    folder, a header and text there is nothing to go on with, and ValueError is raised in any case.
    """
    folder = Path(os.path.abspath(folder))
    check_combination_name(str(folder), folder.name)
    lines = read_lines(folder, refuse)
    where, header = next(lines)
    phrases = _phrases(where, header)
    asked = _detection_queries(where, header.get("query", {}), phrases)
    asked |= _detection_queries(f'queries of "{folder.name}"', queries or {}, phrases)

    references: dict[str, dict[Path, Reference]] = {key: {} for key in phrases}
    listed = set()
    for line, entry in lines:
        try:
            key = text_of(line, entry, "id")
            listed.add(key)
            if key not in phrases:
                raise ValueError(f'{line}: unknown id "{key}"; the header has {", ".join(phrases)}')
            reference = _reference(folder, line, entry, key, phrases)
            if reference.image_path in references[key]:
                raise ValueError(f'{line}: "{entry["file_name"]}" is listed twice for "{key}"; remove one of the lines')
        except ValueError as mistake:
            refuse(mistake, tuple(entry[name] for name in ("file_name", "mask_path") if isinstance(entry.get(name), str)))
        else:
            references[key][reference.image_path] = reference
    for key in phrases:
        if key not in listed:
            refuse(ValueError(f'{where}: subject "{key}" has no photo; add a line with "id": "{key}"'), None)
    known = {key: DETECTION_QUERIES.get(noun.lower(), noun.split()[-1]) for key, (_, noun) in phrases.items()} | asked
    subjects = tuple(
        Subject(key=key, identifier=word, class_noun=noun, detection_query=known[key], references=tuple(references[key].values()))
        for key, (word, noun) in phrases.items()
    )
    objects = [subject.key for subject in subjects if subject.detection_query]
    if not objects:
        raise ValueError(f'{where}: "query" is null for every subject; one at least must be something to detect')
    return Combination(key=folder.name, subjects=subjects, layouts=layouts_of(where, header.get("layouts", []), objects))


def require_objects(combination: Combination, wanted_by: str) -> None:
    """Raise ValueError if the combination holds a style; `wanted_by` is what cuts every subject out."""
    styles = [subject.key for subject in combination.subjects if subject not in combination.objects]
    if styles:
        raise ValueError(
            f"{combination.key}: {wanted_by} cuts every subject out, and {styles[0]!r} has no query to be found by, as a style has none; "
            "use a method that cuts nothing out, such as cones2 or custom_diffusion, or leave out what does, refine or masked_loss"
        )


def require_masks(combination: Combination, wanted_by: str) -> None:
    """Raise ValueError if a photo of something that a box can hold has no mask; `wanted_by` is what needs it."""
    bare = [r.image_path for s in combination.objects for r in s.references if r.mask_path is None]
    if bare:
        raise ValueError(
            f"{bare[0]}: has no mask ({len(bare)} such photos in {combination.key}), and {wanted_by} cuts the subjects out; "
            'add "mask_path" to its line in metadata.jsonl'
        )


def check_images(combination: Combination) -> None:
    """Decodes every photo, and every mask that is given, and raises on the first that cannot be trained on."""
    for subject in combination.subjects:
        for examined in examine(subject):
            if examined.mistake:
                raise ValueError(examined.mistake)


def examine(subject: Subject, look: Look = lambda photo, levels: (), each: Each = map) -> Iterator[Examined]:
    """Every photo of the subject with its mask, opened one after the other and let go of.

    A photo with the bytes of an earlier one is a mistake too: it would count twice. So is a mask with the
    bytes of its photo.
    """
    first: dict[str, Path] = {}
    for examined in each(partial(_examine, look), subject.references):
        path = examined.reference.image_path
        if examined.mistake is None and (earlier := first.setdefault(examined.sha256, path)) != path:
            twice = f'{path}: the same bytes as {earlier.name}, both for "{subject.key}"; remove one of the lines'
            examined = replace(examined, mistake=twice)
        yield examined


def load_segments(subject: Subject) -> list[Segment]:
    """The subject's photos with their masks, both upright, in the order of its references."""
    segments = []
    for reference in subject.references:
        if reference.mask_path is None:
            raise ValueError(f'{reference.image_path}: has no mask to cut the subject out; add "mask_path" to its line in metadata.jsonl')
        segments.append(Segment(*read_both(reference.image_path, reference.mask_path)))
    return segments


def _examine(look: Look, reference: Reference) -> Examined:
    """One photo with its mask; every mistake is told rather than raised."""
    examined = Examined(reference=reference)
    try:
        photo, orientation = decode(reference.image_path)
        examined = replace(examined, size=(photo.height, photo.width), sha256=file_sha256(reference.image_path))
        levels = None
        if reference.mask_path is not None:
            if file_sha256(reference.mask_path) == examined.sha256:
                raise ValueError(f"{reference.mask_path}: has the bytes of its photo; save a mask there, white on the subject")
            levels = mask_levels(reference.mask_path, examined.size, orientation)
            threshold(reference.mask_path, levels)
        return replace(examined, notes=look(photo, levels))
    except ValueError as error:
        return replace(examined, mistake=str(error))


def _phrases(where: str, header: Mapping) -> dict[str, tuple[str, str]]:
    """Subject key -> (identifier, class noun), in the header's order."""
    names = header.get("id")
    if not isinstance(names, dict) or set(header) - {"id", "query", "layouts"}:
        raise ValueError(f"{where}: the first line must be a header like {EXAMPLE_HEADER}")
    if len(names) < 2:
        raise ValueError(f'{where}: "id" names {len(names)} subject(s); a combination needs two or more')
    phrases = {}
    for key in names:
        check_subject_key(where, key)
        identifier, *class_words = text_of(where, names, key).split()
        if not class_words:
            raise ValueError(f'{where}: subject "{key}" is only "{identifier}"; give an identifier and a class, like "olis corgi"')
        if identifier.lower() in (earlier.lower() for earlier, _ in phrases.values()):
            raise ValueError(f'{where}: two subjects have the identifier "{identifier}"; give each its own rare word')
        phrases[key] = (identifier, " ".join(class_words))
    return phrases


def _detection_queries(where: str, queries: Mapping[str, str | None], subject_keys: Collection[str]) -> dict[str, str]:
    """The queries by subject key, once they are known to name subjects and to be text; "" for null, which says a style."""
    if not isinstance(queries, Mapping) or set(queries) - set(subject_keys):
        raise ValueError(f"{where}: {str(queries)[:80]!a} must map subject keys ({', '.join(subject_keys)}) to what to detect")
    return {key: "" if queries[key] is None else text_of(where, queries, key) for key in queries}


def _reference(folder: Path, where: str, entry: Mapping, key: str, phrases: Mapping[str, tuple[str, str]]) -> Reference:
    if unknown := sorted(set(entry) - set(ENTRY_KEYS)):
        raise ValueError(f"{where}: unknown key {json.dumps(unknown[0])[:40]}; a photo's line has {', '.join(ENTRY_KEYS)}")
    image_path = _file_inside(folder, where, entry, "file_name")
    mask_path = _file_inside(folder, where, entry, "mask_path") if "mask_path" in entry else None
    if image_path == mask_path:
        raise ValueError(f'{where}: "mask_path" is the photo itself; name a mask, white on the subject')
    caption = text_of(where, entry, "text")
    check_caption(f'{where}: "text"', caption, key, {other: identifier for other, (identifier, _) in phrases.items()})
    return Reference(image_path=image_path, mask_path=mask_path, caption=caption)


def _file_inside(folder: Path, where: str, entry: Mapping, key: str) -> Path:
    """The file that entry[key] names, which must be in `folder`, also after symbolic links."""
    name = text_of(where, entry, key)
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
        found = (folder / name).is_file()
    except (OSError, RuntimeError) as error:
        # The error itself holds the path once more, which may be thousands of characters.
        cause = getattr(error, "strerror", None) or "a link to itself"
        raise ValueError(f'{where}: "{key}" is {json.dumps(name)[:80]}, which is no path ({cause}); correct it') from error
    if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise ValueError(
            f'{where}: "{key}" is "{name}", outside the folder; copy the file into it and name it without ".." or a leading "/"'
        )
    if is_device(Path(name).name):
        raise ValueError(f'{where}: "{key}" is "{name}", a device on some systems; rename the file')
    if not found:
        raise ValueError(f'{where}: "{key}" is "{name}", and there is no such file; add it or remove the line')
    return folder / name
