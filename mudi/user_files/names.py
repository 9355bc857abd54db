"""What combinations, subjects and files may be called: folders of a run are named after them, on whatever file system it lies."""

import json
import re

# Names that some file systems keep for devices, whatever follows after a dot.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
# In prompts "{subjects}" stands for all of them.
PLACEHOLDER = "subjects"


def is_device(name: str) -> bool:
    """Whether a file of this name, such as "nul.jpg", is a device on some systems and cannot be kept there."""
    return name.partition(".")[0].lower() in DEVICES


def check_combination_name(where: str, name: str) -> None:
    """ValueError that begins with `where` unless a folder of this name can name a combination."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise ValueError(f"{where}: the folder's name names the combination; rename it to letters, digits, '.', '_' and '-'")
    if is_device(name):
        raise ValueError(f'{where}: the folder\'s name names the combination, and "{name}" is a device on some systems; choose another')


def check_subject_key(where: str, key: str) -> None:
    """ValueError that begins with `where` unless `key` can name a subject in files, folders and prompts."""
    if not re.fullmatch(r"[A-Za-z]\w*", key, re.ASCII):
        raise ValueError(f'{where}: the subject key {json.dumps(key)[:40]} must be a letter, then letters, digits or "_"')
    if is_device(key) or key.lower() == PLACEHOLDER:
        raise ValueError(f'{where}: the subject key "{key}" has a meaning of its own; choose another, such as "a"')
