"""The stages of a sweep as callables for Ray Data: load once, then delegate to mudi. One row is one chunk.

A chunk travels as one row, so that no operator can split or merge the batch that its pixels depend on.
Every stage adds columns to the row and takes none away; `write` replaces it by a short receipt.

A worker process starts anew for every sweep and imports this module first, so each stage imports what it
needs when it is built: torch and the model libraries take 4 (detector) to 13 s (diffusion) of CPU time.
"""

import io
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from PIL import Image

from mudi.records import Adapter, Candidate, Combination, Detection, Prompt, Score, ScoredCandidate
from pipeline import plan
from pipeline.tables import store

if TYPE_CHECKING:
    from mudi.personalization import Personalization
    from mudi.sampling import Segments

IMAGES = pa.field("images", pa.list_(pa.large_binary()))
BUSY = ("generate", "detect", "compare")


@dataclass(frozen=True, kw_only=True)
class StageSettings:
    """What every stage is built from: names and numbers, never models, so that it travels cheaply. `methods` say how
    each draws and names subjects."""

    run_dir: str
    models: dict
    methods: dict[str, "Personalization"]
    threshold: float
    precision: str
    combinations: dict[str, Combination] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeSettings:
    """What `Judge` is built from: each metric's name with the weights it wants, and the combinations with their prompts."""

    run_dir: str
    metrics: dict[str, dict]
    combinations: dict[str, Combination]


def device_of(gpus: float) -> str:
    return "cuda" if gpus else "cpu"


def fix_threads(threads: int) -> None:
    """Sums are split by the number of threads, and the bits of an image must not depend on the node."""
    import torch

    torch.set_num_threads(threads)


def only_row(table: pa.Table) -> dict:
    (row,) = table.to_pylist()
    return row


def with_columns(table: pa.Table, **columns: tuple[pa.DataType, object]) -> pa.Table:
    for name, (kind, value) in columns.items():
        table = table.append_column(pa.field(name, kind), pa.array([value], kind))
    return table


class Generate:
    """Draws a chunk with its adapter; keeps the backbone, the last adapter and the cut-outs loaded."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        import torch

        from mudi import models

        fix_threads(threads)
        self.settings = settings
        self.backbone = models.load(settings.models["backbone"], device_of(gpus), getattr(torch, settings.precision))
        self.loaded: str | None = None
        self.segments: dict[str, Segments] = {}

    def __call__(self, table: pa.Table) -> pa.Table:
        from mudi import adapters
        from mudi.diffusion import is_valid
        from mudi.sampling import draw, subject_segments
        from pipeline.workers.fit_job import device_name

        chunk = plan.from_row(only_row(table))
        method = self.settings.methods[chunk.keys[0].method]
        combination = method.view(self.settings.combinations[chunk.combination])
        if chunk.adapter_sha256 != self.loaded:
            adapters.put_on(self.backbone, _adapter(chunk))
            self.loaded = chunk.adapter_sha256
        if method.sampling.gamma and chunk.combination not in self.segments:
            self.segments[chunk.combination] = subject_segments(combination)
        began = time.perf_counter()
        prompt = Prompt(prompt_id=chunk.prompt_id, text=chunk.prompt)
        images = draw(self.backbone, combination, prompt, chunk.seeds, method.sampling, self.segments.get(chunk.combination, []))
        return with_columns(
            table,
            images=(IMAGES.type, [image.tobytes() for image in images]),
            valid=(pa.list_(pa.bool_()), [is_valid(image) for image in images]),
            side=(pa.int32(), self.backbone.resolution),
            began=(pa.float64(), time.time() - (time.perf_counter() - began)),
            generate=(pa.float64(), time.perf_counter() - began),
            device=(pa.string(), device_name(self.backbone.device)),
            dtype=(pa.string(), self.settings.precision),
        )


def _adapter(chunk: plan.Chunk) -> Adapter:
    return Adapter(
        method=chunk.keys[0].method, combination=chunk.combination, round=chunk.round, path=Path(chunk.adapter_path),
        sha256=chunk.adapter_sha256,
    )  # fmt: skip


def images_of(row: dict) -> list[np.ndarray]:
    shape = (row["side"], row["side"], 3)
    return [np.frombuffer(data, np.uint8).reshape(shape) for data in row["images"]]


class Detect:
    """Finds the subjects of a chunk's valid images."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        from mudi import models

        fix_threads(threads)
        self.settings = settings
        self.detector = models.load_detector(settings.models["detector"], device_of(gpus))

    def __call__(self, table: pa.Table) -> pa.Table:
        from mudi.detect import detect

        row, began = only_row(table), time.perf_counter()
        combination = self.settings.combinations[row["combination"]]
        queries = [subject.detection_query for subject in combination.objects]
        images = images_of(row)
        valid = [image for image, good in zip(images, row["valid"], strict=True) if good]
        answers = iter(detect(self.detector, valid, [queries] * len(valid), self.settings.threshold))
        found = [next(answers) if good else () for good in row["valid"]]
        listed = [[asdict(detection) for detection in of_image] for of_image in found]
        return with_columns(table, detections=(pa.string(), json.dumps(listed)), detect=(pa.float64(), time.perf_counter() - began))


