"""Rates: seconds and bytes that runs measured on a type of device, stored beside the runs, for plans to multiply.

A calibration is one JSON file a device type and setting, `RUNS/_calibration/DEVICE-DIGEST.json`; the digest is of what
all its rates depend on (backbone, precision, resolution, threads), the rest stands in the name of each rate:

    fit mudi rank=16 ..., refit ..., refine ...  seconds of an optimiser step; `other`: of all else in a fit but loading
    merge ..., gather ...                        seconds of a merge without steps
    draw batch=8 guided shifted                  seconds of a call of the UNet for a chunk; `other`: of all around the calls
    detect NAME, compare NAME, judge NAMES       seconds a picture; metrics of a benchmark are measured together
    start run                                    seconds from the start of a run to its first piece of work
    png                                          bytes a picture
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mudi.adapter_size import known_architecture
from pipeline.arms import digest
from pipeline.assignments import located
from pipeline.ready import Config
from pipeline.settings.config import workers_of
from pipeline.tables.journal import publish
from pipeline.tables.run_folder import run_folder

FOLDER, VERSION = "_calibration", 1
START, PNG = "start run", "png"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The least and the most that was measured; `other` beside it, `peak_bytes` where memory was watched, `source` in words."""

    low: float
    high: float
    other: float = 0.0
    peak_bytes: int | None = None
    source: str = ""


# The rates of one type of device by name.
Rates = Mapping[str, Rate]


def settings_of(config: Config) -> dict:
    """What all rates of a calibration depend on."""
    stages = workers_of(config.cluster.model_dump(mode="json"))
    return {
        "backbone": located(config.models.backbone), "precision": config.precision,
        "side": known_architecture(config.models.backbone).side, "workers": {**stages, "judge": stages["fit"]},
    }  # fmt: skip


def calibrations(config: Config) -> dict[str, Rates]:
    """The stored rates for the settings of this run file, by device, "cpu" or what a GPU calls itself. ValueError for a file that cannot
    be read."""
    return dict(_read(path) for path in sorted(run_folder(config.runs, FOLDER).glob(f"*-{digest(settings_of(config))}.json")))


def store(config: Config, device: str, rates: Rates) -> Path:
    """Writes these rates, beside those of other names that are stored already, by rename, and returns the file."""
    slug, settings = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-"), settings_of(config)
    together = {name: asdict(rate) for name, rate in sorted({**calibrations(config).get(device, {}), **rates}.items())}
    content = {"version": VERSION, "device": device, "settings": settings, "rates": together}
    return publish(run_folder(config.runs, FOLDER), f"{slug}-{digest(settings)}.json", json.dumps(content, indent=1).encode() + b"\n")


def scorer_names(config: Config) -> tuple[str, str]:
    """The names of the rates of detecting and of comparing."""
    embedders = " ".join(f"{kind}={located(name)}" for kind, name in config.models.embedders.chosen.items())
    return f"detect {located(config.models.detector)}", f"compare {embedders}"


def judge_name(config: Config, *metrics: str) -> str:
    """The name of the rate of metrics at once, with the models beside the run's own, whose sizes decide."""
    used = sorted(f"{key}={located(name)}" for key, name in config.models.model_extra.items())
    return f"judge {' + '.join(sorted(metrics))} {' '.join(used)}".strip()


def _read(path: Path) -> tuple[str, Rates]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            raise ValueError(f"{path}: version {content['version']} of a calibration, not {VERSION}; remove it and calibrate again")
        rates = {name: Rate(**rate) for name, rate in content["rates"].items()}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: no calibration ({error}); remove it and run `mudi plan` with --calibrate") from None
    return content["device"], rates
