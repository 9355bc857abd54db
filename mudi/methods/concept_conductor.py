"""Concept Conductor (arXiv 2408.03632), injection with boxes: a LoRA of each subject alone, drawn on a path of its own."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from mudi import adapter_folder
from mudi.adapter_folder import CONCEPT, Origin
from mudi.backbone import Backbone
from mudi.methods.dreambooth import DreamBooth
from mudi.modular.subject_fits import narrowed
from mudi.options import Sampling
from mudi.passes import Work
from mudi.records import Adapter, Combination, Report, Subject


@dataclass(frozen=True, kw_only=True)
class ConceptConductor(DreamBooth):
    """Hyperparameters: those of `DreamBooth`, for each subject's own fit; nothing is merged and nothing is fitted jointly.

    A picture is drawn by n + 1 paths for n subjects (`mudi.attention.injection`), so it costs n + 1 times as many passes of the UNet as a
    plain one. Each subject's features go into its box of the candidate's layout, the one that initialization takes, later
    subjects over earlier ones; a style, which no box can hold, has what the boxes leave. Departures: the paper's
    concepts are ED-LoRAs with token rows; the base model draws the layout by itself, as far as initialization and the prompt say it,
    where the paper copies it from a reference picture (`mudi.attention.injection`).
    """

    name: ClassVar[str] = "concept_conductor"
    refits: ClassVar[bool] = False
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0, layout="given"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampling.layout != "given":
            raise ValueError(
                f"sampling.layout = {self.sampling.layout!r}: concept_conductor injects each subject into its box of a layout; use 'given'"
            )
        if self.sampling.layout_guidance is not None:
            raise ValueError("sampling.layout_guidance: concept_conductor tells each path a prompt of its own; leave it out")

    def paths(self, combination: Combination) -> int:
        """The base's and one a subject."""
        return 1 + len(combination.subjects)

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA a subject."""
        return (self.rank,) * subjects

    def subject_method(self, combination: Combination) -> DreamBooth:
        """A DreamBooth of the same hyperparameters."""
        return narrowed(DreamBooth, self)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def work(self, combination: Combination) -> Work:
        """Files are copied, nothing is trained."""
        return Work(kind=f"gather {self.name}", steps=0)

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a LoRA to each subject, unless it is there, and store them side by side in `out_dir`.

        Of the seeds it is `single_seed` that decides, since a subject is the same in every combination.
        """
        from mudi import adapters

        singles = self.fit_singles(backbone, combination, out_dir, report)
        adapters.detach(backbone)
        manifests = [adapter_folder.read_manifest(single.path) for single in singles]
        details = {
            "seed": self.single_seed, "backbone": backbone.name, "parameters": sum(m["parameters"] for m in manifests),
            "final_loss": sum(m["final_loss"] for m in manifests) / len(manifests),
            "hyperparameters": self.hyperparameters(),
            "cut_tokens": {text: count for m in manifests for text, count in m["cut_tokens"].items()},
        }  # fmt: skip
        subjects = self.view(combination).subjects
        return gather(out_dir, singles, subjects, Origin(method=self.name, combination=combination.key, details=details))


def gather(folder: Path, singles: Sequence[Adapter], subjects: Sequence[Subject], origin: Origin) -> Adapter:
    """Copy the LoRA of each subject's own fit into the adapter `folder`, and return that; it appears complete or not at all.

    `subjects` are as prompts name them, in the order of `singles`. The manifest lists them under "concepts"; each file,
    "concept_N.safetensors", is what diffusers' `load_lora_weights` reads. `adapters.put_on` puts all on under names of their
    own, none of them active. Raises ValueError for a fit without a LoRA and for one that is not what was saved.
    """
    from mudi import adapters

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
    return adapter_folder.finish(staging, folder, replace(origin, details={**origin.details, "concepts": concepts}), lora=None)
