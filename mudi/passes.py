"""Work before it is started: optimiser steps and rows through the UNet of a fit, things made once beside a subject's own fit, calls
of the UNet for a picture."""

from dataclasses import dataclass

from mudi.options import DRIFT_TIMES, RetrainSettings, Sampling
from mudi.records import Combination


@dataclass(frozen=True, kw_only=True)
class Once:
    """A thing that is made once beside each subject's own fit, by whichever merge asks first; `name` tells it from others there.

    forward: rows through the UNet. pictures: how many of them it leaves. gram: whether it is the Grams of gradient fusion.
    """

    name: str
    forward: int
    pictures: int = 0
    gram: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a fit takes, the subjects' own fits left out (`Personalization.subject_method` answers for these).

    kind: decides the seconds of a step. rows: pass the UNet in one micro-batch, class priors included; references: more passes of
    each row without gradients. photos: on which drift is measured at the end, 0 if it is not. once: for each subject.
    """

    kind: str
    steps: int
    accumulation: int = 1
    rows: int = 0
    references: int = 0
    photos: int = 0
    once: tuple[Once, ...] = ()

    @property
    def backward(self) -> int:
        """Rows of all steps that pass the UNet with gradients."""
        return self.steps * self.accumulation * self.rows

    @property
    def forward(self) -> int:
        """Rows of all steps that pass the UNet at all, those with gradients and those of measuring drift included."""
        return self.backward * (1 + self.references) + 2 * len(DRIFT_TIMES) * self.photos


def photos_of(combination: Combination) -> int:
    """How many photos the combination has."""
    return sum(len(subject.references) for subject in combination.subjects)


def refit_work(settings: RetrainSettings, adapter: str, combination: Combination) -> Work:
    """The work of a self-training round on an adapter that a method describes so (`Personalization.described`)."""
    told = "" if settings.objective == "filtered" else f" objective={settings.objective}"
    kind = f"refit {adapter} photos={settings.reference_share:g} rows={settings.batch} accumulation={settings.accumulation}{told}"
    return Work(
        kind=kind, steps=settings.steps, accumulation=settings.accumulation, rows=settings.batch, references=1,
        photos=photos_of(combination),
    )  # fmt: skip


def calls_of(sampling: Sampling) -> int:
    """Predictions for one chunk: its steps, and those that guidance by layout does again."""
    guidance = sampling.layout_guidance
    if guidance is None:
        return sampling.steps
    return sampling.steps + guidance.recurrence * min(sampling.steps, guidance.steps or sampling.steps)


def rows_of(sampling: Sampling) -> int:
    """UNet rows of one picture on one path."""
    return calls_of(sampling) * (1 if sampling.guidance == 1 else 2)
