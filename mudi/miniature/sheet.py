"""A contact sheet of the base model: each row a caption, its rendered scene, and what the model draws for it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mudi.backbone import Backbone
from mudi.diffusion import decode, denoise, generators, standard_noise
from mudi.miniature.captions import PLACES
from mudi.miniature.claims import Caption, Claim, nameable
from mudi.miniature.render import pair_scene, single_scene
from mudi.miniature.world import BACKGROUNDS, Scene, split_identities
from mudi.text.conditioning import encode_negative, encode_prompts

STEPS, GUIDANCE = 25, 4.0
PER_ROW = 6
SCALE = 2
CAPTION_HEIGHT = 14


def full_caption(scene: Scene) -> str:
    """A caption that names every attribute of every subject, from left to right."""
    return Caption(claims=tuple(Claim(identity=i, named=nameable(i)) for i in scene.identities), place=PLACES[scene.background]).text


def held_out_scenes(count: int, seed: int) -> list[Scene]:
    """Scenes of held-out identities on the six places: every third a single subject, the others pairs."""
    rng = np.random.default_rng(seed)
    pool = split_identities()[1]
    scenes = []
    for i in range(count):
        place = BACKGROUNDS[i % len(BACKGROUNDS)]
        first, second = (pool[j] for j in rng.integers(len(pool), size=2))
        scenes.append(single_scene(rng, first, place) if i % 3 == 2 else pair_scene(rng, first, second, place))
    return scenes


def draw_captions(
    backbone: Backbone, captions: list[str], seeds: list[int], steps: int = STEPS, guidance: float = GUIDANCE, batch: int = 24
) -> list[np.ndarray]:
    """One image (48, 48, 3) a caption by the bare model, guided against the empty caption."""
    images = []
    for start in range(0, len(captions), batch):
        part = slice(start, start + batch)
        noise = standard_noise(backbone, generators(seeds[part]))
        positive, negative = encode_prompts(backbone, captions[part]), encode_negative(backbone, "")
        images += decode(backbone, denoise(backbone, noise, positive, negative, steps=steps, guidance_scale=guidance))
    return images


def contact_sheet(backbone: Backbone, out: Path, rows: int = 12, seed: int = 3) -> None:
    """Write the sheet as PNG: `rows` captions of held-out identities, never chosen by their result."""
    scenes = held_out_scenes(rows, seed)
    captions = [full_caption(scene) for scene in scenes]
    images = draw_captions(backbone, [c for c in captions for _ in range(PER_ROW)], list(range(rows * PER_ROW)))
    side = backbone.resolution * SCALE
    gap = side // 6
    sheet = Image.new("RGB", (side * (PER_ROW + 1) + gap, rows * (side + CAPTION_HEIGHT)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        top = row * (side + CAPTION_HEIGHT)
        pen.text((2, top + 1), text, fill="black")
        for column, image in enumerate([scene.image, *images[row * PER_ROW : (row + 1) * PER_ROW]]):
            left = column * side + (gap if column else 0)
            enlarged = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left, top + CAPTION_HEIGHT))
    sheet.save(out)
