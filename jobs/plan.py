"""`mudi plan RUN_FILE`: what a self-training run or a benchmark will cost, and how much of it is there already.

mudi plan jobs/configs/miniature.yaml
mudi plan jobs/configs/miniature.yaml --calibrate
mudi plan jobs/configs/benchmark_mudi.yaml --set runs=/shared/runs
"""

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

RunFile = Annotated[Path, typer.Argument(help="A run file or a benchmark file; a benchmark's has `methods`.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set candidates=200")]
Calibrate = Annotated[bool, typer.Option("--calibrate", help="Make the run very short on this machine first, and store the rates.")]


def plan(run_file: RunFile, overrides: Overrides = None, calibrate: Calibrate = False) -> None:
    """Print counts, times, memory and disk of a run before it starts; only --calibrate writes, and only rates."""
    entry.require_file(run_file)
    print(f"reading {run_file} and its photos", file=sys.stderr, flush=True)
    from pipeline.settings.benchmark_config import load_plan

    config = load_plan(run_file, overrides or ())
    from pipeline.ready import ready

    run = ready(config, absent_ok=True)
    from pipeline.cost import calibration
    from pipeline.cost.count import workload_of
    from pipeline.cost.price import price
    from pipeline.cost.show import print_plan

    if calibrate:
        from pipeline.cost.short_run import calibrate as measured_by_short_runs

        def load(shorter: list[str]):
            return load_plan(run_file, [*(overrides or ()), *shorter])

        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # A refit carries two adapters on purpose.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            device, rates = measured_by_short_runs(run, load, Path(scratch), lambda text: print(f"calibrating: {text}", file=sys.stderr))
        print(f"calibration {calibration.store(config, device, rates)}")
    stored, workload = calibration.calibrations(config), workload_of(run)
    # Pictures are as large on every device.
    png = next((rates[calibration.PNG] for rates in stored.values() if calibration.PNG in rates), None)
    print_plan(run, workload, [price(config, workload, *of_device) for of_device in stored.items()], png)


if __name__ == "__main__":
    entry.run(plan)
