"""A run file or benchmark file looked through with all its combinations: everything that the run would refuse."""

from pathlib import Path

from mudi.dataset import Each
from pipeline.check.folder import FolderReport, check_folder
from pipeline.settings.benchmark_config import load_plan


def check_run(path: Path, each: Each = map) -> tuple[list[str], list[FolderReport]]:
    """The mistakes of the file's settings, and the reports on its combinations; `each` as for `check_folder`.

    Raises ValueError where the file itself cannot be read as what it is, naming the first place. What only a
    running cluster can tell, such as whether it has the GPUs that are asked for, is left to the run.
    """
    from pipeline.ready import ready

    config = load_plan(path)
    reports = [check_folder(folder, config.queries.get(folder.name), each) for folder in config.combinations]
    mistakes: list[ValueError] = []
    ready(config, mistakes.append, [report.combination for report in reports if report.combination is not None])
    return [str(mistake) for mistake in mistakes], reports
