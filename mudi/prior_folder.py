"""The class priors of one recipe: what decides them, how many draws they take, and their folders of batches, which appear whole."""

import hashlib
import json
import math
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mudi.model_facts import file_sha256, weights_identity

if TYPE_CHECKING:
    import numpy as np

    from mudi.augment import Segment

MANIFEST = "batch.json"
PROMPT = "a photo of a {}, simple background, full body view, award winning photography, highly detailed"
NEGATIVE = "anime, cartoon, graphic, text, painting, crayon, graphite, abstract glitch, blurry"
THRESHOLD = 0.4
ATTEMPTS = 10
BATCH = 8
STEPS, GUIDANCE = 50, 5.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that decides the priors of one class: what is drawn, with which weights, and who judges it.

    `prompt` has {} for the class noun; the defaults are the released code's, the sampler's are stock SDXL's. The picture
    of draw n has a seed from the prompt and n alone, so whoever has the same recipe has the same pictures. `workers`
    says what kind of process makes them where that is known: it changes the last bits. `weights` says what the names of
    backbone, detector and segmenter stand for now (`mudi.model_facts`).
    """

    class_noun: str
    detection_query: str
    backbone: str
    precision: str
    detector: str
    segmenter: str
    prompt: str = PROMPT
    negative_prompt: str = NEGATIVE
    steps: int = STEPS
    guidance_scale: float = GUIDANCE
    threshold: float = THRESHOLD
    batch: int = BATCH
    seeds: str = "sha256 of prompt and draw"
    workers: str = ""
    weights: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The prompt with the class noun in it."""
        return self.prompt.format(self.class_noun)

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of the recipe's content: the name of its folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def weights_of(backbone: str, detector: str, segmenter: str) -> tuple[str, str, str]:
    """What a recipe says of the weights behind its names."""
    return weights_identity(backbone), weights_identity(detector, "detector"), weights_identity(segmenter, "sam")


def needed(recipes: Mapping[str, Recipe], count: int) -> dict[Recipe, int]:
    """How many pictures each recipe must give for `count` a subject: subjects of one class share a recipe and no picture."""
    return {recipe: count * subjects for recipe, subjects in Counter(recipes.values()).items()}


def most_batches(recipe: Recipe, need: int) -> int:
    """The batches after which a class is given up: ten draws for each picture that is needed, as in the released code."""
    return math.ceil(ATTEMPTS * need / recipe.batch)


def next_batches(kept: Mapping[int, int], need: int, batch: int, most: int) -> list[int]:
    """Which batches to draw now, given how many pictures each drawn one kept; none once there are enough or all are drawn.

    Pictures are taken in the order of their batches, so gaps come first. Undrawn batches are expected to keep the
    share that the drawn ones did, at least a tenth, and all at first.
    """
    share = max(sum(kept.values()) / (batch * len(kept)), 1 / ATTEMPTS) if kept else 1.0
    chosen, expected = [], 0.0
    for index in range(most):
        if expected >= need:
            break
        if index not in kept:
            chosen.append(index)
        expected += kept.get(index, share * batch)
    return chosen


def require_enough(recipe: Recipe, kept: int, need: int) -> None:
    """Raise ValueError if all draws of a class gave too few pictures; the released code goes on silently with what it has."""
    if kept < need:
        raise ValueError(
            f"class noun {recipe.class_noun!r}: the base model drew exactly one {recipe.detection_query!r} in {kept} of "
            f"{most_batches(recipe, need) * recipe.batch} pictures, {need} are needed; use a plainer class noun, "
            "or objective: dco, which needs no priors"
        )


def store_batch(
    folder: Path, index: int, images: "Sequence[np.ndarray]", masks: "Sequence[np.ndarray | None]", facts: Mapping, owner: str = "",
) -> None:  # fmt: skip
    """Keeps the pictures of a batch that have a mask, as ROW.png and ROW-mask.png, and a manifest written last.

    images: uint8 (S, S, 3); masks: bool (S, S), None for a picture that was refused. `facts` are noted in the
    manifest. The batch is made beside its place and renamed: killed anywhere, it is there in full or not at all. One
    that is there already stays, since another process that drew the same recipe made the same. `owner`, a run's name,
    is in the name that it has while it is made, so that `clear_staged` can tell whose a part is that was left.
    """
    import numpy as np
    from PIL import Image

    target = folder / _name(index)
    staged = folder / f".{target.name}.{owner}.{uuid.uuid4().hex}"
    staged.mkdir(parents=True)
    kept = [row for row, mask in enumerate(masks) if mask is not None]
    for row in kept:
        Image.fromarray(images[row]).save(staged / f"{row:02d}.png", compress_level=1)
        Image.fromarray(masks[row].astype(np.uint8) * 255).save(staged / f"{row:02d}-mask.png")
    digests = {path.name: file_sha256(path) for path in sorted(staged.iterdir())}
    (staged / MANIFEST).write_text(json.dumps({"drawn": len(images), "kept": kept, "sha256": digests, **facts}, indent=1))
    if find_batch(folder, index) is None:
        shutil.rmtree(target, ignore_errors=True)
        try:
            staged.rename(target)
        except OSError:
            # Another process was there between the look and the rename; anything else is an error.
            if find_batch(folder, index) is None:
                raise
    shutil.rmtree(staged, ignore_errors=True)


def clear_staged(folder: Path, owner: str) -> None:
    """Take away the parts of batches that killed processes of `owner` left in `folder`; call it while none of them runs.

    Finished batches stay, and parts of other owners, who may be making them now.
    """
    part = re.compile(rf"\.batch-\d+\.{re.escape(owner)}\.[0-9a-f]{{32}}")
    for path in folder.glob(".batch-*"):
        if part.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def find_batch(folder: Path, index: int) -> dict | None:
    """The manifest of a batch whose files all are what was stored; None if it is not there or broken."""
    place = folder / _name(index)
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        intact = all(file_sha256(place / name) == digest for name, digest in manifest["sha256"].items())
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return manifest if intact else None


def kept_by_batch(folder: Path, most: int) -> dict[int, int]:
    """Of the first `most` batches those that are stored, each with how many of its pictures were kept."""
    found = {index: find_batch(folder, index) for index in range(most)}
    return {index: len(manifest["kept"]) for index, manifest in found.items() if manifest is not None}


def load_kept(folder: Path, count: int) -> "list[Segment]":
    """The first `count` kept pictures in the order drawn, with their masks; fewer where a batch is missing."""
    import numpy as np
    from PIL import Image

    from mudi.augment import Segment

    segments: list[Segment] = []
    index = 0
    while len(segments) < count and (manifest := find_batch(folder, index)) is not None:
        place = folder / _name(index)
        for row in manifest["kept"]:
            image = np.array(Image.open(place / f"{row:02d}.png").convert("RGB"))
            segments.append(Segment(image, np.array(Image.open(place / f"{row:02d}-mask.png")) > 127))
        index += 1
    return segments[:count]


def _name(index: int) -> str:
    return f"batch-{index:04d}"
