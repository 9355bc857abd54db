"""A chunk of candidates in one go: drawn with its adapter, its subjects detected and compared, and written as Parquet."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mudi.personalization import Personalization
from mudi.records import Adapter, Candidate, Combination, Detection, Prompt, Report, Score, ScoredCandidate
from pipeline import plan
from pipeline.tables import store
from pipeline.workers.loaded import Loaded

if TYPE_CHECKING:
    from mudi.backbone import Backbone

BUSY = ("generate", "detect", "compare")
OVERFLOWED = "the image is constant: the model's output overflowed"


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What all chunks of a sweep share: names and numbers, never models, so that it travels cheaply. `models` holds the names of
    backbone and detector, and of embedders by kind; `methods` say how each arm draws and names subjects."""

    run_dir: str
    models: dict
    methods: dict[str, Personalization]
    threshold: float
    precision: str
    combinations: dict[str, Combination] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A chunk to draw."""

    kind: ClassVar[str] = "draw"
    chunk: plan.Chunk
    settings: DrawSettings

    @property
    def label(self) -> str:
        return f"chunk {self.chunk.chunk_id}"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Receipt for a stored chunk: how many candidates it has, the clock time at which drawing began, busy seconds of each stage."""

    chunk_id: str
    candidates: int
    began: float
    seconds: dict[str, float]


def draw(loaded: Loaded, piece: Draw, report: Report) -> Drawn:
    """Draw, detect, compare and store a chunk. A picture leaves the process only as Parquet."""
    from mudi.diffusion import is_valid

    chunk, settings = piece.chunk, piece.settings
    loaded.bring_scorers_back()
    backbone = loaded.backbone(settings.models["backbone"], settings.precision)
    stamps, clock = [time.perf_counter()], time.time()
    images = _images(loaded, backbone, chunk, settings)
    valid = [is_valid(image) for image in images]
    stamps.append(time.perf_counter())
    found = _detections(loaded, [image for image, good in zip(images, valid) if good], chunk, settings)
    stamps.append(time.perf_counter())
    scores = _scores(loaded, [image for image, good in zip(images, valid) if good], found, chunk, settings)
    stamps.append(time.perf_counter())
    seconds = {stage: after - before for stage, before, after in zip(BUSY, stamps, stamps[1:])}
    scored = _scored(chunk, images, valid, found, scores, seconds["generate"] / len(chunk.keys))
    written = {"device": device_name(backbone.device), "dtype": settings.precision, "batch": len(chunk.keys)}
    store.write_chunk(Path(settings.run_dir), chunk.chunk_id, chunk.round, scored, **written)
    return Drawn(chunk_id=chunk.chunk_id, candidates=len(scored), began=clock, seconds=seconds)


def _images(loaded: Loaded, backbone: "Backbone", chunk: plan.Chunk, settings: DrawSettings) -> list[np.ndarray]:
    from mudi.sampling import subject_segments

    method = settings.methods[chunk.keys[0].method]
    combination = method.view(settings.combinations[chunk.combination])
    adapter = Adapter(
        method=chunk.keys[0].method, combination=chunk.combination, round=chunk.round, path=Path(chunk.adapter_path),
        sha256=chunk.adapter_sha256,
    )  # fmt: skip
    loaded.wear(backbone, adapter)
    segments = loaded.once(("segments", chunk.combination), lambda: subject_segments(combination)) if method.sampling.gamma else []
    prompt = Prompt(prompt_id=chunk.prompt_id, text=chunk.prompt)
    return method.sample(backbone, combination, prompt, chunk.seeds, segments)


def _detections(loaded: Loaded, images: Sequence[np.ndarray], chunk: plan.Chunk, settings: DrawSettings) -> list[tuple[Detection, ...]]:
    from mudi.detect import detect

    queries = [subject.detection_query for subject in settings.combinations[chunk.combination].objects]
    return detect(loaded.detector(settings.models["detector"]), images, [queries] * len(images), settings.threshold)


def _scores(
    loaded: Loaded, images: Sequence[np.ndarray], found: Sequence[tuple[Detection, ...]], chunk: plan.Chunk, settings: DrawSettings
) -> list[tuple[Score, ...]]:
    from mudi.metrics.detect_and_compare import Compare

    def compare() -> Compare:
        embedders = [loaded.embedder(kind, name) for kind, name in settings.models["embedders"].items()]
        return Compare(embedders, f"owlv2 {settings.models['detector']} > {settings.threshold}")

    named = (settings.models["detector"], settings.threshold, *settings.models["embedders"].items())
    return loaded.once(("compare", *named), compare)(images, found, settings.combinations[chunk.combination])


def _scored(
    chunk: plan.Chunk, images: Sequence[np.ndarray], valid: Sequence[bool], found: Sequence[tuple[Detection, ...]],
    scores: Sequence[tuple[Score, ...]], seconds: float,
) -> list[ScoredCandidate]:  # fmt: skip
    """A candidate for each picture; `found` and `scores` are those of the valid ones."""
    judged = iter(zip(found, scores, strict=True))
    scored = []
    for key, seed, image, good in zip(chunk.keys, chunk.seeds, images, valid, strict=True):
        candidate = Candidate(
            key=key, prompt=chunk.prompt, seed=seed, image=image if good else None, status="ok" if good else "invalid",
            error=None if good else OVERFLOWED, seconds=seconds,
        )  # fmt: skip
        detections, of_image = next(judged) if good else ((), ())
        scored.append(ScoredCandidate(candidate=candidate, detections=tuple(detections), scores=tuple(of_image)))
    return scored


def write_quarantined(piece: Draw, reason: str) -> int:
    """Store a chunk that killed its workers as candidates with status "error" and the reason; how many there are."""
    chunk = piece.chunk
    lost = [
        Candidate(key=key, prompt=chunk.prompt, seed=seed, image=None, status="error", error=reason, seconds=0.0)
        for key, seed in zip(chunk.keys, chunk.seeds, strict=True)
    ]
    scored = [ScoredCandidate(candidate=candidate, detections=(), scores=()) for candidate in lost]
    written = {"device": None, "dtype": piece.settings.precision, "batch": len(chunk.keys)}
    store.write_chunk(Path(piece.settings.run_dir), chunk.chunk_id, chunk.round, scored, **written)
    return len(scored)


def device_name(device) -> str:
    """ "cpu", or what the GPU calls itself."""
    if device.type != "cuda":
        return device.type
    import torch

    return torch.cuda.get_device_name(device)
