"""A method's hyperparameters against what its dataclasses declare: names and kinds of values, before the method sees them."""

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mudi.methods.keys import Keys, in_place_of, keys_of

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_hyperparameters(place: str, name: str, hyperparameters: Mapping[str, Any]) -> None:
    """Raise ValueError of one line, naming the `place` in the file, for a key that the method `name`, or a part of its recipe, does
    not have, or a value of another kind. Keys that earlier files had are answered with those of now.

    Kinds are JSON's: a list stands for a tuple, a whole number for a float, and nothing else is converted: "3" is no number
    and "no" no truth value, which both would pass silently where Python asks no kind.
    """
    keys = keys_of(name, hyperparameters)
    for key, value in hyperparameters.items():
        if key not in keys.kinds and (answer := in_place_of(name, key, value)):
            shown = f" = {json.dumps(value)}" if key in keys.parts else ""
            raise ValueError(f"{place}.{key}{shown}: write {answer}")
    _check(place, keys, hyperparameters)


def _check(place: str, keys: Keys, values: Mapping[str, Any]) -> None:
    # The name first: it decides which other keys there are.
    for key in sorted(values, key=lambda key: key != "name"):
        here, value = f"{place}.{key}", values[key]
        if key in keys.parts:
            _check_part(here, keys, key, value)
            continue
        if key in keys.elsewhere:
            others = " or ".join(keys.elsewhere[key])
            raise ValueError(f"{here} = {json.dumps(value)[:80]}: {keys.owner} has no such thing; leave it out, or use name: {others}")
        require_known(place, key, sorted([*keys.kinds, *keys.parts]), f"{keys.owner} has no such hyperparameter")
        try:
            TypeAdapter(keys.kinds[key], config=STRICT).validate_json(json.dumps(value))
        except ValidationError as error:
            wanted = " or ".join(dict.fromkeys(found["msg"][0].lower() + found["msg"][1:] for found in error.errors()))
            raise ValueError(f"{here} = {json.dumps(value)[:80]}: {wanted}") from None


def _check_part(here: str, keys: Keys, key: str, value: object) -> None:
    if value is None and key in keys.optional:
        return
    if not isinstance(value, Mapping):
        null = ", or null for none" if key in keys.optional else ""
        example = "{name: ...}" if "name" in keys.parts[key].kinds else "{steps: 200}"
        raise ValueError(f"{here} = {json.dumps(value)[:80]}: a part is a mapping; write {key}: {example}{null}")
    _check(here, keys.parts[key], value)


def require_known(place: str, key: str, settable: Sequence[str], said: str) -> None:
    """Raise ValueError, naming the `place` in the file, for a key that is not `settable`, beginning with what is `said` of it."""
    if key not in settable:
        close = difflib.get_close_matches(key, settable, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(settable)}"
        raise ValueError(f"{place}.{key}: {said}; {hint}")
