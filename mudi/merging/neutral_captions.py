"""Captions without a subject of the user: what a merge of weights should leave as it is."""

from collections.abc import Sequence

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
