"""Rates: seconds and bytes that were measured on a type of device, stored beside the runs, for plans to multiply.

A calibration is one JSON file a device type and setting, `RUNS/_calibration/DEVICE-DIGEST.json`; the digest is of what
all its rates depend on (backbone, precision, resolution, threads), the rest stands in the name of each rate:

    fit mudi rank=16 mix=0.3 rows=6 ...   seconds of an optimiser step; `other`: of all else in a fit but loading
    draw batch=8 guided shifted           seconds of a call of the UNet for a chunk; `other`: of all around the calls
    draw batch=8 guided shifted steps=25  seconds of a whole chunk, as runs measure it
    detect NAME, compare NAME, judge NAME seconds a picture; runs measure the metrics of a benchmark together
    load backbone, load scorers           seconds, imports of a fresh process included
    start sweep                           seconds from the start of a sweep to its first picture, as runs measure it
    png                                   bytes a picture

Rates come from two steps (`pipeline/cost/measure.py`) or from a whole run (`pipeline/learning.py`); the newer one replaces.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mudi.adapter_size import Architecture, known_architecture
from pipeline.assignments import located
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig, workers_of
from pipeline.tables.journal import publish
from pipeline.tables.run_folder import run_folder

FOLDER, VERSION = "_calibration", 1
STEP_LOAD, SCORERS_LOAD, SWEEP_START, PNG = "load backbone", "load scorers", "start sweep", "png"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The least and the most that was measured; `other` beside it, `peak_bytes` where memory was watched, `source` in words."""

    low: float
    high: float
    other: float = 0.0
    peak_bytes: int | None = None
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The rates of one type of device, "cpu" or what a GPU calls itself, in the settings of one run file."""

    device: str
    settings: Mapping
    rates: Mapping[str, Rate] = field(default_factory=dict)

    def with_rates(self, rates: Mapping[str, Rate]) -> "Calibration":
        """The same with these rates added or replaced."""
        return Calibration(device=self.device, settings=self.settings, rates={**self.rates, **rates})


def architecture_of(config: RunConfig | BenchmarkConfig) -> Architecture:
    """What is known of the run's backbone without loading or fetching it."""
    return known_architecture(config.models.backbone)


def settings_of(config: RunConfig | BenchmarkConfig) -> dict:
    """What all rates of a calibration depend on."""
    workers = workers_of(config.model_dump(mode="json")["cluster"])
    workers["judge"] = {"cuda": config.cluster.judge.gpus > 0, "threads": max(1, int(config.cluster.judge.cpus))}
    return {
        "backbone": located(config.models.backbone),
        "precision": config.precision,
        "side": architecture_of(config).side,
        "workers": workers,
    }


def calibrations(config: RunConfig | BenchmarkConfig) -> list[Calibration]:
    """Every stored calibration for the settings of this run file, by device. ValueError for a file that cannot be read."""
    settings = settings_of(config)
    folder = run_folder(config.runs, FOLDER)
    return [_read(path) for path in sorted(folder.glob(f"*-{_digest(settings)}.json"))]


def find(config: RunConfig | BenchmarkConfig, device: str) -> Calibration:
    """The stored calibration of a type of device, or an empty one."""
    stored = {calibration.device: calibration for calibration in calibrations(config)}
    return stored.get(device) or Calibration(device=device, settings=settings_of(config))


def store(config: RunConfig | BenchmarkConfig, calibration: Calibration) -> Path:
    """Writes a calibration by rename and returns its file."""
    slug = re.sub(r"[^a-z0-9]+", "-", calibration.device.lower()).strip("-")
    rates = {name: asdict(rate) for name, rate in sorted(calibration.rates.items())}
    content = {"version": VERSION, "device": calibration.device, "settings": calibration.settings, "rates": rates}
    folder = run_folder(config.runs, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    return publish(folder, f"{slug}-{_digest(calibration.settings)}.json", json.dumps(content, indent=1).encode() + b"\n")


def scorer_names(config: RunConfig | BenchmarkConfig) -> tuple[str, str]:
    """The names of the rates of detecting and of comparing."""
    embedders = " ".join(f"{kind}={located(name)}" for kind, name in config.models.embedders.chosen.items())
    return f"detect {located(config.models.detector)}", f"compare {embedders}"


def judge_name(config: BenchmarkConfig, *metrics: str) -> str:
    """The name of the rate of a metric, or of several at once: with the models beside the run's own, whose sizes decide."""
    given = config.models.model_dump()
    used = sorted(f"{key}={located(given[key])}" for key in config.models.model_extra)
    return f"judge {' + '.join(sorted(metrics))} {' '.join(used)}".strip()


def spread(values: Sequence[float], **more) -> Rate:
    """The rate that these measurements make."""
    return Rate(low=min(values), high=max(values), **more)


def _digest(settings: Mapping) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def _read(path: Path) -> Calibration:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"{path}: version {content['version']} of a calibration, not {VERSION}; remove it and calibrate again")
        rates = {name: Rate(**rate) for name, rate in content["rates"].items()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no calibration ({error}); remove it and run `mudi plan` with --calibrate") from None
    return Calibration(device=content["device"], settings=content["settings"], rates=rates)
