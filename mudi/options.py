"""The values that a user sets beside a method's own: how pictures are drawn, where a LoRA sits, how adapters are refitted and refined."""

import math
from dataclasses import dataclass
from typing import Literal

from mudi.guidance import Weight, cfg_plus_plus
from mudi.ranges import MOST_STEPS, require_ranges
from mudi.solvers import SOLVERS

Padding = Literal["full", "adaptive"]
# The noise levels at which a refit's drift is measured on every photo, with the adapter as it was and as it is.
DRIFT_TIMES = tuple(range(50, 1000, 100))


@dataclass(frozen=True, kw_only=True)
class LayoutGuidance:
    """How attention is edited. Defaults: those of the released code and its example configuration.

    `weight` is g, 0.05 to 0.10 in the examples; 0 leaves attention as it is. `inside` (w+) and `outside` (w-) are the entries of W.
    `levels` names cross-attention layers by their downsampling factor from the latents: "all", "v1" for all but the
    largest factor (version 1 of the Multiple Concept Personalization report), or a tuple of factors.
    `steps` is the number of edited steps, from the first; None is all, and so is any number above the sampler's.
    `recurrence` says how often each edited step is done again after `solvers.renoise_amount` of fresh noise, each time at the cost of
    the step. `shift_schedule` takes the noise levels of the edit from a schedule as long as the
    edited window, as released code does, so that it fades within the window; False takes the sampler's own.
    """

    weight: float = 0.08
    inside: float = 2.5
    outside: float = -1e8
    levels: Literal["all", "v1"] | tuple[int, ...] = "all"
    steps: int | None = 50
    recurrence: int = 1
    shift_schedule: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight = {self.weight}: allowed are 0 (no edit) and above; the released examples use 0.05 to 0.10")
        if not (math.isfinite(self.inside) and self.inside >= 0):
            raise ValueError(f"inside = {self.inside}: allowed are 0 and above, finite; the default is 2.5")
        if not (math.isfinite(self.outside) and self.outside <= 0):
            raise ValueError(f"outside = {self.outside}: allowed are 0 and below, finite; the default is -1e8")
        if self.levels not in ("all", "v1") and not _are_factors(self.levels):
            raise ValueError(f"levels = {self.levels!r}: allowed are 'all', 'v1' and different downsampling factors such as 2 and 4")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps = {self.steps}: allowed are None (every step) and 1 or more edited steps")
        if self.recurrence < 0:
            raise ValueError(f"recurrence = {self.recurrence}: allowed are 0 (each step once) and above")


