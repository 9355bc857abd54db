"""Cones 2 (arXiv 2305.19327): each subject is a residual of its class noun, learnt alone; combinations only put them together."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import ClassVar, Literal

from mudi import adapter_folder, adapter_size
from mudi.adapter_folder import Origin, work_folder
from mudi.adapter_size import Architecture
from mudi.backbone import Backbone, Residual
from mudi.cones2.settings import Preserved, ResidualSettings, Tuning
from mudi.modular.subject_fits import narrowed
from mudi.options import Sampling
from mudi.passes import Work
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report, Subject

# The release's for whole encoders. It has no LoRA and tunes no residual by itself: their rates are this project's choice.
LEARNING_RATES: Mapping[Tuning, float] = {"text_full": 5e-6, "text_lora": 1e-4, "direct": 1e-3}


@dataclass(frozen=True, kw_only=True)
class ResidualFit(PhotoFit):
    """The fit of one subject's residual, and its hyperparameters; those of the optimiser and of the preservation are the release's
    (SD 2.1), those of `tuning` stand in `mudi.cones2.settings.ResidualSettings`. `learning_rate` None is that of `LEARNING_RATES`
    for the tuning.

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
        self.residual_settings()
        super().__post_init__()

    @property
    def rate(self) -> float:
        """The learning rate."""
        return LEARNING_RATES[self.tuning] if self.learning_rate is None else self.learning_rate

    def residual_settings(self) -> ResidualSettings:
        """How each subject's residual is learnt; ValueError for a tuning or preservation that does not exist."""
        return narrowed(ResidualSettings, self)

    def hyperparameters(self) -> dict[str, object]:
        """With the learning rate that a fit has."""
        return {**super().hyperparameters(), "learning_rate": self.rate}

    def view(self, combination: Combination) -> Combination:
        """The combination with each subject named by its class noun alone, which is its photos' caption too."""
        return replace(combination, subjects=tuple(map(_bare, super().view(combination).subjects)))

    def require(self, combination: Combination) -> None:
        """Raise ValueError for a sentence of `preserve_prompts` without the noun of one of the subjects, each of which it holds."""
        for subject in self.view(combination).subjects:
            self.residual_settings().preserved(subject.class_noun)

    def recipe(self) -> dict[str, object]:
        """What decides a subject's fit beside the subject, the seed and the model."""
        optimiser = {key: getattr(self, key) for key in ("steps", "batch", "accumulation", "weight_decay")}
        how = {"tuning": self.tuning} if self.tuning == "direct" else asdict(self.residual_settings())
        return {"method": self.name, **optimiser, "learning_rate": self.rate, **how}

    def described(self) -> str:
        """The name, the tuning and its rank."""
        return f"{self.name} {self.tuning} rank={self.rank}"

    def stored_numbers(self, architecture: Architecture, combination: Combination) -> int:
        """Those of the residuals."""
        return adapter_size.parameters(self._shapes(architecture, combination))

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """A fit trains numbers of which most are not stored."""
        shapes = self._shapes(architecture, combination)
        trained = {
            "text_full": adapter_size.encoder_parameters(architecture),
            "text_lora": adapter_size.encoder_lora_parameters(architecture, self.rank),
            "direct": max(map(prod, shapes.values())),
        }
        return trained[self.tuning], adapter_size.FLOAT32 * adapter_size.parameters(shapes)

    def _shapes(self, architecture: Architecture, combination: Combination) -> adapter_size.Shapes:
        return adapter_size.residual_shapes(architecture, {s.key: s.class_noun for s in self.view(combination).subjects})

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit the residual of the combination's only subject and store it in `out_dir`."""
        from mudi import adapters
        from mudi.cones2.learn import learn_residual
        from mudi.examples import personal_examples, reference_pictures
        from mudi.fit import FitSettings

        (subject,) = self.view(combination).subjects
        adapters.detach(backbone)
        pictures = reference_pictures(self.view(combination), backbone.resolution, masks=False)
        settings = FitSettings(
            steps=self.steps, learning_rate=self.rate, batch=self.batch, accumulation=self.accumulation, weight_decay=self.weight_decay
        )
        learnt = learn_residual(
            backbone, subject.class_noun, personal_examples(pictures, [], batch=self.batch), settings, self.residual_settings(),
            work=work_folder(out_dir), seed=seed, report=report,
        )  # fmt: skip
        residual = Residual(key=subject.key, words=subject.class_noun, values=learnt.values)
        return self._save(backbone, out_dir, combination.key, [residual], [learnt.loss], parameters=learnt.trained)

    def _save(
        self, backbone: Backbone, folder: Path, key: str, residuals: Sequence[Residual], losses: Sequence[float], **others: object
    ) -> Adapter:
        """Store residuals; the manifest says of each how large it is, in which number format, and for which model.

        losses: of their fits; others: how many numbers a fit moved (`parameters`), most of which are not stored, and details.
        """
        from mudi import adapters

        details = {
            "seed": self.single_seed, "backbone": backbone.name, "final_loss": sum(losses) / len(losses), "cut_tokens": {},
            "hyperparameters": self.hyperparameters(),
            "residuals": {r.key: _described(r, backbone, loss) for r, loss in zip(residuals, losses, strict=True)}, **others,
        }  # fmt: skip
        origin = Origin(method=self.name, combination=key, details=details)
        return adapters.save(backbone, folder, None, origin, residuals=residuals)


