"""One round of self-training: refit an adapter on its candidates by an objective, held close to where it was by a KL term."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from mudi import adapters
from mudi.adapter_folder import NOISE_FROM, Origin, work_folder
from mudi.adapters import REFERENCE, TRAINED
from mudi.backbone import Backbone
from mudi.diffusion import alphas_cumprod, encode, predict
from mudi.examples import personal_examples, reference_pictures, seg_mixing, sharing
from mudi.fit import Examples, FitSettings, fit
from mudi.objectives import kl_penalty
from mudi.options import DRIFT_TIMES, RetrainSettings
from mudi.records import Adapter, Combination, Report
from mudi.self_training import OBJECTIVES
from mudi.self_training.candidates import Rewarded
from mudi.text.conditioning import encode_prompts


def retrain(
    backbone: Backbone, combination: Combination, start: Adapter, candidates: Sequence[Rewarded], settings: RetrainSettings,
    out_dir: Path, round: int, seed: int, report: Report | None = None,
) -> Adapter:  # fmt: skip
    """The adapter of round `round`, stored in `out_dir`.

    `combination` is named as the start's method names it (`view`). The frozen reference is `start`, the adapter that drew the
    `candidates`, as a second adapter on the same UNet; the trained one starts as its copy, so the KL is zero at step 0. Token
    rows of the start stay as they are. With `noise_from` the adapter has two parts: the trained one draws from that timestep up,
    under it the LoRA of the first round's start. Raises ValueError if nothing was kept, or if the start holds no LoRA.
    """
    if not len(candidates):
        raise ValueError(f"round {round} of {combination.key}: no candidate was kept, so there is nothing to train on")
    examples = OBJECTIVES[settings.objective].examples(candidates, settings)
    if settings.reference_share:
        pictures = reference_pictures(combination, backbone.resolution)
        photos = personal_examples(pictures, [], batch=settings.batch, mix=seg_mixing(backbone.resolution), mix_probability=0.3)
        examples = sharing(examples, photos, settings.reference_share)
    details = {"start": start.sha256, "retrain": asdict(settings), "kept": len(candidates)}
    origin = Origin(method=start.method, combination=combination.key, round=round, details=details)
    return refit(backbone, combination, start, examples, settings, origin, out_dir, seed=seed, report=report)


def refit(
    backbone: Backbone, combination: Combination, start: Adapter, examples: Examples, settings: RetrainSettings, origin: Origin,
    out_dir: Path, *, seed: int, report: Report | None = None,
) -> Adapter:  # fmt: skip
    """The adapter `start` trained on `examples`, held near itself by a KL term, stored in `out_dir` with its `origin`; rows stay.

    Of the settings `reference_share` has no part here. Raises ValueError if the start holds no LoRA.
    """
    adapters.detach(backbone)
    lora = adapters.load(backbone.unet, start, REFERENCE)
    low = adapters.low_part(start, settings.noise_from)
    adapters.load(backbone.unet, start, TRAINED)
    identifiers = adapters.load_rows(backbone, start)
    optimiser = FitSettings(
        steps=settings.steps, learning_rate=settings.learning_rate, batch=settings.batch, accumulation=settings.accumulation,
        noise_from=settings.noise_from,
    )  # fmt: skip
    tail = fit(
        backbone, examples, OBJECTIVES[settings.objective].loss(settings), optimiser, work=work_folder(out_dir), seed=seed, report=report
    )
    facts = {
        "seed": seed, **adapters.base_facts(backbone), "final_loss": tail,
        "parameters": sum(p.numel() for p in adapters.parameters(backbone.unet)),
        "drift": drift(backbone, combination, settings.noise_from), **({NOISE_FROM: settings.noise_from} if settings.noise_from else {}),
        **origin.details,
    }  # fmt: skip
    adapter = adapters.save(backbone, out_dir, lora, replace(origin, details=facts), identifiers=identifiers, low=low)
    adapters.detach(backbone)
    return adapter


@torch.no_grad()
def drift(backbone: Backbone, combination: Combination, noise_from: int = 0) -> float:
    """How far the adapter `default` has moved from `reference`: the mean squared difference of their predicted noise.

    On the user's photos with their captions, at DRIFT_TIMES with fixed noise, so that numbers
    of different refits of one start compare. 0 right after the start, and at timesteps under `noise_from`, where it does not draw.
    """
    pictures = reference_pictures(combination, backbone.resolution, masks=False)
    latents = encode(backbone, [p.image for p in pictures])
    condition = encode_prompts(backbone, [p.caption for p in pictures])
    source, squares = torch.Generator().manual_seed(0), []
    for timestep in DRIFT_TIMES:
        noise = torch.randn(latents.shape, generator=source).to(latents.device)
        if timestep < noise_from:
            squares.append(0.0)
            continue
        signal = alphas_cumprod(backbone)[timestep]
        noisy = (signal.sqrt() * latents + (1 - signal).sqrt() * noise).to(backbone.dtype)
        predicted = []
        for name in (REFERENCE, TRAINED):
            adapters.activate(backbone.unet, name)
            predicted.append(predict(backbone, noisy, torch.tensor(timestep), condition))
        squares.append(kl_penalty(predicted[1], predicted[0]).item())
    return float(np.mean(squares))
