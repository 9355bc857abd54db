"""`mudi compare RUN_A RUN_B`: what two runs, or two arms, differ in, on pictures that began with the same noise.

mudi compare runs/first runs/second --metric dnc_linear_dreamsim
mudi compare runs/benchmark runs/benchmark --method-a dreambooth --method-b mudi
"""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry

RunA = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/first.")]
RunB = Annotated[Path, typer.Argument(help="The folder of the run to compare it with; may be the same with two arms named.")]
Metric = Annotated[str | None, typer.Option(help="One score, such as dnc_linear_dreamsim; all that both have by default.")]
MethodA = Annotated[str | None, typer.Option(help="The arm of RUN_A; with --method-b, instead of all arms of equal labels.")]
MethodB = Annotated[str | None, typer.Option(help="The arm of RUN_B to compare it with.")]


def compare(run_a: RunA, run_b: RunB, metric: Metric = None, method_a: MethodA = None, method_b: MethodB = None) -> None:
    """Print paired differences of two runs, B minus A, and whether their intervals exclude zero."""
    from pipeline.report.compare import compare as compared
    from pipeline.report.compare import print_comparison

    print_comparison(run_a, run_b, compared(run_a, run_b, metric, method_a, method_b))


if __name__ == "__main__":
    entry.run(compare)