def _are_factors(levels: object) -> bool:
    return (
        isinstance(levels, tuple) and 0 < len(levels) == len(set(levels)) and all(isinstance(f, int) and f >= 1 for f in levels)
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn. Defaults: stock SDXL (Euler, 50 steps, guidance 5), MuDI's negative prompt and
    gamma (paper, section 4 and appendix B). `gamma` in 0..1 scales the mean shift; 0 is plain noise. "{subjects}"
    in the negative prompt stands for the super-categories, "a dog and a dog". `scales` fixes the size of each
    subject in a composition, in their order, as a share of the largest that fits, as the released code's
    `relative_scale` does for two; None draws it. `overlap` False keeps the subjects of a composition apart.
    `layout` "given" starts each picture from one of the combination's layouts, whose boxes then decide place and
    size; "random" composes as Seg-Mix does. `cfg_plus_plus` is the lambda of CFG++, 0 to 1, in place of a
    `guidance_scale`, which is None then. `padding` "adaptive" hides padding from attention (`mudi.text.conditioning`).
    `layout_guidance` holds each subject's words to its box of the same layout that initialization takes
    (`mudi.attention.layout_guidance`). All of these compose, but for CFG++ with a multistep `scheduler`."""

    steps: int = 50
    guidance_scale: float | None = 5.0
    cfg_plus_plus: float | None = None
    scheduler: Literal["euler", "ddim", "dpmpp_2m"] = "euler"
    padding: Padding = "full"
    layout_guidance: LayoutGuidance | None = None
    negative_prompt: str | None = "sticker, collage."
    gamma: float = 1.0
    scales: tuple[float, ...] | None = None
    overlap: bool = True
    layout: Literal["random", "given"] = "random"

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps = {self.steps}: allowed are 1 to {MOST_STEPS}")
        if (self.guidance_scale is None) == (self.cfg_plus_plus is None):
            raise ValueError(
                f"guidance_scale = {self.guidance_scale} and cfg_plus_plus = {self.cfg_plus_plus}: give one of the two and null for the "
                "other; CFG++ replaces classifier-free guidance"
            )
        if self.cfg_plus_plus is not None and not 0 <= self.cfg_plus_plus <= 1:
            raise ValueError(f"cfg_plus_plus = {self.cfg_plus_plus}: allowed are 0 to 1; 0.6 is about a guidance_scale of 7")
        if self.scheduler not in SOLVERS:
            raise ValueError(f"scheduler = {self.scheduler!r}: allowed are {', '.join(map(repr, SOLVERS))}")
        if self.cfg_plus_plus is not None and SOLVERS[self.scheduler].multistep:
            raise ValueError(
                f"cfg_plus_plus with scheduler = {self.scheduler!r}: CFG++ is exact for first-order steps alone; use 'euler' or 'ddim', "
                "or guidance_scale"
            )
        if self.padding not in ("full", "adaptive"):
            raise ValueError(f"padding = {self.padding!r}: allowed are 'full' and 'adaptive'")
        if self.layout_guidance is not None and self.gamma and self.layout == "random":
            raise ValueError(
                f"layout_guidance with gamma = {self.gamma} and layout = 'random': attention and initialization would put subjects in "
                "different places; use layout = 'given' or gamma = 0"
            )
        if self.layout not in ("random", "given"):
            raise ValueError(f"layout = {self.layout!r}: allowed are 'random' and 'given', the combination's own layouts")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma = {self.gamma}: allowed are 0 (no mean shift) to 1 (the paper's default)")
        if self.scales is not None and not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales = {self.scales}: allowed are shares above 0 and up to 1, one a subject")

    @property
    def wants_layouts(self) -> bool:
        """Whether pictures are drawn by the combination's own layouts."""
        return self.layout == "given" or self.layout_guidance is not None

    @property
    def guidance(self) -> float | Weight:
        """What `denoise` is guided by."""
        return self.guidance_scale if self.cfg_plus_plus is None else cfg_plus_plus(self.cfg_plus_plus)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Where the low-rank matrices sit and how wide they are; MuDI's released defaults."""

    rank: int = 32
    alpha: int = 32
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """MuDI, section 5: about 1000 steps on the kept candidates, KL weight about 1; rate and batch as in the fit.

    `reference_share` of the micro-batches come from the user's photos (with Seg-Mix at 0.3); the paper's
    text trains on the selected images alone, hence 0.
    """

    steps: int = 1000
    learning_rate: float = 1e-4
    batch: int = 1
    accumulation: int = 2
    kl_weight: float = 1.0
    reference_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Refine:
    """How a merge of subjects' own fits is taught to keep them apart (MuDI's modular customisation, 200 to 300 steps).

    Each subject's own fit draws `images` pictures of it, in `sample_steps` steps at `guidance_scale`, steered away from
    `negative_prompt`. They are cut out, and the merged LoRA is trained on Seg-Mix compositions of these alone, with
    `kl_weight` times the KL to the merge. The paper names no KL weight and no rate here: the weight is that of self-training,
    the rate that of the fit.
    """

    steps: int = 200
    learning_rate: float = 1e-4
    batch: int = 1
    accumulation: int = 2
    kl_weight: float = 1.0
    images: int = 5
    sample_steps: int = 50
    guidance_scale: float = 5.0
    negative_prompt: str = ""

    def __post_init__(self) -> None:
        require_ranges(self)

    @property
    def retraining(self) -> RetrainSettings:
        """The optimiser's part."""
        return RetrainSettings(
            steps=self.steps, learning_rate=self.learning_rate, batch=self.batch, accumulation=self.accumulation, kl_weight=self.kl_weight
        )
