"""From photos to an adapter: the fit that every method begins with, by the loss of its objective."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mudi import adapters
from mudi.adapters import TRAINED
from mudi.backbone import Backbone
from mudi.examples import Mix, Picture, personal_examples, reference_pictures
from mudi.fit import FitSettings, Loss, Noised, Predict, Trained, fit
from mudi.objectives import dco_loss, denoising_loss
from mudi.options import LoraSettings
from mudi.personalization import Personalization, hyperparameters
from mudi.priors import class_priors, prior_pictures
from mudi.records import Adapter, Combination, Report
from mudi.text import tokens
from mudi.text.conditioning import cut_tokens
from mudi.work_folder import clear_work, work_folder


def personalize(
    options: Personalization, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, *, lora: LoraSettings | None,
    row_starts: Mapping[str, str | Mapping[str, torch.Tensor]] | None = None, row_learning_rate: float | None = None,
    mix: Mix | None = None, mix_probability: float = 0.0, mix_from_step: int = 0, weigh: Callable[[Picture], Picture] | None = None,
    noise_offset: float = 0.0, report: Report | None = None,
) -> Adapter:  # fmt: skip
    """Fit a fresh adapter on the photos and store it in `out_dir`; work in progress lies beside it until then.

    `lora` says where matrices are trained, None for none; `row_starts` which identifiers get trained rows
    and from which words, or which vector an encoder, these start; they move at `row_learning_rate`, without one at the
    rate of all. `mix` makes a composition of two subjects, with `mix_probability`
    from optimiser step `mix_from_step` on; `weigh` gives a photo its loss weights. Captions name the subjects as `options.view` does.
    """
    work = work_folder(out_dir)
    combination = options.view(combination)
    pictures = reference_pictures(combination, backbone.resolution, masks=options.needs_masks)
    if weigh is not None:
        pictures = list(map(weigh, pictures))
    adapters.detach(backbone)
    priors = []
    if recipes := options.prior_recipes(combination, backbone.name, str(backbone.dtype).removeprefix("torch.")):
        if options.priors is None:
            priors = class_priors(backbone, combination, recipes, options.prior_images, work / "priors")
        else:
            priors = prior_pictures(combination, options.priors, options.prior_images)
    if lora is not None:
        adapters.attach(backbone.unet, lora, seed)
    if row_starts:
        tokens.attach_rows(backbone, row_starts)
    examples = personal_examples(
        pictures, priors, batch=options.batch, mix=mix, mix_probability=mix_probability, mix_from_step=mix_from_step
    )
    settings = FitSettings(
        steps=options.steps, learning_rate=options.learning_rate, batch=options.batch, accumulation=options.accumulation,
        noise_offset=noise_offset,
    )  # fmt: skip
    groups = []
    if row_learning_rate is not None:
        groups = [Trained(parameters=tokens.row_parameters(backbone), learning_rate=row_learning_rate)]
        if lora is not None:
            groups.append(Trained(parameters=adapters.parameters(backbone.unet)))
    tail = fit(backbone, examples, LOSSES[options.objective](options), settings, work=work, seed=seed, report=report, trained=groups)
    texts = [picture.caption for picture in pictures] + [prompt.text for prompt in combination.prompts]
    cut = {text: count for text in texts if (count := cut_tokens(backbone, text))}
    trained = [*adapters.parameters(backbone.unet), *tokens.row_parameters(backbone)]
    details = {
        "seed": seed, **adapters.base_facts(backbone), "final_loss": tail, "cut_tokens": cut, "hyperparameters": hyperparameters(options),
        "parameters": sum(p.numel() for p in trained),
    }  # fmt: skip
    adapter = adapters.save(
        backbone,
        out_dir,
        lora,
        method=options.name,
        combination=combination.key,
        round=0,
        details=details,
        identifiers=list(row_starts or ()),
    )
    clear_work(out_dir)
    return adapter


def _prior_preservation(options: Personalization) -> Loss:
    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        predicted, prior = predict(TRAINED), noised.prior
        if not prior.any():
            return denoising_loss(predicted, noised.target, noised.weights)
        weights = None if noised.weights is None else noised.weights[~prior]
        own = denoising_loss(predicted[~prior], noised.target[~prior], weights)
        return own + options.prior_weight * denoising_loss(predicted[prior], noised.target[prior])

    return loss


def _dco(options: Personalization) -> Loss:
    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        reference = predict(None)
        return dco_loss(predict(TRAINED), reference, noised.target, options.dco_beta)

    return loss


def _denoising(_: Personalization) -> Loss:
    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        return denoising_loss(predict(TRAINED), noised.target, noised.weights)

    return loss


LOSSES: dict[str, Callable[[Personalization], Loss]] = {"prior_preservation": _prior_preservation, "dco": _dco, "denoising": _denoising}
