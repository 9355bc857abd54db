"""The stage of a preparation on Ray: a batch of photos to masks, by the function that the plain loop calls."""

import json

import pyarrow as pa

from pipeline.workers.masks import MaskJob, MaskSettings, make_masks
from pipeline.workers.stages import IMAGES, device_of, fix_threads, only_row


class Mask:
    """Cuts the subjects out of a batch of a user's photos. A row holds the batch's number and its jobs as JSON."""

    def __init__(self, settings: MaskSettings, gpus: float, threads: int) -> None:
        from mudi import models

        fix_threads(threads)
        self.settings = settings
        self.detector = models.load_detector(settings.detector, device_of(gpus))
        self.segmenter = models.load_segmenter(settings.segmenter, device_of(gpus))

    def __call__(self, table: pa.Table) -> pa.Table:
        row = only_row(table)
        jobs = [MaskJob(**job) for job in json.loads(row["jobs"])]
        made = make_masks(self.detector, self.segmenter, jobs, self.settings.threshold)
        said = json.dumps([{"boxes": mask.boxes, "doubts": mask.doubts} for mask in made])
        pngs = pa.array([[mask.png for mask in made]], IMAGES.type)
        return pa.table({"batch": [row["batch"]], "said": [said], "pngs": pngs})
