"""Combinations of rendered subjects as dataset folders: what a user's photos are to SDXL."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mudi.miniature.captions import IDENTIFIERS, PLACES
from mudi.miniature.render import single_scene
from mudi.miniature.world import BACKGROUNDS, Identity

PHOTOS = 5
# Boxes (x0, y0, x1, y1) of two subjects that stand on the ground as scenes of two have them, the first named on the left, which
# is how captions of this world name them; Seg-Mix's own places leave many in the air, where no scene of this world has any.
LAYOUTS = (
    ((50, 250, 470, 900), (550, 290, 970, 940)),
    ((70, 330, 490, 980), (530, 230, 950, 880)),
    ((30, 260, 440, 910), (590, 260, 1000, 910)),
    ((90, 310, 500, 960), (520, 310, 930, 960)),
)
TRUTH = "truth.json"


def describe_identity(identity: Identity) -> str:
    """The words that `world.parse_identity` reads: "dog pink blue scarf yellow", or "dog pink blue" if it wears nothing."""
    worn = () if identity.accessory == "none" else (identity.accessory, identity.accessory_colour)
    return " ".join((identity.class_noun, identity.body, identity.belly, *worn))


def write_combination(folder: Path, identities: list[Identity], seed: int) -> None:
    """A folder in the published format: five pictures a subject with masks, captions and detector queries, and layouts for two.

    Captions name identifier, descriptive class and place only; what the subject wears is for the fit to
    learn. The whole identities lie beside the pictures in truth.json, for a judge alone. Raises ValueError if the folder exists.
    """
    if folder.exists():
        raise ValueError(f"{folder}: exists already; give a new folder")
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    keys = "abcdefgh"[: len(identities)]
    # The descriptive class is colour and kind, "red dog", as "corgi" describes a dog.
    header = {
        "id": {k: f"{word} {i.body} {i.class_noun}" for k, word, i in zip(keys, IDENTIFIERS, identities, strict=False)},
        "query": {k: i.class_noun for k, i in zip(keys, identities, strict=True)},
    }
    if len(identities) == 2:
        header["layouts"] = [dict(zip(keys, boxes, strict=True)) for boxes in LAYOUTS]
    lines = [json.dumps(header)]
    for key, identity in zip(keys, identities, strict=True):
        for n, place in enumerate(rng.permutation(BACKGROUNDS)[:PHOTOS]):
            scene = single_scene(rng, identity, str(place))
            name, mask = f"{key}{n:02}.png", f"mask_{key}{n:02}.png"
            Image.fromarray(scene.image).save(folder / name)
            Image.fromarray(scene.masks[0].astype(np.uint8) * 255).save(folder / mask)
            text = f"A photo of a {header['id'][key]} {PLACES[str(place)]}."
            lines.append(json.dumps({"id": key, "file_name": name, "mask_path": mask, "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    truth = {key: describe_identity(identity) for key, identity in zip(keys, identities, strict=True)}
    (folder / TRUTH).write_text(json.dumps(truth) + "\n")
