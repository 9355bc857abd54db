"""A run file or benchmark file looked through with all its combinations: all that the run would refuse."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mudi.dataset import Each
from mudi.records import Combination
from pipeline.check.folder import FolderReport, check_folder
from pipeline.settings.benchmark_config import BenchmarkConfig, load_plan
from pipeline.settings.config import RunConfig

Check = Callable[[], object]


def check_run(path: Path, each: Each = map) -> tuple[list[str], list[FolderReport]]:
    """The mistakes of the file's settings, and the reports on its combinations; `each` as for `check_folder`.

    Raises ValueError where the file itself cannot be read as what it is, naming the first place. What only a
    running cluster can tell, such as whether it has the GPUs that are asked for, is left to the run.
    """
    config = load_plan(path)
    reports = [check_folder(folder, config.queries.get(folder.name), each) for folder in config.combinations]
    combinations = [report.combination for report in reports if report.combination is not None]
    checks = (_benchmark_checks if isinstance(config, BenchmarkConfig) else _run_checks)(config, combinations)
    return [mistake for mistake in map(_mistake, checks) if mistake], reports


def _mistake(check: Check) -> str | None:
    try:
        check()
    except ValueError as error:
        return str(error)
    return None


def _run_checks(config: RunConfig, combinations: Sequence[Combination]) -> Iterator[Check]:
    """What `mudi selftrain` asks of its file before it starts. Imported here: folders are checked without torch.

    A method that is none says nothing about the combinations, which are named as it names them.
    """
    from mudi.user_files.requirements import check_levels
    from pipeline import assignments
    from pipeline.tables.run_folder import run_folder

    yield partial(run_folder, config.runs, config.name)
    yield partial(assignments.check_models, config)
    yield partial(assignments.hyperparameters_of, config)
    yield partial(assignments.check_queries, config)
    if _mistake(partial(assignments.hyperparameters_of, config)) is None:
        yield lambda: check_levels(config, {"sampling": assignments.sampling_of(config)})
        for combination in combinations:
            yield partial(assignments.with_prompts, config, combination)


def _benchmark_checks(config: BenchmarkConfig, combinations: Sequence[Combination]) -> Iterator[Check]:
    """The same of `mudi benchmark`. Arms that cannot be resolved say nothing about the combinations."""
    from mudi.user_files.requirements import check_levels
    from pipeline import arms, assignments
    from pipeline.benchmark_folder import check_metrics
    from pipeline.tables.run_folder import run_folder

    yield partial(run_folder, config.runs, config.name)
    yield partial(assignments.check_models, config)
    yield partial(check_metrics, config, combinations)
    yield partial(arms.resolve, config)
    if _mistake(partial(arms.resolve, config)) is None:
        resolved = arms.resolve(config)
        yield partial(check_levels, config, arms.samplings_of(resolved))
        for combination in combinations:
            yield partial(arms.with_prompts, config, resolved, combination)
