"""How many numbers and bytes an adapter has, from the settings of its backbone alone: no weights are read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from mudi.adapter_folder import DOWN, PREFIX, UP, contents
from mudi.checkpoints.full_sizes import FAMILIES
from mudi.model_facts import RANDOM, local_folder
from mudi.options import LoraSettings

FLOAT32 = 4  # bytes; adapters are kept in float32 whatever the backbone's dtype
CONFIG = "config.json"
PARTS, SECOND = ("unet", "vae", "text_encoder"), "text_encoder_2"

TEXT = re.compile(r"(?:.*\.)?attn2\.to_[kv]")
SELF = re.compile(r"((?:.*\.)?attn1)\.to_[qkv]")

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A backbone without weights. side: pixels; row_widths: of a token in each text encoder, by `Backbone.readers`' keys;
    texts: settings of the text encoders; assumed: whether this is SDXL base because the backbone itself is not here to be
    looked at."""

    unet: Mapping
    side: int
    row_widths: Mapping[str, int]
    texts: tuple[Mapping, ...]
    assumed: bool


def read_architecture(folder: Path) -> Architecture:
    """The architecture that a backbone's folder describes, or SDXL base where there is none."""
    if not all((folder / part / CONFIG).is_file() for part in PARTS):
        return replace(published("sdxl"), assumed=True)
    found = [part for part in (*PARTS, SECOND) if (folder / part / CONFIG).is_file()]
    return _described({part: json.loads((folder / part / CONFIG).read_text(encoding="utf-8")) for part in found})


def known_architecture(backbone: str) -> Architecture:
    """What is known of the backbone of this name without loading or fetching it."""
    if matched := RANDOM.fullmatch(backbone):
        return published(matched["family"])
    return read_architecture(local_folder(backbone))


def published(family: str) -> Architecture:
    """The architecture of a family of `full_sizes.FAMILIES`."""
    return _described(FAMILIES[family])


def _described(parts: Mapping[str, Mapping]) -> Architecture:
    unet, vae = parts["unet"], parts["vae"]
    first = parts["text_encoder"]["hidden_size"]
    widths = {"clip_l": first, "clip_g": parts[SECOND]["hidden_size"]} if SECOND in parts else {"clip": first}
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    texts = (parts["text_encoder"], parts[SECOND]) if SECOND in parts else (parts["text_encoder"],)
    return Architecture(unet=unet, side=side, row_widths=widths, texts=texts, assumed=False)


def lora_shapes(unet: Mapping, lora: LoraSettings) -> Shapes:
    """Name -> shape of every matrix of a LoRA on the attention of a UNet2DConditionModel with these settings.

    A transformer block of width w attends to itself (w to w) and to the text, whose keys and values come from
    `cross_attention_dim`. A matrix of (in, out) becomes A (rank, in) and B (out, rank).
    """
    shapes: Shapes = {}
    for prefix, width in _transformer_blocks(unet):
        for attention, source in (("attn1", width), ("attn2", unet["cross_attention_dim"])):
            for layer, inputs in (("to_q", width), ("to_k", source), ("to_v", source), ("to_out.0", width)):
                name = f"{prefix}.{attention}.{layer}"
                if any(name.endswith(f".{target}") for target in lora.targets):
                    shapes[f"{PREFIX}{name}{DOWN}"] = (lora.rank, inputs)
                    shapes[f"{PREFIX}{name}{UP}"] = (width, lora.rank)
    return shapes


def row_shapes(architecture: Architecture, identifiers: Sequence[str]) -> Shapes:
    """Name -> shape of the trained token rows of these identifiers, one an encoder."""
    return {f"{word}.{key}": (width,) for word in identifiers for key, width in architecture.row_widths.items()}


def residual_shapes(architecture: Architecture, words: Mapping[str, str]) -> Shapes:
    """Name -> shape of the residuals of subjects, key -> class noun, one token a word: a rare word has more."""
    width = architecture.unet["cross_attention_dim"]
    return {f"{i:03d}/{key}/{noun}": (len(noun.split()), width) for i, (key, noun) in enumerate(words.items())}


