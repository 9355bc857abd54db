"""Reading a file of settings into its pydantic model; every mistake is answered with one line that names its place."""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from pipeline.settings import yaml_lines
from pipeline.settings.yaml_lines import Key

LARGEST_FILE = 1_000_000  # bytes
File = TypeVar("File", bound=BaseModel)
# Every run would copy a secret into its folder.
SECRET = "looks like a secret, and a run stores its file with its results; remove it, no key here needs one"
SECRET_KEY = re.compile(r"(^|[_-])(api_?key|access_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
# The keys of well-known services, the whole value being one.
SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abpr]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
# Nobody fills in a variable.
VARIABLE = re.compile(r"\$\{\w+\}|^\$\w+(?=/|$)")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's keys and values with overrides applied, before any model has seen them, and where each was given."""

    path: Path
    values: dict[str, Any]
    origins: dict[Key, str]

    def place(self, key: Key) -> str:
        """Where a key, or the one that it is in, was given."""
        return next((self.origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in self.origins), str(self.path))


def load_settings(model: type[File], path: Path, overrides: Sequence[str] = ()) -> File:
    """The file at `path`, read as `model`, with overrides such as "sampling.steps=20" applied.

    An override's value is YAML: `combinations=[../a/b]` gives a list. Raises ValueError of one line with
    file and line, or the override, the key and what to do.
    """
    return validated(model, read_source(path, overrides))


def read_source(path: Path, overrides: Sequence[str] = ()) -> Source:
    """What the file and the overrides say, to tell which model they are for. Errors as `load_settings`."""
    values, lines = _read(path)
    origins: dict[Key, str] = {key: f"{path}, line {line}" for key, line in lines.items()}
    for override in overrides:
        origins[_apply(values, override)] = f"--set {override}"
    source = Source(path=path, values=values, origins=origins)
    for key, mistake in _forbidden_texts(values):
        place = source.place(key)
        raise ValueError(f"{place.partition('=')[0] if place.startswith('--set ') else place}: {_dotted(key)}: {mistake}")
    return source


def validated(model: type[File], source: Source) -> File:
    """What was read, as `model`; errors as `load_settings`."""
    try:
        return model.model_validate_json(json.dumps(source.values))
    except ValidationError as error:
        key, said = mistake_in(model, error)
        more = f" ({error.error_count() - 1} more after this)" if error.error_count() > 1 else ""
        raise ValueError(f"{source.place(key)}: {said}{more}") from None


def mistake_in(kind: Any, invalid: ValidationError) -> tuple[Key, str]:
    """The key of the first mistake in values that were read as `kind`, and one line about it, from the key on."""
    error = invalid.errors()[0]
    # "<list>", "literal[...]" and the like say which of several forms a value has; they are no keys of a file.
    key = tuple(part for part in error["loc"] if not re.search(r"[<\[]", str(part)))
    name = _dotted(key)
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return key, f"unknown key {name!r}{_suggestion(kind, key)}"
        case "missing":
            return key, f"missing key {name!r}; add it"
        case "value_error":
            said = str(error["ctx"]["error"])
            if is_dataclass(_kind_at(kind, key)):
                # A dataclass names the field at fault first: "steps = 0: allowed are ...".
                return (*key, said.partition(" ")[0]), f"{name}.{said}"
            return key, f"{name}: {said}" if name else said
    return key, f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}, got {json.dumps(error['input'])[:80]}"


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
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


def _apply(values: dict[str, Any], override: str) -> Key:
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


def _forbidden_texts(value: object, key: Key = ()) -> Iterator[tuple[Key, str]]:
    """Key and mistake of each text in nested values that must not be there; a secret is not repeated in the mistake."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if SECRET_KEY.search(str(name)) and inner is not None:
                yield (*key, name), SECRET
            else:
                yield from _forbidden_texts(inner, (*key, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _forbidden_texts(inner, (*key, index))
    elif isinstance(value, str):
        if SECRET_VALUE.fullmatch(value.strip()):
            yield key, SECRET
        elif matched := VARIABLE.search(value):
            yield key, f"{matched[0]} is not filled in; write the value out"


def _dotted(key: Key) -> str:
    """A key as it is spoken of: cluster.fit.gpus, prompts[0]."""
    return re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, key)))


def _suggestion(kind: Any, key: Key) -> str:
    """What the unknown key may have meant."""
    known = _keys_of(_kind_at(kind, key[:-1]))
    if not known:
        return ""
    close = difflib.get_close_matches(str(key[-1]), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed: {', '.join(known)}"


def _kind_at(kind: Any, key: Key) -> Any:
    """The kind of value that stands at a key of `kind`; null and what annotates it left out."""
    if get_origin(kind) is Annotated:
        return _kind_at(get_args(kind)[0], key)
    if get_origin(kind) in (Union, UnionType):
        return _kind_at(next(form for form in get_args(kind) if form is not NoneType), key)
    if not key:
        return kind
    forms = get_args(kind) or (None,)
    return _kind_at(_keys_of(kind).get(key[0], forms[-1 if get_origin(kind) is dict else 0]), key[1:])


def _keys_of(kind: Any) -> dict[str, Any]:
    """Key -> kind of value, of a model or dataclass."""
    if is_dataclass(kind):
        return get_type_hints(kind)
    fields = getattr(kind, "model_fields", {})
    return {field.alias or name: field.annotation for name, field in fields.items()}