@dataclass(frozen=True, kw_only=True)
class Cones2(ResidualFit):
    """Hyperparameters: those of `ResidualFit`, for each subject's own fit."""

    def subject_method(self, combination: Combination) -> ResidualFit:
        """The residual fit of the same hyperparameters."""
        return narrowed(ResidualFit, self)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit."""
        return self.steps * subjects

    def work(self, combination: Combination) -> Work:
        """Residuals are put side by side, nothing is trained."""
        return Work(kind=f"gather {self.name}", steps=0)

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """The numbers a fit trains, and the bytes of all residuals and of each subject's own."""
        trained, size = super().adapter_numbers(architecture, combination, None)
        subjects = [replace(combination, subjects=(subject,)) for subject in combination.subjects[: alone or 0]]
        own = (self.stored_numbers(architecture, subject) for subject in subjects)
        return trained, size + adapter_size.FLOAT32 * sum(own)

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit the residual of each subject that has none yet, and store those of all, in their order, in `out_dir`.

        Of the seeds it is `single_seed` that decides, since a subject is the same in every combination.
        """
        from mudi import adapters

        fitted = self.fit_singles(backbone, combination, out_dir, report)
        keys = [subject.key for subject in combination.subjects]
        residuals = [_residual(backbone, adapter, key) for adapter, key in zip(fitted, keys, strict=True)]
        adapters.detach(backbone)
        manifests = [adapter_folder.read_manifest(adapter.path) for adapter in fitted]
        losses, parameters = ([m[name] for m in manifests] for name in ("final_loss", "parameters"))
        subjects = [adapter.sha256 for adapter in fitted]
        return self._save(backbone, out_dir, combination.key, residuals, losses, parameters=max(parameters), subjects=subjects)


def cones2(**values: object) -> Cones2:
    """The method by the values of a file, in which a list stands for a tuple."""
    prompts = values.get("preserve_prompts")
    return Cones2(**{**values, "preserve_prompts": tuple(prompts)} if isinstance(prompts, list) else values)


def _bare(subject: Subject) -> Subject:
    references = tuple(replace(reference, caption=subject.class_noun) for reference in subject.references)
    return replace(subject, identifier="", references=references)


def _residual(backbone: Backbone, adapter: Adapter, key: str) -> Residual:
    """The residual of a fit of one subject, which may have had another key in the combination that it was made for."""
    from mudi import adapters

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
