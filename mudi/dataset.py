"""A user's folder becomes a Combination; every check on files that a user wrote is made here.

The folder is read as MuDI publishes its own: photos, masks and `metadata.jsonl`, whose first line names
the subjects, {"id": {"a": "olis corgi", "b": "hta chow chow"}}, and whose other lines each name one
photo, {"id": "a", "file_name": "a00.jpg", "mask_path": "mask_a00.jpg", "text": "A photo of a olis corgi."}.
"mask_path" may be left out for methods that cut nothing out.
The first line may also hold {"query": {"a": "dog"}}, what the detector is asked for, and {"layouts": [{"a": [0, 200,
500, 1000], "b": [520, 400, 1000, 1000]}]}, boxes (x0, y0, x1, y1) for all subjects on a canvas of 1024 by 1024.

All that is wrong with a folder is a ValueError of one line that names the file, its line or key, and
what to do. Nothing is skipped: a listed file that is missing stops the run.
"""

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from mudi.augment import CANVAS, Segment
from mudi.photos import decode, flatten, read_image, read_mask
from mudi.records import Box, Combination, Reference, Subject

EXAMPLE_HEADER = '{"id": {"a": "olis corgi", "b": "hta chow chow"}}'
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


def load_combination(folder: Path, queries: Mapping[str, str] | None = None) -> Combination:
    """The combination that `folder` describes, without prompts; its key is the folder's name.

    Checks the text and that every listed file is there, and decodes no image (`check_images` does). A
    subject's detection query is `queries[key]`, else the header's, else that of DETECTION_QUERIES for its
    class noun, else the class noun's last word.
    """
    folder = Path(os.path.abspath(folder))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", folder.name, re.ASCII):
        raise ValueError(f"{folder}: the folder's name names the combination; rename it to letters, digits, '.', '_' and '-'")
    (where, header), *entries = _read_lines(folder)
    phrases = _phrases(where, header)
    asked = _detection_queries(where, header.get("query", {}), phrases)
    asked |= _detection_queries(f'queries of "{folder.name}"', queries or {}, phrases)

    references = {key: [] for key in phrases}
    for line, entry in entries:
        key = _text(line, entry, "id")
        if key not in phrases:
            raise ValueError(f'{line}: unknown id "{key}"; the header has {", ".join(phrases)}')
        reference = _reference(folder, line, entry, identifier=phrases[key][0])
        if reference.image_path in (earlier.image_path for earlier in references[key]):
            raise ValueError(f'{line}: "{entry["file_name"]}" is listed twice for "{key}"; remove one of the lines')
        references[key].append(reference)
    for key in phrases:
        if not references[key]:
            raise ValueError(f'{where}: subject "{key}" has no photo; add a line with "id": "{key}"')
    subjects = tuple(
        Subject(
            key=key,
            identifier=identifier,
            class_noun=class_noun,
            detection_query=asked.get(key) or DETECTION_QUERIES.get(class_noun.lower(), class_noun.split()[-1]),
            references=tuple(references[key]),
        )
        for key, (identifier, class_noun) in phrases.items()
    )
    return Combination(key=folder.name, subjects=subjects, layouts=_layouts(where, header.get("layouts", []), phrases))


def check_images(combination: Combination) -> None:
    """Decodes every photo, and every mask that is given, and raises on the first that cannot be trained on."""
    for subject in combination.subjects:
        for reference in subject.references:
            if reference.mask_path is None:
                read_image(reference.image_path)
            else:
                _read_segment(reference)


def require_masks(combination: Combination, wanted_by: str) -> None:
    """Raise ValueError if a photo of the combination has no mask; `wanted_by` is what needs it."""
    bare = [r.image_path for s in combination.subjects for r in s.references if r.mask_path is None]
    if bare:
        raise ValueError(
            f"{bare[0]}: has no mask ({len(bare)} such photos in {combination.key}), and {wanted_by} cuts the subjects out; "
            'add "mask_path" to its line in metadata.jsonl'
        )


def load_segments(subject: Subject) -> list[Segment]:
    """The subject's photos with their masks, in the order of its references."""
    return [_read_segment(reference) for reference in subject.references]


def _read_segment(reference: Reference) -> Segment:
    """The photo and the mask of one reference, both upright."""
    if reference.mask_path is None:
        raise ValueError(f'{reference.image_path}: has no mask to cut the subject out; add "mask_path" to its line in metadata.jsonl')
    photo, orientation = decode(reference.image_path)
    return Segment(flatten(photo, "RGB", "white"), read_mask(reference.mask_path, (photo.height, photo.width), orientation))


def _read_lines(folder: Path) -> list[tuple[str, dict]]:
    """The objects of `metadata.jsonl`, each with its "file:line"; blank lines and a byte order mark are accepted."""
    path = folder / "metadata.jsonl"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder with photos, masks and metadata.jsonl")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write a header like {EXAMPLE_HEADER}, then one line a photo")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not a JSON object on one line ({error}); correct or remove the line") from error
        if not isinstance(value, dict):
            raise ValueError(f'{path}:{number}: not a JSON object but {line.strip()[:40]}; write {{"id": ..., ...}}')
        lines.append((f"{path}:{number}", value))
    if not lines:
        raise ValueError(f"{path}: the file is empty; its first line must be a header like {EXAMPLE_HEADER}")
    return lines


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object's pairs as a dict; JSON lets a second "a" replace the first, and a subject would be lost."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError(f"a key occurs twice among {', '.join(keys)}")
    return dict(pairs)


