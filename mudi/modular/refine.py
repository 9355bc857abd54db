"""A merge taught its subjects apart: Seg-Mix on pictures that each subject's own fit drew, held near the merge by a KL term."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mudi import adapter_folder
from mudi.backbone import Backbone
from mudi.examples import Mix, Picture, personal_examples
from mudi.options import RetrainSettings
from mudi.records import Adapter, Combination, Report
from mudi.retrain import refit
from mudi.work_folder import work_folder


def refined_adapter(
    backbone: Backbone, combination: Combination, out_dir: Path, merge: Callable[[Path], Adapter], pictures: Sequence[Picture],
    settings: RetrainSettings, *, mix: Mix, seed: int, report: Report | None = None,
) -> Adapter:  # fmt: skip
    """The adapter that `merge` leaves in the folder it is given, trained on compositions of `pictures` and stored in `out_dir`.

    Source: MuDI (arXiv 2404.04243), modular customisation: 200 to 300 steps of Seg-Mix on self-generated pictures alone (here
    `mudi.modular.self_generated`, cut out, owners in the order of the subjects), each composition made by `mix`, with
    `settings.kl_weight` times the KL to the merge as it was. The merge's LoRA is what moves; its token rows, which the paper has
    none of, are on meanwhile, stay as they are and are stored with it. The merge lies in the work folder of `out_dir` until then, and
    one that is there is taken. Raises ValueError if it holds no LoRA.
    """
    place = work_folder(out_dir) / "merged"
    start = adapter_folder.find(place) or merge(place)
    manifest = adapter_folder.read_manifest(place)
    details = {
        "hyperparameters": manifest["hyperparameters"], "merge": manifest["merge"],
        "refine": {**asdict(settings), "merged_sha256": start.sha256, "pictures": len(pictures)},
    }  # fmt: skip
    examples = personal_examples(pictures, [], batch=settings.batch, mix=mix, mix_probability=1.0)
    return refit(backbone, combination, start, examples, settings, out_dir, round=0, seed=seed, details=details, report=report)
