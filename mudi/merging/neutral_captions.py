"""Captions without a subject of the user, their states and the Grams of these: what a merge of weights should leave as it is."""

from collections.abc import Sequence

import torch

from mudi import adapters
from mudi.adapter_size import TEXT, shared_key
from mudi.backbone import Backbone
from mudi.merging.concept_grams import counted
from mudi.merging.grams import Grams, attention_layers
from mudi.text.conditioning import encode_prompts

BATCH = 64

SCENES = (
    "a street after rain", "an old wooden bridge", "a bowl of ripe apples", "a sailing boat at dawn", "two children with a kite",
    "a lamp on a writing desk", "a market with fruit stalls", "a snowy pine forest", "a man reading a newspaper",
    "a red bicycle against a wall", "a field of sunflowers", "a lighthouse in a storm", "a kitchen with copper pans",
    "a train crossing a valley", "a glass of water on a table", "a woman in a green coat", "a desert under a full moon",
    "a harbour with fishing nets", "a stone church on a hill", "a plate of pancakes", "a rowing team on a river",
    "a piano in an empty hall", "a mountain lake in autumn", "a shelf of old books", "a busy railway station",
    "a garden with a small pond", "a pair of leather boots", "a castle in the mist", "a waterfall between rocks",
    "a chess board near a window", "a farmer with a tractor", "a city skyline at night", "a child drawing with crayons",
    "a carpet with a blue pattern", "a violin in its case", "a beach with coloured umbrellas", "a baker taking bread from the oven",
    "a field covered with frost", "a tent beside a campfire", "a clock tower at noon", "a bus stop in the fog",
    "a vase on a stone floor",
)  # fmt: skip
TEMPLATES = (
    "{}", "a photo of {}", "a painting of {}", "a close view of {}", "{}, seen from above", "a dark picture of {}",
    "{} in bright light", "a pencil drawing of {}", "an old photograph of {}", "{}, in the background of a portrait",
)  # fmt: skip
CLASS_TEMPLATES = (
    "a {}", "a photo of a {}", "two of them, each a {}", "a {} on the grass", "a {} in a room", "a {} at night",
    "a small {} near a large one", "a drawing of a {}", "a {} in front of a house", "the {} of a friend", "a {} and a tree",
    "a {} under the table", "a {} at the beach", "a {} in the snow", "somebody looking at a {}", "a {}, white background",
)  # fmt: skip


def neutral_captions(class_nouns: Sequence[str]) -> list[str]:
    """Different captions, over four hundred: every scene in every template, and each class noun in templates of its own."""
    scenes = [template.format(scene) for scene in SCENES for template in TEMPLATES]
    return [*scenes, *(template.format(noun) for noun in dict.fromkeys(class_nouns) for template in CLASS_TEMPLATES)]


@torch.no_grad()
def neutral_states(backbone: Backbone, class_nouns: Sequence[str]) -> torch.Tensor:
    """The states (n, D) of the neutral captions' words and end marks, float64."""
    captions = neutral_captions(class_nouns)
    parts = []
    for start in range(0, len(captions), BATCH):
        texts = captions[start : start + BATCH]
        parts.append(encode_prompts(backbone, texts).states[counted(backbone, texts, "", "real")].double())
    return torch.cat(parts)


def neutral_grams(backbone: Backbone, class_nouns: Sequence[str], targets: Sequence[str]) -> Grams:
    """X^T X of the states X of `neutral_captions`, encoded by the bare model, for those of the LoRA's layers that the text feeds.

    Keys and values of cross-attention see nothing but these states, at any step and of any picture; what the other layers see
    of a caption would have to be drawn, so they have no Gram here. The states are those of the words and the end marks.
    """
    adapters.detach(backbone)
    modules = dict(backbone.unet.named_modules())
    keys = {name: shared_key(name, modules[name].in_features) for name in attention_layers(backbone.unet, targets) if TEXT.fullmatch(name)}
    states = neutral_states(backbone, class_nouns)
    return Grams(sums=dict.fromkeys(keys.values(), states.T @ states), rows=dict.fromkeys(keys.values(), len(states)), keys=keys)
