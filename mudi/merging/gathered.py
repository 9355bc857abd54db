"""LoRAs of single subjects side by side in one adapter, for a method that draws each on a path of its own."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mudi import adapter_folder, adapters
from mudi.adapter_folder import CONCEPT
from mudi.records import Adapter, Subject


def gather(
    folder: Path, singles: Sequence[Adapter], subjects: Sequence[Subject], *, method: str, combination: str, details: dict
) -> Adapter:
    """Copy the LoRA of each subject's own fit into the adapter `folder`, and return that; it appears complete or not at all.

    `subjects` are as prompts name them, in the order of `singles`. The manifest lists them under "concepts"; each file,
    "concept_N.safetensors", is what diffusers' `load_lora_weights` reads. `adapters.put_on` puts all on under names of their
    own, none of them active. Raises ValueError for a fit without a LoRA and for one that is not what was saved.
    """
    staging, concepts = adapter_folder.begin(folder), []
    for number, (single, subject) in enumerate(zip(singles, subjects, strict=True)):
        settings, _ = adapters.read_lora(single)
        shutil.copyfile(single.path / adapter_folder.WEIGHTS, staging / CONCEPT.format(number))
        concepts.append(
            {
                "key": subject.key, "phrase": subject.phrase, "class_noun": subject.class_noun, "style": not subject.detection_query,
                "lora": asdict(settings), "sha256": single.sha256,
            }
        )  # fmt: skip
    return adapter_folder.finish(
        staging, folder, method=method, combination=combination, round=0, lora=None, details={**details, "concepts": concepts}
    )
