"""Reading a file of settings into its pydantic model; every mistake is answered with one line that names its place."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.settings import yaml_lines
from pipeline.settings.forbidden import forbidden_texts

LARGEST_FILE = 1_000_000  # bytes
File = TypeVar("File", bound=BaseModel)


def load_settings(model: type[File], path: Path, overrides: Sequence[str] = ()) -> File:
    """The file at `path`, read as `model`, with overrides such as "sampling.steps=20" applied.

    An override's value is YAML: `combinations=[../a/b]` gives a list. Raises ValueError of one line with
    file and line, or the override, the key and what to do.
    """
    values, lines = _read(path)
    origins: dict[yaml_lines.Key, str] = {key: f"{path}, line {line}" for key, line in lines.items()}
    for override in overrides:
        origins[_apply(values, override)] = f"--set {override}"
    for key, mistake in forbidden_texts(values):
        place = _place(key, path, origins)
        raise ValueError(f"{place.partition('=')[0] if place.startswith('--set ') else place}: {_dotted(key)}: {mistake}")
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ValueError(_message(model, error.errors(), path, origins)) from None


def read_values(path: Path) -> dict[str, Any]:
    """The file's keys and values before any model has seen them, to tell which model they are for. Errors as `load_settings`."""
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[yaml_lines.Key, int]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such run file; check the path")
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: larger than {LARGEST_FILE} bytes; this is no run file")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    try:
        values, lines = yaml_lines.parse(text)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    if not isinstance(values, dict):
        found = "the run file is empty" if values is None else f"the run file is a {type(values).__name__}, not `key: value` lines"
        raise ValueError(f"{path}, line 1: {found}; give at least name, combinations, candidates, keep and prompts")
    return values, lines


def _apply(values: dict[str, Any], override: str) -> yaml_lines.Key:
    """Sets one override in `values` and returns its key."""
    name, equals, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not equals or not all(key):
        raise ValueError(f"--set {override}: expected key.sub=value")
    try:
        value, _ = yaml_lines.parse(text)
    except ValueError as error:
        raise ValueError(f"--set {override}: {error}") from None
    for depth, part in enumerate(key[:-1], start=1):
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {override}: {'.'.join(key[:depth])} is a {type(values).__name__} and has no keys; set it as a whole")
    values[key[-1]] = value
    return key


def _message(model: type[BaseModel], errors: Sequence[ErrorDetails], path: Path, origins: dict[yaml_lines.Key, str]) -> str:
    """One line about the first error, and how many more there are."""
    first = errors[0]
    key = _key(first)
    place = _place(key, path, origins)
    name = _dotted(key)
    more = f" ({len(errors) - 1} more after this)" if len(errors) > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            return f"{place}: unknown key {name!r}{_suggestion(model, key)}{more}"
        case "missing":
            return f"{place}: missing key {name!r}; add it{more}"
        case "value_error":
            return f"{place}: {name + ': ' if name else ''}{first['ctx']['error']}{more}"
    return f"{place}: {name}: {_kind(first)}{more}"


def mistake_in(values: ValidationError) -> str:
    """The first mistake in values that were put together from several places of a file, from their key on."""
    first = values.errors()[0]
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else _kind(first)
    return ": ".join(filter(None, (_dotted(_key(first)), said)))


def _key(error: ErrorDetails) -> yaml_lines.Key:
    """Where the mistake is. "<list>", "literal[...]" and the like say which of several forms a value has; they are no keys of a file."""
    return tuple(part for part in error["loc"] if not re.search(r"[<\[]", str(part)))


def _kind(error: ErrorDetails) -> str:
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {json.dumps(error['input'])[:80]}"


def _dotted(key: yaml_lines.Key) -> str:
    """A key as it is spoken of: cluster.fit.gpus, prompts[0]."""
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, key)))


def _place(key: yaml_lines.Key, path: Path, origins: dict[yaml_lines.Key, str]) -> str:
    """Where a key, or what it is in, was given."""
    return next((origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in origins), str(path))


def _suggestion(model: type[BaseModel], key: yaml_lines.Key) -> str:
    """What the unknown key may have meant; nothing where its place in the file is inside a list or a free mapping."""
    for part in key[:-1]:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return ""
        model = field.annotation
    close = difflib.get_close_matches(str(key[-1]), model.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(model.model_fields)}"