def encoder_parameters(architecture: Architecture) -> int:
    """How many numbers the text encoders have, of which only a second one has a projection."""
    total = 0
    for i, text in enumerate(architecture.texts):
        width, inner = text["hidden_size"], text["intermediate_size"]
        block = 4 * (width * width + width) + 2 * width * inner + inner + width + 2 * 2 * width
        tables = (text["vocab_size"] + text["max_position_embeddings"]) * width
        total += tables + text["num_hidden_layers"] * block + 2 * width + (text["projection_dim"] * width if i else 0)
    return total


def encoder_lora_parameters(architecture: Architecture, rank: int) -> int:
    """How many numbers a LoRA on the text encoders has, as `encoder_tuning` lays it: r (in + out) a layer, four of width by width and
    two of width by the inner one."""
    sizes = [(text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]) for text in architecture.texts]
    return sum(layers * rank * (4 * 2 * width + 2 * (width + inner)) for width, inner, layers in sizes)


def parameters(shapes: Shapes) -> int:
    """How many numbers."""
    return sum(prod(shape) for shape in shapes.values())


def checkpoint_bytes(numbers: int, steps: int) -> int:
    """The most bytes of checkpoints that a fit of so many numbers and steps has at once (`mudi.fit`): one each 200 steps, of the
    numbers and both of Adam's moments, two of them kept while a third is written."""
    return max(0, min(3, (steps - 1) // 200)) * 3 * FLOAT32 * numbers


def gram_bytes(unet: Mapping, targets: Sequence[str]) -> int:
    """Bytes of the Grams of one subject whose LoRA has these targets (`grams.gram_bytes`), in memory and but for a header on disk."""
    shapes = lora_shapes(unet, LoraSettings(rank=1, alpha=1, targets=tuple(targets)))
    layers = {name.removeprefix(PREFIX).removesuffix(DOWN): shape[1] for name, shape in shapes.items() if name.endswith(DOWN)}
    return bytes_of_widths(layers)


def bytes_of_widths(widths: Mapping[str, int]) -> int:
    """Bytes of the Grams of layers given by their names in the UNet and the widths of their inputs; sums of text states are float64."""
    shared = {shared_key(name, width): width for name, width in widths.items()}
    return sum(width**2 * FLOAT32 * (2 if key.startswith("text.") else 1) for key, width in shared.items())


def shared_key(name: str, width: int) -> str:
    """The name of the rows of this width that a layer is fed."""
    if TEXT.fullmatch(name):
        return f"text.{width}"
    of_self = SELF.fullmatch(name)
    return f"{of_self[1]}.qkv" if of_self else name


def _transformer_blocks(unet: Mapping) -> list[tuple[str, int]]:
    widths = list(unet["block_out_channels"])
    depths = _for_each(unet.get("transformer_layers_per_block", 1), len(widths))
    layers = _for_each(unet.get("layers_per_block", 2), len(widths))
    places = [
        (f"down_blocks.{i}.attentions.{j}", widths[i], depths[i])
        for i, kind in enumerate(unet["down_block_types"])
        for j in range(layers[i] if "CrossAttn" in kind else 0)
    ]
    places.append(("mid_block.attentions.0", widths[-1], depths[-1]))
    places += [
        (f"up_blocks.{i}.attentions.{j}", widths[-1 - i], depths[-1 - i])
        for i, kind in enumerate(unet["up_block_types"])
        for j in range(layers[-1 - i] + 1 if "CrossAttn" in kind else 0)
    ]
    return [(f"{place}.transformer_blocks.{k}", width) for place, width, depth in places for k in range(depth)]


def _for_each(value: int | Sequence[int], blocks: int) -> list[int]:
    return [value] * blocks if isinstance(value, int) else list(value)


def payload_bytes(folder: Path) -> int:
    """The bytes of a stored adapter's numbers, in the format they are stored in, without headers and manifest."""
    total = 0
    for path in contents(folder):
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        total += path.stat().st_size - 8 - header
    return total
