"""A chunk of candidates in one go: drawn with its adapter, its subjects detected and compared, and written as Parquet."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from mudi.backbone import Backbone
from mudi.personalization import Personalization
from mudi.records import Adapter, Candidate, Combination, Detection, Prompt, Report, Score, ScoredCandidate
from mudi.text.prompts import WATCHED
from pipeline import plan
from pipeline.tables import store
from pipeline.workers.loaded import Loaded

BUSY = ("generate", "detect", "compare")
OVERFLOWED = "the image is constant: the model's output overflowed"


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What all chunks of a sweep share: names and numbers, never models, so that it travels cheaply. `models` holds the names of
    backbone and detector, and of embedders by kind; `methods` say how each arm draws and names subjects, `pool` how the candidates
    of self-training are drawn where that differs from watched pictures."""

    run_dir: str
    models: dict
    methods: dict[str, Personalization]
    threshold: float
    precision: str
    combinations: dict[str, Combination] = field(default_factory=dict)
    pool: dict[str, Personalization] = field(default_factory=dict)

    def method_of(self, chunk: plan.Chunk) -> Personalization:
        """The method that draws a chunk."""
        name = chunk.keys[0].method
        return self.methods[name] if chunk.prompt_id.startswith(WATCHED) else self.pool.get(name, self.methods[name])


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
    from mudi.detect import detect
    from mudi.diffusion import is_valid

    chunk, settings = piece.chunk, piece.settings
    loaded.bring_scorers_back()
    backbone = loaded.backbone(settings.models["backbone"], settings.precision)
    stamps, clock = [time.perf_counter()], time.time()
    images = [image if is_valid(image) else None for image in _images(loaded, backbone, chunk, settings)]
    valid = [image for image in images if image is not None]
    stamps.append(time.perf_counter())
    queries = [subject.detection_query for subject in settings.combinations[chunk.combination].objects]
    found = detect(loaded.scorer("detector", settings.models["detector"]), valid, [queries] * len(valid), settings.threshold)
    stamps.append(time.perf_counter())
    scores = _scores(loaded, valid, found, chunk, settings)
    stamps.append(time.perf_counter())
    seconds = {stage: after - before for stage, before, after in zip(BUSY, stamps, stamps[1:])}
    lost, judged = {"status": "invalid", "error": OVERFLOWED}, iter(zip(found, scores, strict=True))
    _store(piece, images, judged, lost, device_name(backbone.device), seconds["generate"] / len(images))
    return Drawn(chunk_id=chunk.chunk_id, candidates=len(images), began=clock, seconds=seconds)


def _images(loaded: Loaded, backbone: Backbone, chunk: plan.Chunk, settings: DrawSettings) -> list[np.ndarray]:
    from mudi.sampling import subject_segments

    method = settings.method_of(chunk)
    combination = method.view(settings.combinations[chunk.combination])
    adapter = Adapter(
        method=chunk.keys[0].method, combination=chunk.combination, round=chunk.round, path=Path(chunk.adapter_path),
        sha256=chunk.adapter_sha256,
    )  # fmt: skip
    loaded.wear(backbone, adapter)
    segments = loaded.once(("segments", chunk.combination), lambda: subject_segments(combination)) if method.sampling.gamma else []
    prompt = Prompt(prompt_id=chunk.prompt_id, text=chunk.prompt)
    return method.sample(backbone, combination, prompt, chunk.seeds, segments)


def _scores(
    loaded: Loaded, images: Sequence[np.ndarray], found: Sequence[tuple[Detection, ...]], chunk: plan.Chunk, settings: DrawSettings
) -> list[tuple[Score, ...]]:
    from mudi.metrics.detect_and_compare import Compare

    def compare() -> Compare:
        embedders = [loaded.scorer("embedder", kind, name) for kind, name in settings.models["embedders"].items()]
        return Compare(embedders, f"owlv2 {settings.models['detector']} > {settings.threshold}")

    named = (settings.models["detector"], settings.threshold, *settings.models["embedders"].items())
    return loaded.once(("compare", *named), compare)(images, found, settings.combinations[chunk.combination])


def _store(piece: Draw, images: Sequence[np.ndarray | None], judged: Iterator, lost: dict, device: str | None, seconds: float) -> None:
    """Store a candidate for each picture, `judged` being what was found in those that are there; `lost` says why others are not."""
    chunk, scored = piece.chunk, []
    for key, seed, image in zip(chunk.keys, chunk.seeds, images, strict=True):
        outcome = lost if image is None else {"status": "ok", "error": None}
        detections, scores = ((), ()) if image is None else next(judged)
        candidate = Candidate(key=key, prompt=chunk.prompt, seed=seed, image=image, seconds=seconds, **outcome)
        scored.append(ScoredCandidate(candidate=candidate, detections=tuple(detections), scores=tuple(scores)))
    written = {"device": device, "dtype": piece.settings.precision, "batch": len(images)}
    store.write_chunk(Path(piece.settings.run_dir), chunk.chunk_id, chunk.round, scored, **written)


def write_quarantined(piece: Draw, reason: str) -> None:
    """Store a chunk that killed its workers as candidates with status "error" and the reason."""
    _store(piece, [None] * len(piece.chunk.keys), iter(()), {"status": "error", "error": reason}, None, 0.0)


def device_name(device) -> str:
    """ "cpu", or what the GPU calls itself."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
