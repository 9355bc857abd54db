"""The values that a user sets beside a method's own: how pictures are drawn, where a LoRA sits, how adapters are
refitted and refined.

Each value refuses numbers out of range by itself; a message begins with the field's name, which a run file has as its key.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

from mudi.guidance import Weight, cfg_plus_plus
from mudi.solvers import SOLVERS

# Models of 1000 training timesteps whose steps are laid one later, as SDXL and Stable Diffusion ship, have no more.
MOST_STEPS = 999
RANGES = {
    **dict.fromkeys(("steps", "batch", "accumulation", "rank", "images"), (int, 1, 1e7)),
    **dict.fromkeys(("prior_steps", "sample_steps"), (int, 1, MOST_STEPS)),
    **dict.fromkeys(("prior_images", "mix_from_step"), (int, 0, 1e7)),
    **dict.fromkeys(("mix_probability", "mix_probability_many", "background_weight", "noise_offset"), (int | float, 0, 1)),
    **dict.fromkeys(("learning_rate", "row_learning_rate", "dco_beta"), (int | float, 1e-12, 1e6)),
    **dict.fromkeys(("prior_weight", "prior_guidance_scale", "row_deviation", "kl_weight", "ridge"), (int | float, 0, 1e6)),
    **dict.fromkeys(("beta", "reward_clip"), (int | float, 1e-6, 1e6)),
    "pair_margin": (int | float, 0, 1e6),
    "noise_from": (int, 0, 999),
    **dict.fromkeys(("weight_decay", "mark_weight", "rest_weight", "neutral_weight", "guidance_scale"), (int | float, 0, 1e6)),
}


def require_ranges(value: object) -> None:
    """Raise ValueError for the first field of a frozen value that is out of its range; None passes where it is the default."""
    for of in fields(value):
        given = getattr(value, of.name)
        if of.name not in RANGES or (given is None and of.default is None):
            continue
        kind, low, high = RANGES[of.name]
        if not isinstance(given, kind) or isinstance(given, bool) or not low <= given <= high:
            raise ValueError(f"{of.name} = {given!r}: allowed are {'whole ' if kind is int else ''}numbers from {low:g} to {high:g}")


Padding = Literal["full", "adaptive"]
# The noise levels at which a refit's drift is measured on every photo, with the adapter as it was and as it is.
DRIFT_TIMES = tuple(range(50, 1000, 100))
LONGEST_PROMPT = 2000  # characters


@contextmanager
def errors_at(place: str) -> Iterator[None]:
    """Within it a ValueError begins with `place`, that of the value in a file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}{error}") from None


def _require(options: object, field: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} = {repr(getattr(options, field))[:80]}: allowed are {allowed}")


@dataclass(frozen=True, kw_only=True)
class LayoutGuidance:
    """Cross-attention that holds each subject's words to its box (Cones 2). Defaults: those of the released code and its example
    configuration."""

    weight: float = 0.08
    """g: how strongly a subject's words are raised in its box, 0.05 to 0.10 in the examples; 0 leaves attention as it is."""
    inside: float = 2.5
    """w+ of W: what scores in the box get, times `weight`, the noise and the scores' spread."""
    outside: float = -1e8
    """w- of W: what scores off the box get; by default so little that nothing is left."""
    levels: Literal["all", "v1"] | tuple[int, ...] = "all"
    """Which cross-attention layers are edited, by their downsampling factor from the latents: all, all but the largest factor ("v1",
    version 1 of the Multiple Concept Personalization report), or a list of factors."""
    steps: int | None = 50
    """Steps that are edited, from the first; null is all, and so is any number above the sampler's."""
    recurrence: int = 1
    """How often an edited step is done again after `solvers.renoise_amount` of fresh noise. Each time costs as much as the step."""
    shift_schedule: bool = True
    """Whether the edit takes its noise levels from a schedule as long as the edited steps, as released code does, so that it fades
    within them; false takes the sampler's own."""

    def __post_init__(self) -> None:
        _require(self, "weight", 0 <= self.weight < math.inf, "0 (no edit) and above; the released examples use 0.05 to 0.10")
        _require(self, "inside", 0 <= self.inside < math.inf, "0 and above, finite; the default is 2.5")
        _require(self, "outside", -math.inf < self.outside <= 0, "0 and below, finite; the default is -1e8")
        known = self.levels in ("all", "v1") or _are_factors(self.levels)
        _require(self, "levels", known, "'all', 'v1' and different downsampling factors such as 2 and 4")
        _require(self, "steps", self.steps is None or self.steps >= 1, "None (every step) and 1 or more edited steps")
        _require(self, "recurrence", self.recurrence >= 0, "0 (each step once) and above")


