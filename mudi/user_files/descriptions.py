"""What a model may say of a user's photos: descriptive classes, captions and templates as checked text; a bad reply is asked again."""

import re
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 3
LONGEST_CAPTION = 300  # characters; CLIP reads 77 tokens, about as many as 300 characters of English
SHOWN = 80
LONGEST_QUOTE = 2000
CLASS = re.compile(r"[a-z]+(?: [a-z]+){0,3}")
# Control and format characters, among them those that turn the direction of writing, and lone surrogates.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")

# What a model said so far and what was wrong with it, in order.
Mistakes = tuple[tuple[str, str], ...]
Checked = TypeVar("Checked")


def ask_until_valid(ask: Callable[[Mistakes], str], check: Callable[[str], Checked], what: str) -> Checked:
    """What `check` makes of a reply of `ask`, which is told its mistakes and asked again, three times in all.

    `check` raises ValueError for a reply that will not do. ValueError of one line after the third: `what`
    was asked for, what was wrong with the last reply, and how it begins.
    """
    mistakes: Mistakes = ()
    while len(mistakes) < ATTEMPTS:
        reply = ask(mistakes)
        try:
            return check(reply)
        except ValueError as error:
            mistakes = (*mistakes, (reply[:LONGEST_QUOTE], " ".join(str(error).split())))
    reply, mistake = mistakes[-1]
    raise ValueError(
        f"{what}: {ATTEMPTS} replies would not do; of the last, {quoted(reply)}, {mistake}; "
        "use another model, write these words by hand in subjects.yaml, or use --words templates"
    )


def correction(mistake: str) -> str:
    """How a model is told what was wrong with its reply."""
    return f"That will not do: {mistake}. Answer again, in the form that was asked for."


def quoted(reply: str) -> str:
    """The beginning of a reply, safe to print on one line."""
    return ascii(reply[:SHOWN])


def checked_class(text: str) -> str:
    """The descriptive class in `text`, lower case: 1 to 4 words of the letters a to z.

    Quotes and a full stop around it are left out, and an article before it, which would come to stand
    between identifier and class.
    """
    words = re.sub(r"^(?:an?|the) ", "", " ".join(text.strip().strip("\"'`.").lower().split()))
    if not CLASS.fullmatch(words):
        raise ValueError(f"the class {quoted(words)} is not 1 to 4 words of the letters a to z")
    return words


def checked_caption(text: str, phrase: str) -> str:
    """The caption in `text`, on one line, which names `phrase` ("olis corgi") as it is given, in whole words."""
    caption = text.strip().strip('"`').strip()
    _printable("the caption", caption)
    if len(caption) > LONGEST_CAPTION:
        raise ValueError(f"the caption has {len(caption)} characters, more than {LONGEST_CAPTION}")
    if re.search(r"[{}]", caption):
        raise ValueError("the caption holds braces, which stand for subjects in templates")
    if not _names(caption, phrase):
        raise ValueError(f'the caption does not name the subject as given, "{phrase}"')
    return caption


def checked_templates(texts: list[str], phrases: list[str], count: int) -> list[str]:
    """The first `count` of `texts`, distinct templates with {subjects} once and no other placeholder, which name no phrase themselves."""
    templates = []
    for text in (text.strip() for text in texts):
        _printable(f"the prompt {quoted(text)}", text)
        if len(text) > LONGEST_CAPTION:
            raise ValueError(f"the prompt {quoted(text)} has {len(text)} characters, more than {LONGEST_CAPTION}")
        if text.count("{subjects}") != 1 or re.search(r"[{}]", text.replace("{subjects}", "")):
            raise ValueError(f"the prompt {quoted(text)} does not hold {{subjects}} exactly once and no other braces")
        if named := [phrase for phrase in phrases if _names(text, phrase.split()[0])]:
            raise ValueError(f'the prompt {quoted(text)} names "{named[0].split()[0]}" itself; only {{subjects}} may name the subjects')
        if text.lower().rstrip(".") in (earlier.lower().rstrip(".") for earlier in templates):
            raise ValueError(f"the prompt {quoted(text)} is there twice")
        templates.append(text)
    if len(templates) < count:
        raise ValueError(f"there are {len(templates)} prompts; {count} were asked for")
    return templates[:count]


def _printable(what: str, text: str) -> None:
    if found := UNPRINTABLE.search(text):
        raise ValueError(f"{what} holds the unprintable character {found[0]!a}; write one line of plain text")


def _names(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
