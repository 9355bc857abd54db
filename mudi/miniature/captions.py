"""Captions of miniature scenes, the vocabulary they use, and the CLIP tokenizer built from it.

Two kinds of names occur. A fixed name always stands for one identity, so that the model learns what a
name is. The rare identifiers (`olis`, `hta`, ...) stand for anyone at all, as a rare token does in a
large model: the tokens are in distribution but carry no identity until a LoRA gives them one.
"""

import numpy as np
from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from mudi.miniature.world import BACKGROUNDS, CLASSES, COLOURS, PLAIN_BACKGROUNDS, Identity, Scene

TOKENS = 40
IDENTIFIERS = ("olis", "hta", "ult", "amg", "lun")
NAMES = tuple(a + b for a in ("bo", "mi", "ru", "ta", "ze", "ki") for b in ("lo", "na", "ski", "dri", "pu", "vek", "ma", "to"))
PLACES = {
    "grass": "on the grass",
    "beach": "on the beach",
    "snow": "in the snow",
    "night": "at night",
    "desert": "in the desert",
    "room": "in a room",
    **dict.fromkeys(PLAIN_BACKGROUNDS, "simple background"),
}
PLAIN_WORDS = {name: f"{name} background" for name in PLAIN_BACKGROUNDS}

# Common words of users' captions and templates that no miniature scene shows: single tokens without
# meaning here, so that an ordinary prompt fits the context.
OTHER_WORDS = (
    "the of and with to one two three corgi chow teddy plush plushie robot toy monster can drink "
    "castle lighthouse russian weimaraner harry potter brown beige full body shot view front side set "
    "against bold before striking playing jumping sitting standing running walking sleeping looking "
    "together floating pool puddle garden flowers waves sea bright sun top hill moon tea party table "
    "sky sunny park bench forest path street city jungle window sticker collage low quality blurry "
    "action figure award winning photography highly detailed anime cartoon graphic text painting crayon graphite abstract glitch"
).split()


def vocabulary() -> list[str]:
    """The words that are single tokens, in a fixed order without repetition."""
    words = "a photo picture of and wearing with hat scarf belly , . on in at the simple background".split()
    words += [*CLASSES, *COLOURS, "white", "gray", "teal", *BACKGROUNDS, *IDENTIFIERS, *NAMES, *OTHER_WORDS]
    return list(dict.fromkeys(words))


def _apply_merges(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:])) if pair in ranks]
        if not known:
            return parts
        _, i = min(known)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]


def build_tokenizer(context: int = TOKENS) -> CLIPTokenizer:
    """A CLIPTokenizer of `context` tokens whose merges build every vocabulary word; other words fall into smaller pieces.

    Each word first goes through the merges so far and only then adds its own, with lower priority,
    so that no later word can break an earlier one.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = dict.fromkeys(alphabet + [c + "</w>" for c in alphabet])
    ranks: dict[tuple[str, str], int] = {}
    for word in vocabulary():
        parts = _apply_merges([*word[:-1], word[-1] + "</w>"], ranks)
        while len(parts) > 1:
            ranks[parts[0], parts[1]] = len(ranks)
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces[parts[0]] = None
    vocabulary_list = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={p: i for i, p in enumerate(vocabulary_list)}, merges=list(ranks), model_max_length=context)


def name_table(pool: list[Identity]) -> dict[Identity, str]:
    """The fixed characters: one name each, drawn from `pool` in a fixed order."""
    order = np.random.default_rng(77).permutation(len(pool))[: len(NAMES)]
    return {pool[i]: name for i, name in zip(order, NAMES, strict=True)}


def describe(identity: Identity, rng: np.random.Generator, names: dict[Identity, str]) -> str:
    """A noun phrase without article: mostly rich, sometimes the class alone, sometimes a name."""
    name = names.get(identity)
    style = rng.random()
    if name is not None and style < 0.5:
        return f"{name} {identity.class_noun}" if style < 0.25 else f"{name} {identity.body} {identity.class_noun}"
    words = [identity.class_noun]
    if style > 0.08:
        words.insert(0, identity.body)
    if 0.16 < style < 0.34:
        words.insert(0, IDENTIFIERS[rng.integers(len(IDENTIFIERS))])
        if style < 0.26:
            return " ".join(words)
    if style > 0.2 and identity.belly != identity.body and rng.random() < 0.9:
        words.append(f"with {identity.belly} belly")
    if style > 0.2 and identity.accessory != "none" and rng.random() < 0.95:
        words.append(f"wearing a {identity.accessory_colour} {identity.accessory}")
    return " ".join(words)


def place(background: str, rng: np.random.Generator) -> str:
    if background in PLAIN_WORDS and rng.random() < 0.5:
        return PLAIN_WORDS[background]
    return PLACES[background]


def caption(scene: Scene, rng: np.random.Generator, names: dict[Identity, str]) -> str:
    """One caption of the scene; of two subjects the left one is named first in 85 %."""
    phrases = [f"a {describe(i, rng, names)}" for i in scene.identities]
    if len(phrases) == 2 and rng.random() < 0.15:
        phrases.reverse()
    opening = "a photo of " if rng.random() < 0.7 else ""
    joint = ", " if scene.background in PLAIN_WORDS else " "
    return opening + " and ".join(phrases) + joint + place(scene.background, rng) + ("." if rng.random() < 0.3 else "")
