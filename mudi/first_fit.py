"""From photos to an adapter: the fit that every method begins with, by the loss of its objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from mudi import adapters
from mudi.adapter_folder import Origin, work_folder
from mudi.adapters import TRAINED
from mudi.backbone import Backbone
from mudi.examples import Mix, Picture, personal_examples, reference_pictures
from mudi.fit import FitSettings, Noised, Predict, Trained, fit
from mudi.objectives import dco_loss, denoising_loss, prior_preservation_loss
from mudi.options import LoraSettings
from mudi.personalization import PhotoFit
from mudi.priors import class_priors, prior_pictures
from mudi.records import Adapter, Combination, Report
from mudi.text import tokens
from mudi.text.conditioning import cut_tokens


@dataclass(frozen=True, kw_only=True)
class Training:
    """The part of a fit in which methods differ beyond hyperparameters that all have.

    `lora` says where matrices are trained, None for none; `row_starts` which identifiers get trained rows and from which words, or
    which vector an encoder, these start; they move at `row_learning_rate`, without one at the rate of all. `mix` makes a
    composition of two subjects, with `mix_probability` from optimiser step `mix_from_step` on; `weigh` gives a photo its loss
    weights; `noise_offset` is that of `FitSettings`.
    """

    lora: LoraSettings | None = None
    row_starts: Mapping[str, str | Mapping[str, torch.Tensor]] = field(default_factory=dict)
    row_learning_rate: float | None = None
    mix: Mix | None = None
    mix_probability: float = 0.0
    mix_from_step: int = 0
    weigh: Callable[[Picture], Picture] | None = None
    noise_offset: float = 0.0


def personalize(
    options: PhotoFit, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, training: Training,
    report: Report | None = None,
) -> Adapter:  # fmt: skip
    """Fit a fresh adapter on the photos and store it in `out_dir`; work in progress lies beside it until then.

    Captions name the subjects as `options.view` does.
    """
    work, lora = work_folder(out_dir), training.lora
    combination = options.view(combination)
    pictures = reference_pictures(combination, backbone.resolution, masks=options.needs_masks)
    if training.weigh is not None:
        pictures = list(map(training.weigh, pictures))
    adapters.detach(backbone)
    priors = _priors(options, backbone, combination, work)
    if lora is not None:
        adapters.attach(backbone.unet, lora, seed)
    if training.row_starts:
        tokens.attach_rows(backbone, training.row_starts)
    examples = personal_examples(
        pictures, priors, batch=options.batch, mix=training.mix, mix_probability=training.mix_probability,
        mix_from_step=training.mix_from_step,
    )  # fmt: skip
    settings = FitSettings(
        steps=options.steps, learning_rate=options.learning_rate, batch=options.batch, accumulation=options.accumulation,
        noise_offset=training.noise_offset,
    )  # fmt: skip
    loss, groups = partial(LOSSES[options.objective], options), _trained(backbone, training)
    tail = fit(backbone, examples, loss, settings, work=work, seed=seed, report=report, trained=groups)
    texts = [picture.caption for picture in pictures] + [prompt.text for prompt in combination.prompts]
    cut = {text: count for text in texts if (count := cut_tokens(backbone, text))}
    trained = [*adapters.parameters(backbone.unet), *tokens.row_parameters(backbone)]
    details = {
        "seed": seed, **adapters.base_facts(backbone), "final_loss": tail, "cut_tokens": cut, "hyperparameters": options.hyperparameters(),
        "parameters": sum(p.numel() for p in trained),
    }  # fmt: skip
    origin = Origin(method=options.name, combination=combination.key, details=details)
    return adapters.save(backbone, out_dir, lora, origin, identifiers=list(training.row_starts))


def _priors(options: PhotoFit, backbone: Backbone, combination: Combination, work: Path) -> list[Picture]:
    """The class priors of the combination: drawn before, or drawn here; none if the objective needs none."""
    recipes = options.prior_recipes(combination, backbone.name, str(backbone.dtype).removeprefix("torch."))
    if not recipes:
        return []
    if options.priors is None:
        return class_priors(backbone, combination, recipes, options.prior_images, work / "priors")
    return prior_pictures(combination, options.priors, options.prior_images)


def _trained(backbone: Backbone, training: Training) -> list[Trained]:
    """The groups of parameters that move at rates of their own; none if all move at one."""
    if training.row_learning_rate is None:
        return []
    rows = Trained(parameters=tokens.row_parameters(backbone), learning_rate=training.row_learning_rate)
    return [rows] if training.lora is None else [rows, Trained(parameters=adapters.parameters(backbone.unet))]


def _prior_preservation(options: PhotoFit, noised: Noised, predict: Predict) -> torch.Tensor:
    predicted, target, prior, weights = predict(TRAINED), noised.target, noised.prior, noised.weights
    own = None if weights is None else weights[~prior]
    return prior_preservation_loss(predicted[~prior], target[~prior], predicted[prior], target[prior], options.prior_weight, own)


def _dco(options: PhotoFit, noised: Noised, predict: Predict) -> torch.Tensor:
    reference = predict(None)
    return dco_loss(predict(TRAINED), reference, noised.target, options.dco_beta)


def _denoising(_: PhotoFit, noised: Noised, predict: Predict) -> torch.Tensor:
    return denoising_loss(predict(TRAINED), noised.target, noised.weights)


LOSSES = {"prior_preservation": _prior_preservation, "dco": _dco, "denoising": _denoising}
