"""A batch of class priors: drawn by the bare backbone, cut out, and stored where it shows exactly one subject."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mudi.prior_folder import Recipe
from mudi.records import Report
from pipeline.workers.draw import device_name
from pipeline.workers.loaded import Loaded


@dataclass(frozen=True, kw_only=True)
class PriorBatch:
    """A batch of one recipe, by its number, and the folder of the recipe; `run` owns the parts while it is made."""

    kind: ClassVar[str] = "priors"
    recipe: Recipe
    folder: str
    batch: int
    run: str

    @property
    def label(self) -> str:
        return f"batch {self.batch} of class priors of {self.recipe.class_noun!r}"


def make_priors(loaded: Loaded, piece: PriorBatch, report: Report) -> int:
    """Draw and keep a batch; how many of its pictures are kept."""
    from mudi.priors import draw_batch, keep_batch

    loaded.bring_scorers_back()
    recipe = piece.recipe
    backbone = loaded.backbone(recipe.backbone, recipe.precision)
    loaded.bare(backbone)
    began = time.perf_counter()
    images = draw_batch(backbone, recipe, piece.batch)
    noted = {"device": device_name(backbone.device), "seconds": time.perf_counter() - began, "owner": piece.run}
    judges = loaded.scorer("detector", recipe.detector), loaded.scorer("segmenter", recipe.segmenter)
    return keep_batch(Path(piece.folder), recipe, piece.batch, images, *judges, **noted)
