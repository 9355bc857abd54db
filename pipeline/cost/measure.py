"""Two steps of everything that a run needs, in this process: the rates of the device it runs on.

One warm-up, then two optimiser steps of each kind of fit, two denoising steps of each kind of chunk with its
compositions and its decoding, and every scorer once on that chunk. Nothing but the calibration is kept.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mudi import adapter_folder, adapters, models
from mudi.backbone import Backbone
from mudi.dataset import load_combination
from mudi.detect import detect
from mudi.examples import reference_pictures
from mudi.metrics import METRICS
from mudi.metrics.detect_and_compare import Compare
from mudi.options import RetrainSettings, Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Detection, Prompt
from mudi.retrain import retrain
from mudi.sampling import draw, subject_segments
from pipeline.assignments import located
from pipeline.benchmark import metric_weights
from pipeline.cost.calibration import PNG, SCORERS_LOAD, STEP_LOAD, Rate, judge_name, scorer_names, spread
from pipeline.cost.workload import FitWork, Workload
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig
from pipeline.settings.config import RunConfig, Slot
from pipeline.tables.store import encode_png
from pipeline.workers.fit_job import device_name
from pipeline.workers.memory import peak_on

WARM_UP, MEASURED = 1, 2

Say = Callable[[str], None]


def measure(
    config: RunConfig | BenchmarkConfig, workload: Workload, scratch: Path, say: Say = lambda _: None
) -> tuple[str, dict[str, Rate]]:
    """The device's name and the rates of everything in `workload`, done or not. Leaves files in `scratch` alone."""
    cuda = max(config.cluster.fit.gpus, config.cluster.generate.gpus) > 0 and torch.cuda.is_available()
    combination = load_combination(config.combinations[0], config.queries.get(config.combinations[0].name))
    rates: dict[str, Rate] = {}
    say("loading the backbone")
    torch.set_num_threads(_threads(config.cluster.fit))
    began = time.perf_counter()
    backbone = models.load(located(config.models.backbone), "cuda" if cuda else "cpu", getattr(torch, config.precision))
    rates[STEP_LOAD] = spread([time.perf_counter() - began], source="two steps")
    kinds = {fit.kind: fit for fit in workload.fits}
    first: dict[str, Adapter] = {}
    for kind, work in sorted(kinds.items(), key=lambda item: item[1].retraining is not None):
        say(kind)
        rates[kind] = _fit(backbone, work, combination, scratch, first)
    torch.set_num_threads(_threads(config.cluster.generate))
    chunks = {work.kind: work for work in (*workload.priors, *workload.draws)}
    images: list[np.ndarray] = []
    for kind, work in chunks.items():
        say(kind)
        adapters.put_on(backbone, _slowest(list(first.values()), work.paths > 1))
        rates[kind], images = _draw(backbone, combination, work.prompt, work.batch, work.sampling)
    photos = [p.image for p in reference_pictures(combination, backbone.resolution, masks=False)]
    rates[PNG] = spread([len(encode_png(image)) for image in (*photos, *images)], source="photos and a chunk of two steps")
    device = device_name(backbone.device)
    del backbone
    return device, rates | _score(config, combination, images, cuda, say)


def _fit(backbone: Backbone, work: FitWork, combination: Combination, scratch: Path, first: dict[str, Adapter]) -> Rate:
    """Seconds of two optimiser steps; `other` is what the fit spent besides. `first` collects adapters to refit."""
    stamps: list[float] = []

    def report(step: int, loss: float) -> None:
        _settle(backbone.device)
        stamps.append(time.perf_counter())

    folder = scratch / f"{len(list(scratch.iterdir()))}"
    with peak_on(backbone.device) as peak:
        began = time.perf_counter()
        if work.retraining is None:
            # Class priors are rows like any other, so rows in their place cost the same and nothing need be drawn.
            method = work.options if isinstance(work.options, PhotoFit) else work.options.subject_method(combination)
            options = replace(method, steps=WARM_UP + MEASURED, prior_images=0, batch=work.rows, singles=None)
            # Of subjects that are fitted one by one a single one: between two of them lies more than a step.
            fitted = combination if work.alone is None else replace(combination, subjects=combination.subjects[:1])
            first.setdefault(_family(work), options.train(backbone, fitted, folder, 0, report))
        else:
            pictures = reference_pictures(combination, backbone.resolution, masks=False)
            settings = RetrainSettings(**{**asdict(work.retraining), "steps": WARM_UP + MEASURED})
            captions = [picture.caption for picture in pictures]
            retrain(backbone, combination, first[_family(work)], [p.image for p in pictures], captions, settings, folder, 1, 0, report)
        ended = time.perf_counter()
    steps = list(np.diff(stamps))
    other = max(0.0, ended - began - sum(steps) - float(np.mean(steps)))
    return spread([float(step) for step in steps], other=other, peak_bytes=peak(), source="two steps")