def _are_factors(levels: object) -> bool:
    return isinstance(levels, tuple) and 0 < len(levels) == len(set(levels)) and all(isinstance(f, int) and f >= 1 for f in levels)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How pictures are drawn. Defaults: stock SDXL (Euler, 50 steps, guidance 5), MuDI's negative prompt and gamma (paper, section 4
    and appendix B). All keys compose, but for those that `_check_together` names."""

    steps: int = 50
    """Denoising steps of one image."""
    guidance_scale: float | None = 5.0
    """Classifier-free guidance weight; 1 is no guidance, null leaves it to `cfg_plus_plus`."""
    cfg_plus_plus: float | None = None
    """CFG++'s lambda, 0 to 1, instead of a guidance_scale; 0.6 is a mean scale of 7.2 at 50 steps and of 2.5 at 16 (`equivalent_scale`)."""
    scheduler: Literal["euler", "ddim", "dpmpp_2m"] = "euler"
    """How a denoising step is taken."""
    padding: Padding = "full"
    """Whether attention sees the padding behind a prompt's words: adaptive hides it (`mudi.text.conditioning`)."""
    layout_guidance: LayoutGuidance | None = None
    """Attention by the layout that initialization takes too (`mudi.attention.layout_guidance`); null is none."""
    negative_prompt: str | None = "sticker, collage."
    """What guidance steers away from. "{subjects}" stands for the super-categories, "a dog and a dog"; null is none."""
    gamma: float = 1.0
    """Weight of the mean-shifted initial noise (paper equation 3), up to 1; 0 starts from plain noise."""
    scales: tuple[float, ...] | None = None
    """Size of each subject in a composition, in their order, as a share of the largest that fits, as the released code's
    `relative_scale` for two; null draws it."""
    overlap: bool = True
    """Whether subjects may cover one another in a composition."""
    layout: Literal["random", "given"] = "random"
    """Where the subjects of a composition stand: at random, as Seg-Mix composes, or in the boxes of one of the combination's own
    layouts, which then decide place and size."""

    def __post_init__(self) -> None:
        check_each(self)
        _check_together(self)

    @property
    def wants_layouts(self) -> bool:
        """Whether pictures are drawn by the combination's own layouts."""
        return self.layout == "given" or self.layout_guidance is not None

    @property
    def guidance(self) -> float | Weight:
        """What `denoise` is guided by."""
        return self.guidance_scale if self.cfg_plus_plus is None else cfg_plus_plus(self.cfg_plus_plus)


def check_each(sampling: Sampling) -> None:
    """Raise ValueError for a key whose value is out of range, whatever the others are."""
    guidance, lam, prompt, scales = sampling.guidance_scale, sampling.cfg_plus_plus, sampling.negative_prompt, sampling.scales
    _require(sampling, "steps", 1 <= sampling.steps <= MOST_STEPS, f"1 to {MOST_STEPS}")
    _require(sampling, "guidance_scale", guidance is None or 0 <= guidance < math.inf, "0 and above, finite; 1 is no guidance")
    _require(sampling, "cfg_plus_plus", lam is None or 0 <= lam <= 1, "0 to 1; 0.6 is a mean guidance_scale of 7.2 at 50 steps, 2.5 at 16")
    _require(sampling, "scheduler", sampling.scheduler in SOLVERS, ", ".join(map(repr, SOLVERS)))
    _require(sampling, "padding", sampling.padding in ("full", "adaptive"), "'full' and 'adaptive'")
    _require(sampling, "negative_prompt", prompt is None or len(prompt) <= LONGEST_PROMPT, f"up to {LONGEST_PROMPT} characters")
    _require(sampling, "layout", sampling.layout in ("random", "given"), "'random' and 'given', the combination's own layouts")
    _require(sampling, "gamma", 0 <= sampling.gamma <= 1, "0 (no mean shift) to 1 (the paper's default)")
    _require(sampling, "scales", scales is None or all(0 < s <= 1 for s in scales), "shares above 0 and up to 1, one a subject")


