"""A YAML text as plain values, together with the line where each key stands.

YAML 1.2 through ruamel: `1e-4` is a number and `no` is a word. What a settings file never needs is refused
rather than interpreted: tags (they name code), anchors and aliases (they can multiply a small file into a
huge value), duplicate keys (one of the two would silently lose), NaN and infinity.
"""

import math

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

Key = tuple[str | int, ...]

PLAIN_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")}
DEEPEST = 20


def parse(text: str) -> tuple[object, dict[Key, int]]:
    """The value of a YAML text (None when it is empty) and the line, from 1, of every key and list item.

    Raises ValueError of one line that begins "line 3, column 2: ...".
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
    except MarkedYAMLError as error:
        raise ValueError(_syntax_message(error, text)) from None
    except RecursionError:
        raise ValueError(f"line 1: nested more than {DEEPEST} levels deep; flatten it") from None
    except YAMLError as error:
        raise ValueError(f"line 1: {str(error).splitlines()[0]}; save the file as plain UTF-8 text") from None
    lines: dict[Key, int] = {}
    return (None if root is None else _plain(root, (), lines, yaml)), lines


def _plain(node: Node, key: Key, lines: dict[Key, int], yaml: YAML) -> object:
    line = node.start_mark.line + 1
    if len(key) > DEEPEST:
        raise ValueError(f"line {line}: nested more than {DEEPEST} levels deep; flatten it")
    if node.anchor is not None:
        raise ValueError(f"line {line}: anchors and aliases (&{node.anchor}) are not allowed; write the value out")
    if node.tag not in PLAIN_TAGS:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        raise ValueError(f"line {line}: a value of type {kind!r} is not allowed; write a number, true, false, null or quoted text")
    if isinstance(node, ScalarNode):
        return _scalar(node, line, yaml)
    if isinstance(node, MappingNode):
        return _mapping(node, key, lines, yaml)
    for index, item in enumerate(node.value):
        lines[*key, index] = item.start_mark.line + 1
    return [_plain(item, (*key, index), lines, yaml) for index, item in enumerate(node.value)]


def _mapping(node: MappingNode, key: Key, lines: dict[Key, int], yaml: YAML) -> dict:
    values: dict[str, object] = {}
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        if not isinstance(name_node, ScalarNode):
            raise ValueError(f"line {line}: a key must be a word, not a list or a mapping; quote it if braces belong to the text")
        name = name_node.value
        if name in values:
            raise ValueError(f"line {line}: duplicate key {name!r}, first given on line {lines[*key, name]}; keep one of them")
        lines[*key, name] = line
        values[name] = _plain(value_node, (*key, name), lines, yaml)
    return values


def _scalar(node: ScalarNode, line: int, yaml: YAML) -> object:
    try:
        value = yaml.constructor.construct_object(node)
    except ValueError:
        raise ValueError(f"line {line}: {node.value[:40]!r} cannot be read as a number; quote it if it is text") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"line {line}: {node.value} is not a finite number; give a finite one")
    return value


def _syntax_message(error: MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    lines = text.splitlines()
    if mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return f"{place}: a tab; indent with spaces"
    return f"{place}: {error.problem or error.context}; check quotes, brackets and indentation near here"
