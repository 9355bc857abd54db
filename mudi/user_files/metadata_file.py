"""`metadata.jsonl` as JSON objects with their line numbers, and texts and boxes in them that are fit to work with."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from mudi.records import CANVAS, Box
from mudi.user_files.file_kinds import LFS_POINTER, recognise

METADATA = "metadata.jsonl"
LARGEST_METADATA = 100_000_000  # bytes; ten thousand published lines have two million
LONGEST_TEXT = 2000  # characters; the text encoders read about 300
EXAMPLE_HEADER = '{"id": {"a": "olis corgi", "b": "hta chow chow"}}'

# Is told each mistake, and the names of files that a photo's line with it gives, None where it is in no such line.
# What it does not raise is left out.
Refuse = Callable[[ValueError, tuple[str, ...] | None], None]


def stop(mistake: ValueError, _names: tuple[str, ...] | None) -> None:
    """The `refuse` of every run: the first mistake ends it."""
    raise mistake


def read_lines(folder: Path, refuse: Refuse) -> Iterator[tuple[str, dict]]:
    """The objects of `metadata.jsonl`, each with its "file:line"; blank lines and a byte order mark are accepted."""
    path = folder / METADATA
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a folder with photos, masks and {METADATA}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; write a header like {EXAMPLE_HEADER}, then one line a photo")
    first = True
    for number, line in enumerate(_whole_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = _object(f"{path}:{number}", line)
        except ValueError as mistake:
            if first:
                raise
            refuse(mistake, ())
        else:
            first = False
            yield f"{path}:{number}", value
    if first:
        raise ValueError(f"{path}: the file is empty; its first line must be a header like {EXAMPLE_HEADER}")


def _whole_text(path: Path) -> str:
    if path.stat().st_size > LARGEST_METADATA:
        raise ValueError(f"{path}: larger than {LARGEST_METADATA} bytes; this is no list of photos")
    content = path.read_bytes()
    if content.startswith(LFS_POINTER):
        what, remedy = recognise(content)
        raise ValueError(f"{path}: it is {what}; {remedy}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error


def _object(where: str, line: str) -> dict:
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise ValueError(f"{where}: not a JSON object on one line but brackets nested too deep; correct or remove the line") from error
    except ValueError as error:
        raise ValueError(f"{where}: not a JSON object on one line ({error}); correct or remove the line") from error
    if not isinstance(value, dict):
        raise ValueError(f'{where}: not a JSON object but {line.strip()[:40]!a}; write {{"id": ..., ...}}')
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object's pairs as a dict; JSON lets a second "a" replace the first, and a subject would be lost."""
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"the key {json.dumps(twice[0])[:40]} occurs twice")
    return dict(pairs)


def text_of(where: str, entry: Mapping, key: str) -> str:
    """entry[key] if it is text to work with, without space around it."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{where}: "{key}" is {json.dumps(value)[:40]}; give it a text')
    if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", value.strip()):
        raise ValueError(f'{where}: "{key}" is {json.dumps(value)[:40]}; remove control characters and broken Unicode')
    if len(value) > LONGEST_TEXT:
        raise ValueError(f'{where}: "{key}" has {len(value)} characters; shorten it to {LONGEST_TEXT} at most')
    return value.strip()


def layouts_of(where: str, layouts: object, subject_keys: Collection[str]) -> tuple[dict[str, Box], ...]:
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
