"""What must not stand in a settings file: secrets, which every run would copy into its folder, and variables nobody fills in."""

import re
from collections.abc import Iterator

SECRET_KEY = re.compile(r"(^|[_-])(api_?key|access_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
# What the keys of well-known services look like, the whole value being one.
SECRET_VALUE = re.compile(
    r"hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
    r"|xox[abpr]-[\w-]{10,}|AKIA[A-Z0-9]{12,}|-----BEGIN [A-Z ]*PRIVATE KEY-----.*",
    re.DOTALL,
)
VARIABLE = re.compile(r"\$\{\w+\}|^\$\w+(?=/|$)")


def forbidden_texts(value: object, key: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Key and mistake of each text in nested values that must not be there; a secret is not repeated in the mistake."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if SECRET_KEY.search(str(name)) and inner is not None:
                yield (*key, name), "looks like a secret, and a run stores its file with its results; remove it, no key here needs one"
            else:
                yield from forbidden_texts(inner, (*key, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from forbidden_texts(inner, (*key, index))
    elif isinstance(value, str):
        if SECRET_VALUE.fullmatch(value.strip()):
            yield key, "looks like a secret, and a run stores its file with its results; remove it, no key here needs one"
        elif matched := VARIABLE.search(value):
            yield key, f"{matched[0]} is not filled in; write the value out"