class Compare:
    """Scores a chunk's detections against the references."""

    def __init__(self, settings: StageSettings, gpus: float, threads: int) -> None:
        from mudi import models
        from mudi.metrics import detect_and_compare as metric

        fix_threads(threads)
        self.settings = settings
        embedders = [models.load_embedder(kind, name, device_of(gpus)) for kind, name in settings.models["embedders"].items()]
        self.compare = metric.Compare(embedders, f"owlv2 {settings.models['detector']} > {settings.threshold}")

    def __call__(self, table: pa.Table) -> pa.Table:
        row, began = only_row(table), time.perf_counter()
        valid = [(image, found) for image, found, good in zip(images_of(row), _detections(row), row["valid"], strict=True) if good]
        combination = self.settings.combinations[row["combination"]]
        scores = iter(self.compare([image for image, _ in valid], [found for _, found in valid], combination))
        listed = [[asdict(score) for score in next(scores)] if good else [] for good in row["valid"]]
        return with_columns(table, scores=(pa.string(), json.dumps(listed)), compare=(pa.float64(), time.perf_counter() - began))


def _detections(row: dict) -> list[tuple[Detection, ...]]:
    return [
        tuple(Detection(box_xyxy=tuple(d["box_xyxy"]), confidence=d["confidence"], query=d["query"]) for d in of_image)
        for of_image in json.loads(row["detections"])
    ]


def write(table: pa.Table, run_dir: str) -> pa.Table:
    """Stores a scored chunk and returns a receipt: chunk_id, candidates, and the seconds that each stage took."""
    row = only_row(table)
    chunk = plan.from_row(row)
    seconds = row["generate"] / len(chunk.keys)
    scored = []
    rows = zip(chunk.keys, chunk.seeds, images_of(row), row["valid"], _detections(row), json.loads(row["scores"]), strict=True)
    for key, seed, image, valid, found, scores in rows:
        candidate = Candidate(
            key=key, prompt=chunk.prompt, seed=seed, image=image if valid else None, status="ok" if valid else "invalid",
            error=None if valid else "the image is constant: the model's output overflowed", seconds=seconds,
        )  # fmt: skip
        scored.append(ScoredCandidate(candidate=candidate, detections=found, scores=tuple(Score(**s) for s in scores)))
    written = {"device": row["device"], "dtype": row["dtype"], "batch": len(chunk.keys)}
    store.write_chunk(Path(run_dir), chunk.chunk_id, chunk.round, scored, **written)
    return pa.table({"chunk_id": [chunk.chunk_id], "candidates": [len(scored)], **{key: [row[key]] for key in ("began", *BUSY)}})


class Judge:
    """Scores stored pictures by metrics that a run did not have when they were drawn. A row names a chunk and its metrics."""

    def __init__(self, settings: JudgeSettings, gpus: float, threads: int) -> None:
        from mudi.metrics import METRICS

        fix_threads(threads)
        self.settings = settings
        self.metrics = {name: METRICS[name](device=device_of(gpus), **weights) for name, weights in settings.metrics.items()}

    def __call__(self, table: pa.Table) -> pa.Table:
        row, began = only_row(table), time.time()
        run_dir = Path(self.settings.run_dir)
        pictures = [(r, png) for r, png in store.read_chunk(run_dir, row["round"], row["chunk_id"]) if png is not None]
        images = [np.asarray(Image.open(io.BytesIO(png))) for _, png in pictures]
        for name in row["metrics"]:
            scores = self._scores(name, pictures[0][0], images) if pictures else []
            by_candidate = {r["candidate_id"]: of_image for (r, _), of_image in zip(pictures, scores, strict=True)}
            store.write_scores(run_dir, row["chunk_id"], row["round"], name, by_candidate)
        return pa.table({"chunk_id": [row["chunk_id"]], "candidates": [len(pictures)], "seconds": [time.time() - began]})

    def _scores(self, metric: str, first: dict, images: list[np.ndarray]) -> list[tuple[Score, ...]]:
        """The scores of pictures of the prompt of the row `first`, as the user wrote it, whatever the method calls the subjects."""
        combination = self.settings.combinations[first["combination"]]
        (prompt,) = [p for p in combination.prompts if p.prompt_id == first["prompt_id"]]
        return self.metrics[metric](images, prompt, combination)
