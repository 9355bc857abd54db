"""The stages of a sweep as callables for Ray Data: load once, then delegate to mudi. One row is one chunk.

A chunk travels as one row, so that no operator can split or merge the batch that its pixels depend on.
Every stage adds columns to the row and takes none away; `Write` replaces it by a short receipt.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from mudi import adapters, models
from mudi.detect import detect
from mudi.diffusion import is_valid
from mudi.metrics import detect_and_compare as metric
from mudi.records import Adapter, Candidate, Combination, Detection, Prompt, Score, ScoredCandidate
from mudi.sampling import Sampling, Segments, draw, subject_segments
from pipeline import plan, store

IMAGES = pa.field("images", pa.list_(pa.large_binary()))


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What every stage is built from: names and numbers, never models, so that it travels cheaply."""

    run_dir: str
    models: dict
    method: str
    sampling: Sampling
    threshold: float
    precision: str
    combinations: dict[str, Combination] = field(default_factory=dict)


def _device(gpus: float) -> str:
    return "cuda" if gpus else "cpu"


def _prepare(threads: int) -> None:
    """Fix the number of threads: sums are split by it, and the bits of an image must not depend on the node."""
    torch.set_num_threads(threads)


def _only_row(table: pa.Table) -> dict:
    (row,) = table.to_pylist()
    return row


def _with(table: pa.Table, **columns: tuple[pa.DataType, object]) -> pa.Table:
    for name, (kind, value) in columns.items():
        table = table.append_column(pa.field(name, kind), pa.array([value], kind))
    return table


class Generate:
    """Draws a chunk with its adapter; keeps the backbone, the last adapter and the cut-outs loaded."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        _prepare(threads)
        self.settings = settings
        self.backbone = models.load(settings.models["backbone"], _device(gpus), getattr(torch, settings.precision))
        self.loaded: str | None = None
        self.segments: dict[str, Segments] = {}

    def __call__(self, table: pa.Table) -> pa.Table:
        chunk = plan.from_row(_only_row(table))
        combination = self.settings.combinations[chunk.combination]
        if chunk.adapter_sha256 != self.loaded:
            adapters.load(self.backbone.unet, self._adapter(chunk))
            self.loaded = chunk.adapter_sha256
        if self.settings.sampling.gamma and chunk.combination not in self.segments:
            self.segments[chunk.combination] = subject_segments(combination)
        began = time.perf_counter()
        prompt = Prompt(prompt_id=chunk.prompt_id, text=chunk.prompt)
        images = draw(self.backbone, combination, prompt, chunk.seeds, self.settings.sampling, self.segments.get(chunk.combination, []))
        side = self.backbone.resolution
        return _with(
            table,
            images=(IMAGES.type, [image.tobytes() for image in images]),
            side=(pa.int32(), side),
            seconds=(pa.float64(), (time.perf_counter() - began) / len(images)),
            device=(pa.string(), _device_name(self.backbone.device)),
            dtype=(pa.string(), self.settings.precision),
        )

    def _adapter(self, chunk: plan.Chunk) -> Adapter:
        return Adapter(
            method=self.settings.method, combination=chunk.combination, round=chunk.round, path=Path(chunk.adapter_path),
            sha256=chunk.adapter_sha256,
        )  # fmt: skip


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _images(row: dict) -> list[np.ndarray]:
    shape = (row["side"], row["side"], 3)
    return [np.frombuffer(data, np.uint8).reshape(shape) for data in row["images"]]


class Detect:
    """Finds the subjects of a chunk's valid images."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        _prepare(threads)
        self.settings = settings
        self.detector = models.load_detector(settings.models["detector"], _device(gpus))

    def __call__(self, table: pa.Table) -> pa.Table:
        row = _only_row(table)
        combination = self.settings.combinations[row["combination"]]
        queries = [subject.detection_query for subject in combination.subjects]
        images = _images(row)
        valid = [image for image in images if is_valid(image)]
        answers = iter(detect(self.detector, valid, [queries] * len(valid), self.settings.threshold))
        found = [next(answers) if is_valid(image) else () for image in images]
        return _with(table, detections=(pa.string(), json.dumps([[asdict(d) for d in of_image] for of_image in found])))


class Compare:
    """Scores a chunk's detections against the references."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        _prepare(threads)
        self.settings = settings
        embedders = [models.load_embedder(kind, name, _device(gpus)) for kind, name in settings.models["embedders"].items()]
        self.compare = metric.Compare(embedders, f"owlv2 {settings.models['detector']} > {settings.threshold}")

    def __call__(self, table: pa.Table) -> pa.Table:
        row = _only_row(table)
        valid = [(image, found) for image, found in zip(_images(row), _detections(row), strict=True) if is_valid(image)]
        combination = self.settings.combinations[row["combination"]]
        scores = iter(self.compare([image for image, _ in valid], [found for _, found in valid], combination))
        listed = [[asdict(score) for score in next(scores)] if is_valid(image) else [] for image in _images(row)]
        return _with(table, scores=(pa.string(), json.dumps(listed)))


def _detections(row: dict) -> list[tuple[Detection, ...]]:
    return [
        tuple(Detection(box_xyxy=tuple(d["box_xyxy"]), confidence=d["confidence"], query=d["query"]) for d in of_image)
        for of_image in json.loads(row["detections"])
    ]


class Write:
    """Stores a scored chunk and returns a receipt: chunk_id, candidates and seconds."""

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings

    def __call__(self, table: pa.Table) -> pa.Table:
        row = _only_row(table)
        chunk = plan.from_row(row)
        scored = []
        rows = zip(chunk.keys, chunk.seeds, _images(row), _detections(row), json.loads(row["scores"]), strict=True)
        for key, seed, image, found, scores in rows:
            valid = is_valid(image)
            candidate = Candidate(
                key=key, prompt=chunk.prompt, seed=seed, image=image if valid else None, status="ok" if valid else "invalid",
                error=None if valid else "the image is constant: the model's output overflowed", seconds=row["seconds"],
            )  # fmt: skip
            scored.append(ScoredCandidate(candidate=candidate, detections=found, scores=tuple(Score(**s) for s in scores)))
        store.write_chunk(
            Path(self.settings.run_dir), chunk.chunk_id, chunk.round, scored, device=row["device"], dtype=row["dtype"], batch=len(chunk.keys)
        )
        return pa.table({"chunk_id": [chunk.chunk_id], "candidates": [len(scored)], "seconds": [row["seconds"] * len(scored)]})
