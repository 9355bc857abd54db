"""Stored pictures scored by metrics that a run did not have when they were drawn."""

import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from mudi.records import Combination, Report, Score
from pipeline.tables import store
from pipeline.workers.loaded import Loaded


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What all chunks share: each metric's name with the weights it wants, and the combinations with their prompts."""

    run_dir: str
    metrics: dict[str, dict]
    combinations: dict[str, Combination]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A stored chunk and the metrics that it lacks."""

    kind: ClassVar[str] = "judge"
    chunk_id: str
    round: int
    metrics: tuple[str, ...]
    settings: JudgeSettings

    @property
    def label(self) -> str:
        return f"chunk {self.chunk_id}"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Receipt for a chunk: its pictures, and the seconds that they took."""

    chunk_id: str
    pictures: int
    seconds: float


def judge(loaded: Loaded, piece: Judge, report: Report) -> Judged:
    """Score a chunk's pictures by the metrics it lacks, each in a file of its own."""
    from mudi.metrics import METRICS

    loaded.bring_scorers_back()
    settings, began = piece.settings, time.perf_counter()
    run_dir = Path(settings.run_dir)
    pictures = [(row, png) for row, png in store.read_chunk(run_dir, piece.round, piece.chunk_id) if png is not None]
    images = [np.asarray(Image.open(io.BytesIO(png))) for _, png in pictures]
    for name in piece.metrics:
        weights = settings.metrics[name]
        key = ("metric", name, repr(sorted(weights.items())))
        metric = loaded.once(key, lambda n=name, w=weights: METRICS[n](device=loaded.device, **w))
        scores = _scores(metric, settings, pictures[0][0], images) if pictures else []
        by_candidate = {row["candidate_id"]: of_image for (row, _), of_image in zip(pictures, scores, strict=True)}
        store.write_scores(run_dir, piece.chunk_id, piece.round, name, by_candidate)
    return Judged(chunk_id=piece.chunk_id, pictures=len(pictures), seconds=time.perf_counter() - began)


def _scores(metric, settings: JudgeSettings, first: dict, images: list[np.ndarray]) -> list[tuple[Score, ...]]:
    """The scores of pictures of the prompt of the row `first`, as the user wrote it, whatever the method calls the subjects."""
    combination = settings.combinations[first["combination"]]
    (prompt,) = [p for p in combination.prompts if p.prompt_id == first["prompt_id"]]
    return metric(images, prompt, combination)