def _text(where: str, entry: Mapping, key: str) -> str:
    """entry[key] if it is text to work with, without space around it."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{where}: "{key}" is {json.dumps(value)[:40]}; give it a text')
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", value.strip()):
        raise ValueError(f'{where}: "{key}" is {json.dumps(value)[:40]}; remove control characters and broken Unicode')
    return value.strip()


def _phrases(where: str, header: Mapping) -> dict[str, tuple[str, str]]:
    """Subject key -> (identifier, class noun), in the header's order."""
    names = header.get("id")
    if not isinstance(names, dict) or set(header) - {"id", "query", "layouts"}:
        raise ValueError(f"{where}: the first line must be a header like {EXAMPLE_HEADER}")
    if len(names) < 2:
        raise ValueError(f'{where}: "id" names {len(names)} subject(s); a combination needs two or more')
    phrases = {}
    for key in names:
        if not re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII):
            raise ValueError(f'{where}: the subject key {json.dumps(key)} must be a letter, then letters, digits or "_"')
        identifier, *class_words = _text(where, names, key).split()
        if not class_words:
            raise ValueError(f'{where}: subject "{key}" is only "{identifier}"; give an identifier and a class, like "olis corgi"')
        if identifier.lower() in (earlier.lower() for earlier, _ in phrases.values()):
            raise ValueError(f'{where}: two subjects have the identifier "{identifier}"; give each its own rare word')
        phrases[key] = (identifier, " ".join(class_words))
    return phrases


def _detection_queries(where: str, queries: Mapping[str, str], subject_keys: Collection[str]) -> dict[str, str]:
    """The queries by subject key, once they are known to name subjects and to be text."""
    if not isinstance(queries, Mapping) or set(queries) - set(subject_keys):
        raise ValueError(f"{where}: {str(queries)[:80]} must map subject keys ({', '.join(subject_keys)}) to what to detect")
    return {key: _text(where, queries, key) for key in queries}


def _layouts(where: str, layouts: object, subject_keys: Collection[str]) -> tuple[dict[str, Box], ...]:
    """The layouts, once each is known to give every subject a box on the canvas."""
    if not isinstance(layouts, list) or not all(isinstance(layout, dict) for layout in layouts):
        raise ValueError(f'{where}: "layouts" is {json.dumps(layouts)[:60]}; give a list of objects, each subject key -> [x0, y0, x1, y1]')
    for number, layout in enumerate(layouts, start=1):
        place = f"{where}: layout {number}"
        for key in layout:
            if key not in subject_keys:
                raise ValueError(f"{place}: unknown subject {json.dumps(key)}; the header has {', '.join(subject_keys)}")
        if absent := [key for key in subject_keys if key not in layout]:
            raise ValueError(f'{place}: subject "{absent[0]}" has no box; a layout places every subject')
        for key, box in layout.items():
            numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
            if not (numbers and 0 <= box[0] < box[2] <= CANVAS and 0 <= box[1] < box[3] <= CANVAS):
                raise ValueError(
                    f'{place}: the box of "{key}" is {json.dumps(box)[:60]}; give [x0, y0, x1, y1] with x0 < x1 and y0 < y1, '
                    f"all from 0 to {CANVAS}"
                )
    return tuple({key: tuple(map(float, layout[key])) for key in subject_keys} for layout in layouts)


def _reference(folder: Path, where: str, entry: Mapping, identifier: str) -> Reference:
    """The photo that one line lists; a caption without the identifier would bind the photo to nothing."""
    image_path = _file_inside(folder, where, entry, "file_name")
    mask_path = _file_inside(folder, where, entry, "mask_path") if "mask_path" in entry else None
    if image_path == mask_path:
        raise ValueError(f'{where}: "mask_path" is the photo itself; name a mask, white on the subject')
    caption = _text(where, entry, "text")
    if identifier.lower() not in caption.lower():
        raise ValueError(f'{where}: "text" does not name "{identifier}"; write a caption that does')
    return Reference(image_path=image_path, mask_path=mask_path, caption=caption)


def _file_inside(folder: Path, where: str, entry: Mapping, key: str) -> Path:
    """The file that entry[key] names, which must be in `folder`, also after symbolic links."""
    name = _text(where, entry, key)
    try:
        inside = (folder / name).resolve().is_relative_to(folder.resolve())
        found = (folder / name).is_file()
    except (OSError, RuntimeError) as error:
        raise ValueError(f'{where}: "{key}" is {json.dumps(name)[:80]}, which is no path ({error}); correct it') from error
    if Path(name).is_absolute() or ".." in Path(name).parts or not inside:
        raise ValueError(
            f'{where}: "{key}" is "{name}", outside the folder; copy the file into it and name it without ".." or a leading "/"'
        )
    if not found:
        raise ValueError(f'{where}: "{key}" is "{name}", and there is no such file; add it or remove the line')
    return folder / name
