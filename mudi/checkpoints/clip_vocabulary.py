"""CLIP's own tokenizer without a hub, from the vocabulary that the open_clip package ships."""

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

CONTEXT = 77
MERGES = 48_894
START, END = "<|startoftext|>", "<|endoftext|>"
# What texts are padded with, by its id: the end mark before CLIP ViT-L, "!" before OpenCLIP's encoders.
PADS = {49_407: END, 0: "!"}


def clip_tokenizer(pad_token: str = END) -> "CLIPTokenizer":
    """The tokenizer of CLIP and of SDXL: 49,408 entries, start 49406, end 49407, 77 tokens.

    pad_token: SDXL's first tokenizer pads with the end token, its second with "!", which is entry 0.
    The entries are the 256 bytes, the same at the end of a word, one for each merge, and the two marks.
    """
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    # One visible character for each byte: the visible bytes as they are, then the others from U+0100 on.
    merges, alphabet = _merges(), sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    return CLIPTokenizer(
        vocab={entry: i for i, entry in enumerate(entries)}, merges=merges, pad_token=pad_token, model_max_length=CONTEXT
    )  # fmt: skip


def _merges() -> list[tuple[str, str]]:
    """The pairs to merge, best first. The file starts with a version line and lists more pairs than CLIP uses."""
    # The specification is looked up instead of importing open_clip, which takes seconds.
    package = find_spec("open_clip")
    if package is None or package.origin is None:
        raise ValueError("the CLIP vocabulary comes with the package open_clip, which is missing; install open-clip-torch")
    with gzip.open(Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    return [(left, right) for left, right in map(str.split, lines)]