def _check_together(sampling: Sampling) -> None:
    if (sampling.guidance_scale is None) == (sampling.cfg_plus_plus is None):
        raise ValueError(
            f"guidance_scale = {sampling.guidance_scale} and cfg_plus_plus = {sampling.cfg_plus_plus}: give one of the two and null for "
            "the other; CFG++ replaces classifier-free guidance"
        )
    if sampling.cfg_plus_plus is not None and SOLVERS[sampling.scheduler].multistep:
        raise ValueError(
            f"cfg_plus_plus with scheduler = {sampling.scheduler!r}: CFG++ is exact for first-order steps alone; use 'euler' or 'ddim', "
            "or guidance_scale"
        )
    if sampling.layout_guidance is not None and sampling.gamma and sampling.layout == "random":
        raise ValueError(
            f"layout_guidance with gamma = {sampling.gamma} and layout = 'random': attention and initialization would put subjects in "
            "different places; use layout = 'given' or gamma = 0"
        )


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Where the low-rank matrices sit and how wide they are; MuDI's released defaults."""

    rank: int = 32
    alpha: int = 32
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class RetrainSettings:
    """How a self-training round is fitted. MuDI, section 5: about 1000 steps on the kept candidates, KL weight about 1; rate and batch
    as in the fit."""

    steps: int = 1000
    """Optimiser steps of one round."""
    learning_rate: float = 1e-4
    """AdamW learning rate, constant."""
    batch: int = 1
    """Images of one forward pass."""
    accumulation: int = 2
    """Forward passes of one optimiser step."""
    kl_weight: float = 1.0
    """Weight of the KL term that holds the adapter near that of the round before."""
    reference_share: float = 0.0
    """Share of micro-batches drawn from the user's photos (with Seg-Mix at 0.3); the paper's text trains on the selected images alone."""
    objective: Literal["filtered", "negative_aware", "preference"] = "filtered"
    """What is learnt from candidates: filtered, the paper's, from the kept ones alone; negative_aware from all of them, towards the good
    and away from the bad; preference from pairs of one prompt."""
    beta: float | None = None
    """How far the implicit predictions of negative_aware lie apart (null is 1), or how sharply preference tells a pair (null is 2000)."""
    reward_clip: float = 1.0
    """Standard deviations above the mean of its prompt at which negative_aware counts a candidate as wholly good."""
    error_in: Literal["prediction", "clean"] = "prediction"
    """Whether negative_aware measures errors in what the UNet answers, or in the clean latents with an adaptive weight."""
    pair_margin: float = 0.0
    """By how much more than this the scores of a preference pair differ."""
    noise_from: int = 0
    """The lowest timestep that is trained, of 0 to 999. Above 0 the adapter has two parts: under it the first fit's goes on drawing."""

    @property
    def learns_from_all(self) -> bool:
        """Whether every candidate that has a score is trained on, rather than the best."""
        return self.objective != "filtered"

    def __post_init__(self) -> None:
        for count in ("steps", "batch", "accumulation"):
            _require(self, count, getattr(self, count) >= 1, "1 and above")
        _require(self, "learning_rate", 0 < self.learning_rate < math.inf, "numbers above 0, finite; the default is 1e-4")
        _require(self, "kl_weight", 0 <= self.kl_weight < math.inf, "0 (no KL term) and above, finite")
        _require(self, "reference_share", 0 <= self.reference_share <= 1, "0 to 1; 0 trains on selected candidates alone")
        require_ranges(self)
        if self.objective == "preference":
            _require(self, "batch", self.batch % 2 == 0, "even numbers with objective = 'preference', which trains on pairs")
            _require(self, "reference_share", not self.reference_share, "0 with objective = 'preference': photos have no worse picture")


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
