"""The keys that a file may give a method: kinds of values, parts of a recipe, defaults of many methods, and keys of earlier files."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, get_type_hints

from mudi.merging.recipes import MERGES
from mudi.methods import METHODS
from mudi.methods.modular import OF_THE_WHOLE, SINGLES, Modular
from mudi.options import Refine
from mudi.personalization import SET_BY_RUNS

# Of a refinement, what an earlier flat key named for the fit and for it.
SHARED = ("batch", "accumulation")
# Keys of earlier files: the part that they stand in, and their name there.
OLD = {
    "merge_rank": ("merge", "rank"), "density": ("merge", "density"), "kv_positions": ("merge", "positions"), "ridge": ("merge", "ridge"),
    "neutral_weight": ("merge", "neutral_weight"), "refine_steps": ("refine", "steps"), "refine_learning_rate": ("refine", "learning_rate"),
    "kl_weight": ("refine", "kl_weight"), "self_images": ("refine", "images"), "self_steps": ("refine", "sample_steps"),
    "self_guidance_scale": ("refine", "guidance_scale"), "self_negative_prompt": ("refine", "negative_prompt"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Keys:
    """What one mapping of a file may hold.

    owner: whose keys these are. kinds: key -> type of its value. parts: key -> the keys of the mapping there; those of
    `optional` may be null. reached: keys that a benchmark's defaults fill. elsewhere: keys that only others in this place have -> those.
    """

    owner: str
    kinds: Mapping[str, object]
    parts: Mapping[str, "Keys"] = field(default_factory=dict)
    optional: Collection[str] = ()
    reached: Collection[str] = ()
    elsewhere: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def keys_of(name: str, values: Mapping[str, object]) -> Keys:
    """The keys of the method `name`; `values`, those of a file as they stand there, say which parts a recipe has."""
    method = METHODS[name]()
    if not isinstance(method, Modular):
        kinds = _kinds(type(method), without=SET_BY_RUNS)
        return Keys(owner=name, kinds=kinds, reached=tuple(kinds))
    kinds = _kinds(Modular, without=(*SET_BY_RUNS, "name", "single", "merge", "refine"))
    refine = _kinds(Refine)
    parts = {
        "single": _choice(values.get("single"), method.single.name, SINGLES, reached=True),
        "merge": _choice(values.get("merge"), method.merge.name, MERGES, reached=False),
        "refine": Keys(owner="a refinement", kinds=refine, reached=SHARED if values.get("refine", method.refine) else ()),
    }
    return Keys(owner=name, kinds=kinds, parts=parts, optional=("refine",), reached=tuple(kinds))


def default_keys() -> list[str]:
    """The keys that some method has for a benchmark's defaults."""
    methods = [keys_of(name, {}) for name in METHODS] + [keys_of("modular", {"single": {"name": name}}) for name in SINGLES]
    return sorted({key for of in methods for reached in (of, *of.parts.values()) for key in reached.reached})


def with_defaults(name: str, defaults: Mapping[str, object], values: Mapping[str, object]) -> dict[str, object]:
    """The values over those of a benchmark's flat defaults that the method, or a part of its recipe, has a use for."""
    keys = keys_of(name, values)
    filled = {**_used(keys, defaults), **values}
    for part, of_part in keys.parts.items():
        given, used = values.get(part, {}), _used(of_part, defaults)
        if used and isinstance(given, Mapping):
            filled[part] = {**used, **given}
    return filled


def overlaid(name: str, under: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """The values `under` with those of `over`; of a part, key by key, unless `over` names another method or merge for it."""
    laid = {**under, **over}
    for part, of_part in keys_of(name, under).parts.items():
        below, above = under.get(part), over.get(part)
        if isinstance(below, Mapping) and isinstance(above, Mapping) and above.get("name", of_part.owner) == of_part.owner:
            laid[part] = {**below, **above}
    return laid


def in_place_of(name: str, key: str, value: object) -> str | None:
    """What to write in place of a flat key or value of earlier files; None for one that they did not have."""
    method = METHODS[name]()
    if not isinstance(method, Modular):
        return None
    if key in ("single", "merge") and isinstance(value, str):
        return f"{key}: {{name: {value}}}"
    if key == "refine_steps" and value == 0:
        return "refine: null"
    if key in OLD:
        part, told = OLD[key]
        return f"{part}: {{{told}: {_shown(value)}}}"
    singles = {of for single in SINGLES.values() for of in _kinds(single, without=OF_THE_WHOLE)}
    if key not in singles:
        return None
    told = f"{{{key}: {_shown(value)}}}"
    return f"single: {told}" + (f", and refine: {told} for a refinement" if key in SHARED else "")


def _kinds(of_class: type, without: Collection[str] = ()) -> dict[str, object]:
    hints = get_type_hints(of_class)
    return {of.name: hints[of.name] for of in fields(of_class) if of.name not in without}


def _choice(given: object, own: str, choices: Mapping[str, type], reached: bool) -> Keys:
    """The keys of the value that a part's `name` chooses, `own` without one, and of no other; whether a benchmark's defaults fill them."""
    name = given.get("name", own) if isinstance(given, Mapping) else own
    chosen = name if name in tuple(choices) else own
    of_each = {choice: _kinds(of_class, without=OF_THE_WHOLE) for choice, of_class in choices.items()}
    others = dict.fromkeys(key for kinds in of_each.values() for key in kinds if key not in of_each[chosen])
    elsewhere = {key: tuple(choice for choice, kinds in of_each.items() if key in kinds) for key in others}
    kinds = {"name": Literal[tuple(choices)], **of_each[chosen]}
    return Keys(owner=chosen, kinds=kinds, elsewhere=elsewhere, reached=tuple(of_each[chosen]) if reached else ())


def _used(keys: Keys, defaults: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in defaults.items() if key in keys.reached}


def _shown(value: object) -> str:
    """A value as YAML has it between braces."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
