"""The rendered counterparts of the Multiple Concept Personalization report's subjects: sides asked for, and a style as a subject.

The report draws "A cat on the right and a dog on the left", whose sides are layout boxes here, and "A cat wearing wearable
glasses in a watercolor style", whose style is a concept beside objects. A style of this world is a picture in brown and cream.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.miniature.pairs import HELD_OUT_PAIRS
from mudi.miniature.references import PHOTOS, TRUTH, write_combination
from mudi.miniature.render import pair_scene
from mudi.miniature.world import BACKGROUNDS, all_identities, parse_identity

LEFT, RIGHT = [50, 270, 470, 950], [550, 270, 970, 950]
MIDDLE = [290, 250, 730, 960]
SEPIA = np.array([[70, 42, 20], [255, 236, 200]], np.float64)  # what black and white become


def sepia(image: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) in shades between brown and cream, by its brightness (ITU-R BT.601 weights)."""
    brightness = (image @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    return (SEPIA[0] + brightness * (SEPIA[1] - SEPIA[0])).round().astype(np.uint8)


def write_mcp(folder: Path) -> None:
    """Two combinations in `folder`: `cat_right_dog_left`, with its layout, and `cat_in_sepia`, a cat and a style.

    Raises ValueError if one exists already.
    """
    cat, dog, seed = HELD_OUT_PAIRS["cat_and_dog"]
    sides = folder / "cat_right_dog_left"
    write_combination(sides, [parse_identity(cat), parse_identity(dog)], seed)
    _with_header(sides, layouts=[{"a": RIGHT, "b": LEFT}])
    cat, _, seed = HELD_OUT_PAIRS["two_cats_a"]
    styled = folder / "cat_in_sepia"
    write_combination(styled, [parse_identity(cat)], seed)
    _add_style(styled, np.random.default_rng(seed))


def _with_header(folder: Path, **changes: object) -> None:
    path = folder / "metadata.jsonl"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(header) | changes), *lines]) + "\n")


def _add_style(folder: Path, rng: np.random.Generator) -> None:
    """Five scenes of two strangers in sepia, as the photos of subject b, which has no query and no box."""
    header = json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])
    everyone = all_identities()
    lines = []
    for n in range(PHOTOS):
        left, right = (everyone[i] for i in rng.choice(len(everyone), 2, replace=False))
        scene = pair_scene(rng, left, right, str(rng.choice(BACKGROUNDS)))
        Image.fromarray(sepia(scene.image)).save(folder / f"b{n:02}.png")
        text = f"A {left.class_noun} and a {right.class_noun}, a hta painting."
        lines.append(json.dumps({"id": "b", "file_name": f"b{n:02}.png", "text": text}))
    with (folder / "metadata.jsonl").open("a") as file:
        file.write("\n".join(lines) + "\n")
    # Judges that read traits have none to read of a style.
    (folder / TRUTH).unlink()
    _with_header(
        folder, id=header["id"] | {"b": "hta painting"}, query=header["query"] | {"b": None}, layouts=[{"a": MIDDLE}]
    )  # fmt: skip
