"""The tokenizers of a backbone without its weights: what words are to its text encoders, before anything is loaded."""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mudi.checkpoints.clip_vocabulary import CONTEXT, clip_tokenizer
from mudi.model_facts import RANDOM, local_folder

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def tokenizers_of(name: str) -> "tuple[list[CLIPTokenizer], int] | None":
    """The tokenizers that prompts go through, one or two, and how many tokens are read, both marks included.

    CLIP's own, once, for a "random-" backbone, whose encoders have one vocabulary. None for a hub id and for a folder that is not
    here.
    """
    if RANDOM.fullmatch(name):
        return [clip_tokenizer()], CONTEXT
    folder = local_folder(name)
    if not (folder / "tokenizer").is_dir():
        return None
    return _stored(folder)


@lru_cache(maxsize=8)
def _stored(folder: Path) -> "tuple[list[CLIPTokenizer], int]":
    from transformers import CLIPTokenizer

    context = json.loads((folder / "text_encoder" / "config.json").read_bytes())["max_position_embeddings"]
    parts = [folder / part for part in ("tokenizer", "tokenizer_2") if (folder / part).is_dir()]
    return [CLIPTokenizer.from_pretrained(part, local_files_only=True) for part in parts], context
