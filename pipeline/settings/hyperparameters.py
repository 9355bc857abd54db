"""A method's hyperparameters against what its dataclass declares: names and kinds of values, before the method sees them."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mudi.personalization import SET_BY_RUNS, Personalization

STRICT = ConfigDict(strict=True, allow_inf_nan=False)


def check_hyperparameters(place: str, method: type[Personalization], hyperparameters: Mapping[str, Any]) -> None:
    """Raise ValueError of one line, naming the `place` in the file, for a key that `method` does not have or a value of another kind.

    Kinds are JSON's: a list stands for a tuple, a whole number for a float, and nothing else is converted: "3" is no number
    and "no" no truth value, which both would pass silently where Python asks no kind.
    """
    settable = sorted({field.name for field in fields(method)} - set(SET_BY_RUNS))
    kinds = get_type_hints(method)
    for key, value in hyperparameters.items():
        require_known(place, key, settable, f"{method.name} has no such hyperparameter")
        try:
            TypeAdapter(kinds[key], config=STRICT).validate_json(json.dumps(value))
        except ValidationError as error:
            wanted = " or ".join(dict.fromkeys(_lower(found["msg"]) for found in error.errors()))
            raise ValueError(f"{place}.{key} = {json.dumps(value)[:80]}: {wanted}") from None


def require_known(place: str, key: str, settable: Sequence[str], said: str) -> None:
    """Raise ValueError, naming the `place` in the file, for a key that is not `settable`, beginning with what is `said` of it."""
    if key not in settable:
        close = difflib.get_close_matches(key, settable, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(settable)}"
        raise ValueError(f"{place}.{key}: {said}; {hint}")


def _lower(message: str) -> str:
    return message[0].lower() + message[1:]
