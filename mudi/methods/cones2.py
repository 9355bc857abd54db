"""Cones 2 (arXiv 2305.19327): each subject is a residual of its class noun, learnt alone; combinations only put them together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import ClassVar, Literal

from mudi import adapter_folder, adapter_size, adapters
from mudi.adapter_size import Architecture
from mudi.backbone import Backbone, Residual
from mudi.cones2.learn import Preserved, ResidualSettings, Tuning, learn_residual
from mudi.examples import personal_examples, reference_pictures
from mudi.fit import FitSettings
from mudi.modular.subject_fits import after, fit_apart, single_fits
from mudi.options import Sampling
from mudi.personalization import NOT_DECIDING, Personalization
from mudi.records import Adapter, Combination, Report, Subject
from mudi.work_folder import clear_work, work_folder

# The release's for whole encoders. It has no LoRA and tunes no residual by itself: their rates are this project's choice.
LEARNING_RATES: Mapping[Tuning, float] = {"text_full": 5e-6, "text_lora": 1e-4, "direct": 1e-3}


@dataclass(frozen=True, kw_only=True)
class Cones2(Personalization):
    """Hyperparameters; those of the optimiser and of the preservation are the release's (SD 2.1), those of `tuning` stand in
    `mudi.cones2.learn.ResidualSettings`. `learning_rate` None is that of `LEARNING_RATES` for the tuning.

    A subject is named by its class noun alone, without an identifier, in training as in prompts; two of the same noun
    take its occurrences in turn. Photos are trained with the bare noun for a prompt, whatever their captions say. The
    guidance scale is the release's.

    Measured on the miniature, one subject each of two tuning pairs, 100 steps, batch 6: the denoising loss of its photos
    (ten times, "a photo of a NOUN") falls from 0.0654 and 0.0574 to 0.0650 and 0.0572 with "direct" at 1e-3, 0.0628 and
    0.0548 at 1e-2, 0.0613 and 0.0526 at 5e-2, where drawn pictures show the subject's colours and clothes. With "text_lora",
    on the first subject, it falls to 0.0653 at 1e-4, 0.0642 at 1e-3 and 0.0636 at 5e-3. So for some hundred steps of
    the miniature take 5e-2 and 1e-3 to 5e-3; the defaults are for the 4000 steps of a full model.
    """

    name: ClassVar[str] = "cones2"
    refits: ClassVar[bool] = False
    lora_targets: ClassVar[tuple[str, ...] | None] = None
    residuals: ClassVar[bool] = True
    steps: int = 4000
    learning_rate: float | None = None
    accumulation: int = 1
    weight_decay: float = 1e-2
    objective: Literal["denoising"] = "denoising"
    tuning: Tuning = "text_lora"
    rank: int = 32
    mark_weight: float = 1e-2
    rest_weight: float = 1e-3
    preserve_prompts: Preserved = "instance"
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0, guidance_scale=7.5))

    def __post_init__(self) -> None:
        if self.objective != "denoising":
            raise ValueError(f"objective = {self.objective!r}: Cones 2 has no other than 'denoising'; leave it out")
        if isinstance(self.preserve_prompts, list):
            object.__setattr__(self, "preserve_prompts", tuple(self.preserve_prompts))
        self.residual_settings()
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.tuning])
        super().__post_init__()

    def residual_settings(self) -> ResidualSettings:
        """How each subject's residual is learnt; ValueError for a tuning or preservation that does not exist."""
        return ResidualSettings(
            tuning=self.tuning, rank=self.rank, mark_weight=self.mark_weight, rest_weight=self.rest_weight,
            preserve_prompts=self.preserve_prompts,
        )  # fmt: skip

    def view(self, combination: Combination) -> Combination:
        """The combination with each subject named by its class noun alone, which is its photos' caption too."""
        return replace(combination, subjects=tuple(map(_bare, super().view(combination).subjects)))

    def require(self, combination: Combination) -> None:
        """Raise ValueError for a sentence of `preserve_prompts` without the noun of one of the subjects, each of which it holds."""
        for subject in self.view(combination).subjects:
            self.residual_settings().preserved(subject.class_noun)

    def single_recipe(self, combination: Combination) -> dict[str, object]:
        """What decides a subject's fit beside the subject, the seed and the model."""
        optimiser = {key: getattr(self, key) for key in ("steps", "learning_rate", "batch", "accumulation", "weight_decay")}
        how = {"tuning": self.tuning} if self.tuning == "direct" else asdict(self.residual_settings())
        return {"method": self.name, **optimiser, **how}

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """The numbers a fit trains, most of which are not stored, and the bytes of all residuals and of each subject's own."""
        nouns = {subject.key: subject.class_noun for subject in self.view(combination).subjects}
        shapes = adapter_size.residual_shapes(architecture, nouns)
        own = [adapter_size.residual_shapes(architecture, {key: noun}) for key, noun in nouns.items()]
        sizes = [adapter_size.file_bytes(of_subject, {"format": "pt"}) for of_subject in (shapes, *own[: alone or 0])]
        trained = {
            "text_full": adapter_size.encoder_parameters(architecture),
            "text_lora": adapter_size.encoder_lora_parameters(architecture, self.rank),
            "direct": max(map(prod, shapes.values())),
        }
        return trained[self.tuning], sum(sizes)

    def fit_singles(
        self, backbone: Backbone, combination: Combination, out_dir: Path, report: Report | None = None, only: str | None = None
    ) -> list[Adapter]:
        """Each subject's residual as an adapter of its own, or that of one subject."""
        named, work = self.view(combination), work_folder(out_dir)
        wanted = tuple(subject for subject in named.subjects if only in (None, subject.key))
        keys = [subject.key for subject in wanted]

        def fit_one(alone: Combination, folder: Path, seed: int) -> Adapter:
            onwards = after(report, self.steps * keys.index(alone.key))
            return fit_apart(lambda apart: self._fit_one(backbone, alone, apart, seed, onwards), folder, work)

        folder = Path(self.singles) if self.singles else work / "subjects"
        recipe = self.single_recipe(combination)
        return single_fits(backbone, replace(named, subjects=wanted), recipe, self.single_seed, folder, fit_one)

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit the residual of each subject that has none yet, and store those of all, in their order, in `out_dir`.

        Of the seeds it is `single_seed` that decides, since a subject is the same in every combination.
        """
        fitted = self.fit_singles(backbone, combination, out_dir, report)
        keys = [subject.key for subject in combination.subjects]
        residuals = [_residual(backbone, adapter, key) for adapter, key in zip(fitted, keys, strict=True)]
        adapters.detach(backbone)
        manifests = [adapter_folder.read_manifest(adapter.path) for adapter in fitted]
        adapter = self._save(
            backbone, out_dir, combination.key, residuals, [m["final_loss"] for m in manifests],
            max(m["parameters"] for m in manifests), subjects=[adapter.sha256 for adapter in fitted],
        )  # fmt: skip
        clear_work(out_dir)
        return adapter

    def _fit_one(self, backbone: Backbone, alone: Combination, folder: Path, seed: int, report: Report | None) -> Adapter:
        (subject,) = alone.subjects
        adapters.detach(backbone)
        pictures = reference_pictures(alone, backbone.resolution, masks=False)
        settings = FitSettings(
            steps=self.steps, learning_rate=self.learning_rate, batch=self.batch, accumulation=self.accumulation,
            weight_decay=self.weight_decay,
        )  # fmt: skip
        learnt = learn_residual(
            backbone, subject.class_noun, personal_examples(pictures, [], batch=self.batch), settings, self.residual_settings(),
            work=work_folder(folder), seed=seed, report=report,
        )  # fmt: skip
        residual = Residual(key=subject.key, words=subject.class_noun, values=learnt.values)
        return self._save(backbone, folder, alone.key, [residual], [learnt.loss], learnt.trained)

    def _save(
        self, backbone: Backbone, folder: Path, key: str, residuals: Sequence[Residual], losses: Sequence[float], trained: int,
        **details: object,
    ) -> Adapter:  # fmt: skip
        """Store residuals; the manifest says of each how large it is, in which number format, and for which model.

        `trained`: how many numbers a fit moved, most of which are not stored.
        """
        hyperparameters = {name: value for name, value in asdict(self).items() if name not in NOT_DECIDING}
        details |= {
            "seed": self.single_seed, "backbone": backbone.name, "final_loss": sum(losses) / len(losses), "cut_tokens": {},
            "hyperparameters": hyperparameters, "parameters": trained,
            "residuals": {r.key: _described(r, backbone, loss) for r, loss in zip(residuals, losses, strict=True)},
        }  # fmt: skip
        return adapters.save(backbone, folder, None, method=self.name, combination=key, round=0, details=details, residuals=residuals)


def _bare(subject: Subject) -> Subject:
    references = tuple(replace(reference, caption=subject.class_noun) for reference in subject.references)
    return replace(subject, identifier="", references=references)


def _residual(backbone: Backbone, adapter: Adapter, key: str) -> Residual:
    """The residual of a fit of one subject, which may have had another key in the combination that it was made for."""
    adapters.put_on(backbone, adapter)
    (residual,) = backbone.residuals
    return replace(residual, key=key)


def _described(residual: Residual, backbone: Backbone, loss: float) -> dict[str, object]:
    """Payload, number format and model together, without which a number of kilobytes a subject says nothing."""
    tokens, width = residual.values.shape
    return {
        "words": residual.words, "tokens": tokens, "width": width, "payload_bytes": 4 * tokens * width, "dtype": "float32",
        "backbone": backbone.name, "final_loss": loss,
    }  # fmt: skip
