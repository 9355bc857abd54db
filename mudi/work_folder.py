"""What a fit in progress keeps beside its adapter's folder, checkpoints and class priors of its own; gone once the adapter is stored."""

import glob
import shutil
from pathlib import Path


def work_folder(out_dir: Path) -> Path:
    """Where the fit that makes the adapter `out_dir` keeps its checkpoints."""
    return out_dir.with_name(out_dir.name + ".work")


def clear_work(out_dir: Path) -> None:
    """Take away what the fit of the stored adapter `out_dir` kept, and what savings of it that were killed left.

    Nothing here is needed again: a stored adapter is never fitted anew, and another seed has another folder. What
    cannot be taken away now stays for the next start.
    """
    for left in (work_folder(out_dir), *out_dir.parent.glob(f".{glob.escape(out_dir.name)}.*.part")):
        shutil.rmtree(left, ignore_errors=True)
