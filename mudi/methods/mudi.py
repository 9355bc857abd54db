"""MuDI (arXiv 2404.04243): Seg-Mix training and mean-shifted noise."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mudi import adapters
from mudi.adapters import TRAINED, LoraSettings
from mudi.conditioning import cut_tokens
from mudi.examples import personal_examples, reference_pictures
from mudi.fit import FitSettings, Loss, Noised, Predict, Report, fit
from mudi.models import Backbone
from mudi.objectives import dco_loss, denoising_loss
from mudi.priors import NEGATIVE, PROMPT, class_priors
from mudi.records import Adapter, Combination, Prompt
from mudi.sampling import Sampling, draw

PRIOR_STEPS, PRIOR_GUIDANCE = 50, 5.0
RANGES = {
    **dict.fromkeys(("steps", "batch", "accumulation", "rank"), (int, 1, 1e7)),
    **dict.fromkeys(("prior_images", "mix_from_step"), (int, 0, 1e7)),
    **dict.fromkeys(("mix_probability", "background_weight"), (int | float, 0, 1)),
    **dict.fromkeys(("learning_rate", "dco_beta"), (int | float, 1e-12, 1e6)),
    "prior_weight": (int | float, 0, 1e6),
}


@dataclass(frozen=True, kw_only=True)
class MuDI:
    """Hyperparameters. Defaults follow the paper's tables: prior preservation and 1200 steps (its dogs).

    The released code's default is 2010 steps of DCO without priors: `objective="dco"`. The two are exclusive:
    combined as released, a class prediction meets unrelated noise and the personal gradient vanishes.
    `mix_probability` should be 0.6 for more than two subjects; `background_weight` 1 is no mask, as in practice.
    """

    name = "mudi"
    steps: int = 1200
    learning_rate: float = 1e-4
    batch: int = 1
    accumulation: int = 2
    rank: int = 32
    objective: Literal["prior_preservation", "dco"] = "prior_preservation"
    prior_weight: float = 1.0
    prior_images: int = 50
    prior_prompt: str = PROMPT
    prior_negative_prompt: str = NEGATIVE
    dco_beta: float = 1000.0
    mix_probability: float = 0.3
    mix_from_step: int = 0
    background_weight: float = 1.0
    detector: str = "miniature"
    segmenter: str = "miniature"
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.objective not in ("prior_preservation", "dco"):
            raise ValueError(f"objective = {self.objective!r}: allowed are 'prior_preservation' and 'dco'")
        for name, (kind, low, high) in RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} = {value!r}: allowed are {'whole ' if kind is int else ''}numbers from {low:g} to {high:g}")
        if self.objective == "dco" and self.background_weight != 1:
            raise ValueError(f"background_weight = {self.background_weight!r}: DCO compares whole predictions; leave it at 1")

    def train(
        self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None, round: int = 0
    ) -> Adapter:
        """Fit a fresh LoRA on the references and store it in `out_dir`; work in progress lies beside it."""
        work = out_dir.with_name(out_dir.name + ".work")
        pictures = reference_pictures(combination, backbone.resolution)
        adapters.detach_all(backbone.unet)
        lora = LoraSettings(rank=self.rank, alpha=self.rank)
        adapters.attach(backbone.unet, lora, seed)
        priors = []
        if self.objective == "prior_preservation" and self.prior_images:
            priors = class_priors(
                backbone, combination, count=self.prior_images, detector=self.detector, segmenter=self.segmenter, steps=PRIOR_STEPS,
                guidance_scale=PRIOR_GUIDANCE, seed=seed, folder=work / "priors", prompt=self.prior_prompt,
                negative_prompt=self.prior_negative_prompt,
            )  # fmt: skip
        examples = personal_examples(
            pictures, priors, size=backbone.resolution, batch=self.batch, mix_probability=self.mix_probability,
            mix_from_step=self.mix_from_step, alpha=self.background_weight,
        )  # fmt: skip
        settings = FitSettings(steps=self.steps, learning_rate=self.learning_rate, batch=self.batch, accumulation=self.accumulation)
        loss = _dco(self.dco_beta) if self.objective == "dco" else _prior_preservation(self.prior_weight)
        tail = fit(backbone, examples, loss, settings, work=work, seed=seed, report=report)
        texts = [picture.caption for picture in pictures] + [prompt.text for prompt in combination.prompts]
        cut = {text: tokens for text in texts if (tokens := cut_tokens(backbone, text))}
        details = {"seed": seed, "backbone": backbone.name, "final_loss": tail, "cut_tokens": cut, "hyperparameters": asdict(self)}
        return adapters.save(backbone.unet, out_dir, lora, method=self.name, combination=combination.key, round=round, details=details)

    def sample(
        self, backbone: Backbone, adapter: Adapter, combination: Combination, prompt: Prompt, seeds: Sequence[int]
    ) -> list[np.ndarray]:
        """One uint8 image (H, W, 3) a seed, drawn with the adapter."""
        adapters.load(backbone.unet, adapter)
        return draw(backbone, combination, prompt, seeds, self.sampling)


def _prior_preservation(weight: float) -> Loss:
    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        predicted, prior = predict(TRAINED), noised.prior
        if not prior.any():
            return denoising_loss(predicted, noised.noise, noised.weights)
        weights = None if noised.weights is None else noised.weights[~prior]
        own = denoising_loss(predicted[~prior], noised.noise[~prior], weights)
        return own + weight * denoising_loss(predicted[prior], noised.noise[prior])

    return loss


def _dco(beta: float) -> Loss:
    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        reference = predict(None)
        return dco_loss(predict(TRAINED), reference, noised.noise, beta)

    return loss
