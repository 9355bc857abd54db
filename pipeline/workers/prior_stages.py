"""The stages that make class priors, as callables for Ray Data. One row is one batch of one recipe: recipe, folder, batch."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.workers.stages import IMAGES, device_of, fix_threads, images_of, only_row, with_columns


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """What the stages are built from: the weights that all recipes of a run have in common, and the run's name."""

    backbone: str
    precision: str
    detector: str
    segmenter: str
    run: str


class DrawPriors:
    """Draws a batch with the bare backbone."""

    def __init__(self, settings: PriorSettings, gpus: float, threads: int) -> None:
        import torch

        from mudi import models

        fix_threads(threads)
        self.backbone = models.load(settings.backbone, device_of(gpus), getattr(torch, settings.precision))

    def __call__(self, table: pa.Table) -> pa.Table:
        from mudi.prior_folder import Recipe
        from mudi.priors import draw_batch
        from pipeline.workers.fit_job import device_name

        row, began = only_row(table), time.perf_counter()
        images = draw_batch(self.backbone, Recipe(**json.loads(row["recipe"])), row["batch"])
        return with_columns(
            table,
            images=(IMAGES.type, [image.tobytes() for image in images]),
            side=(pa.int32(), self.backbone.resolution),
            device=(pa.string(), device_name(self.backbone.device)),
            seconds=(pa.float64(), time.perf_counter() - began),
        )


class KeepPriors:
    """Cuts the subjects out of a drawn batch and stores those pictures that have exactly one. Returns a receipt: folder, batch, kept."""

    def __init__(self, settings: PriorSettings, gpus: float, threads: int) -> None:
        from mudi import models

        fix_threads(threads)
        device = device_of(gpus)
        self.run = settings.run
        self.judge = (models.load_detector(settings.detector, device), models.load_segmenter(settings.segmenter, device))

    def __call__(self, table: pa.Table) -> pa.Table:
        from mudi.prior_folder import Recipe
        from mudi.priors import keep_batch

        row = only_row(table)
        noted = {"device": row["device"], "seconds": row["seconds"], "owner": self.run}
        kept = keep_batch(Path(row["folder"]), Recipe(**json.loads(row["recipe"])), row["batch"], images_of(row), *self.judge, **noted)
        return pa.table({"folder": [row["folder"]], "batch": [row["batch"]], "kept": [kept]})