def _slowest(made: Sequence[Adapter], by_paths: bool) -> Adapter:
    """The adapter to draw with: one that draws by several paths or not, and if it can be one with a LoRA, since rows cost nothing."""
    manifests = {adapter: adapter_folder.read_manifest(adapter.path) for adapter in made}
    fitting = [adapter for adapter, manifest in manifests.items() if bool(manifest.get("concepts")) == by_paths]
    return max(fitting or made, key=lambda adapter: manifests[adapter]["lora"] is not None)


def _family(work: FitWork) -> str:
    """What a refit must have in common with the fit that it starts from."""
    return work.options.described()


def _draw(backbone: Backbone, combination: Combination, prompt: str, batch: int, sampling: Sampling) -> tuple[Rate, list[np.ndarray]]:
    """Seconds of two denoising steps of one chunk, by hooks on the UNet; `other` is prompts, compositions and decoding."""
    stamps: list[float] = []

    def stamp(*_) -> None:
        _settle(backbone.device)
        stamps.append(time.perf_counter())

    segments = subject_segments(combination) if sampling.gamma else []
    # Guidance by layout looks for the subjects in the prompt, and `prompt` may be another combination's.
    asked = Prompt(prompt_id="calibration", text=_prompt(combination) if sampling.layout_guidance else prompt)
    with peak_on(backbone.device) as peak:
        draw(backbone, combination, asked, range(batch), replace(sampling, steps=WARM_UP), segments)
        hooks = [backbone.unet.register_forward_pre_hook(stamp), backbone.unet.register_forward_hook(stamp)]
        began = time.perf_counter()
        images = draw(backbone, combination, asked, range(batch), replace(sampling, steps=MEASURED), segments)
        seconds = time.perf_counter() - began
        for hook in hooks:
            hook.remove()
    steps = [after - before for before, after in zip(stamps[::2], stamps[1::2], strict=True)]
    return spread(steps, other=max(0.0, seconds - sum(steps)), peak_bytes=peak(), source="two steps"), images


def _score(
    config: RunConfig | BenchmarkConfig, combination: Combination, images: list[np.ndarray], cuda: bool, say: Say
) -> dict[str, Rate]:
    """Seconds a picture of the detector, the embedders and each metric. Boxes are given, or pictures of two steps would have none."""
    rates: dict[str, Rate] = {}
    detecting, comparing = scorer_names(config)
    queries = [[subject.detection_query for subject in combination.objects]] * len(images)
    side = images[0].shape[0]
    halves = [(0.0, 0.0, side / 2, float(side)), (side / 2, 0.0, float(side), float(side))]
    boxes = [tuple(Detection(box_xyxy=box, confidence=1.0, query="") for box in halves)] * len(images)

    say(detecting)
    torch.set_num_threads(_threads(config.cluster.detect))
    began = time.perf_counter()
    detector = models.load_detector(located(config.models.detector), _device(config.cluster.detect, cuda))
    loading = time.perf_counter() - began
    rates[detecting] = _each(lambda: detect(detector, images, queries, config.score.threshold), len(images))
    say(comparing)
    torch.set_num_threads(_threads(config.cluster.compare))
    began = time.perf_counter()
    chosen = config.models.embedders.chosen.items()
    compare = Compare([models.load_embedder(kind, located(name), _device(config.cluster.compare, cuda)) for kind, name in chosen], "")
    rates[SCORERS_LOAD] = spread([loading + time.perf_counter() - began], source="two steps")
    rates[comparing] = _each(lambda: compare(images, boxes, combination), len(images))
    if isinstance(config, BenchmarkConfig):
        torch.set_num_threads(_threads(config.cluster.judge))
        asked = Prompt(prompt_id="calibration", text=_prompt(combination))
        pngs = [encode_png(image) for image in images]
        for metric in [name for name in dict.fromkeys(config.metrics) if name != DRAWN_WITH]:
            say(f"judge {metric}")
            judge = METRICS[metric](device=_device(config.cluster.judge, cuda), **metric_weights(config, metric))

            def once(judge=judge) -> None:
                judge([np.asarray(Image.open(io.BytesIO(png))) for png in pngs], asked, combination)

            rates[judge_name(config, metric)] = _each(once, len(images))
    return rates


def _prompt(combination: Combination) -> str:
    return "a photo of " + " and ".join(f"a {subject.phrase}" for subject in combination.subjects)


def _each(work: Callable[[], object], pictures: int) -> Rate:
    """Seconds a picture of two turns after one; results are on the CPU when a scorer returns."""
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        began = time.perf_counter()
        work()
        seconds.append((time.perf_counter() - began) / pictures)
    return spread(seconds[WARM_UP:], source="two turns")


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _threads(slot: Slot) -> int:
    return max(1, int(slot.cpus))


def _device(slot: Slot, cuda: bool) -> str:
    return "cuda" if cuda and slot.gpus else "cpu"
