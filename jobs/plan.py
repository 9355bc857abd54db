"""`mudi plan RUN_FILE`: what a self-training run or a benchmark will cost, and how much of it is there already.

mudi plan jobs/configs/miniature.yaml
mudi plan jobs/configs/miniature.yaml --calibrate
mudi plan jobs/configs/benchmark_mudi.yaml --set runs=/shared/runs
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

RunFile = Annotated[Path, typer.Argument(help="A run file or a benchmark file; a benchmark's has `methods`.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set candidates=200")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Measure two steps of everything on this machine first, and store the rates.")]


def plan(run_file: RunFile, overrides: Overrides = None, calibrate: Calibrate = False) -> None:
    """Print counts, times, memory and disk of a run before it starts; only --calibrate writes, and only rates."""
    from pipeline.cost import calibration, price
    from pipeline.cost.count import refuse, workload_of
    from pipeline.cost.disk import disk, png_rate
    from pipeline.cost.show import print_plan
    from pipeline.settings.benchmark_config import load_plan

    config = load_plan(run_file, overrides or ())
    refuse(config)
    workload = workload_of(config)
    if calibrate:
        from pipeline.assignments import check_models
        from pipeline.cost.measure import measure

        check_models(config)
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # A refit carries two adapters on purpose.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            device, rates = measure(config, workload, Path(scratch), lambda text: print(f"calibrating: {text}", file=sys.stderr))
        print(f"calibration {calibration.store(config, calibration.find(config, device).with_rates(rates))}")
    stored = calibration.calibrations(config)
    architecture = calibration.architecture_of(config)
    cores = config.cluster.cpus or os.cpu_count() or 1
    prices = [price.price(config, workload, of_device, cores) for of_device in stored]
    sizes = disk(workload, architecture, png_rate(stored), config.cluster, cores)
    print_plan(config, workload, architecture, sizes, prices, cores)


if __name__ == "__main__":
    entry.run(plan)
