"""Who fills the words of a prepared folder: classes, captions, prompts and layouts, as four functions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PROMPTS = (
    "a photo of {subjects} on the grass",
    "a photo of {subjects} on the beach",
    "a photo of {subjects} in the snow",
    "a photo of {subjects} in a room",
    "a photo of {subjects}, simple background",
)
CANVAS, MARGIN = 1024, 64
LayoutBox = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Writer:
    """describe(images, noun) -> class; caption(image, phrase) -> caption; prompts(phrases, count) -> templates with
    "{subjects}"; layouts(phrases by key, count) -> boxes by key on a canvas of 1024 by 1024. source: who that is."""

    source: str
    describe: Callable[[Sequence[np.ndarray], str], str]
    caption: Callable[[np.ndarray, str], str]
    prompts: Callable[[Sequence[str], int], list[str]]
    layouts: Callable[[Mapping[str, str], int], list[dict[str, LayoutBox]]]


def templates_writer() -> Writer:
    """Fixed sentences, without a model."""
    return Writer(
        source="templates",
        describe=lambda images, noun: noun,
        caption=lambda image, phrase: f"A photo of a {phrase}.",
        prompts=lambda phrases, count: list(PROMPTS[:count]),
        layouts=lambda phrases, count: [_side_by_side(list(phrases))][:count],
    )


def _side_by_side(keys: list[str]) -> dict[str, LayoutBox]:
    width = CANVAS / len(keys)
    return {key: (i * width, float(MARGIN), (i + 1) * width, float(CANVAS)) for i, key in enumerate(keys)}
