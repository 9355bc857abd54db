"""`python -m bench.against_before CHECKOUT`: this tree against another checkout of the project, each with its own .venv, in turns.

For each of them: the demo's wall seconds and peak memory (as it prints it), the wall seconds of starting the finished demo again,
and the CPU seconds of `--help` and of three mistakes in a run file. `--turns N` repeats all; the printed ratios are medians.
"""

import argparse
import re
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parents[1]
DEMO = ("selftrain", "jobs/configs/miniature.yaml")
REFUSED = {
    "mudi --help": ("--help",),
    "a file that is not there": ("selftrain", "nothing.yaml"),
    "a folder that is not there": (*DEMO, "--set", "combinations=[nowhere]"),
    "an unknown key": (*DEMO, "--set", "candidatess=3"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--turns", type=int, default=1)
    arguments = parser.parse_args()
    trees = {"this": HERE, "other": arguments.checkout.resolve()}
    found: dict[str, dict[str, list[float]]] = {}
    for turn in range(arguments.turns):
        for name, tree in trees.items():
            for measure, value in _measured(tree).items():
                found.setdefault(measure, {}).setdefault(name, []).append(value)
                print(f"turn {turn + 1}, {name}: {measure} {value:.2f}", flush=True)
    for measure, of in found.items():
        this, other = median(of["this"]), median(of["other"])
        print(f"{measure}: {this:.2f} against {other:.2f}, ratio {this / other:.2f}")


def _measured(tree: Path) -> dict[str, float]:
    """One tree's figures; its runs go to a folder that is taken away."""
    measures = {}
    for what, words in REFUSED.items():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _mudi(tree, *words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        measures[f"{what}, CPU s"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with tempfile.TemporaryDirectory() as runs:
        began = time.perf_counter()
        first = _mudi(tree, *DEMO, "--set", f"runs={runs}")
        measures["demo, wall s"] = time.perf_counter() - began
        measures["demo, peak GiB"] = float(re.search(r"peak memory ([\d.]+) GiB", first.stdout)[1])
        began = time.perf_counter()
        _mudi(tree, *DEMO, "--set", f"runs={runs}")
        measures["the finished demo again, wall s"] = time.perf_counter() - began
    return measures


def _mudi(tree: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([tree / ".venv" / "bin" / "mudi", *words], cwd=tree, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
