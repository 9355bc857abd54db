"""The residual of one subject's class noun: what has to be added to the states of its tokens for the noun to mean this subject.

Source: Cones 2 (arXiv 2305.19327) and its released code. The UNet and the autoencoder stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mudi import adapters
from mudi.adapters import TRAINED
from mudi.backbone import Backbone
from mudi.cones2.encoder_tuning import lora_on_encoders, whole_encoders
from mudi.cones2.noun_templates import sentences, template_mean
from mudi.cones2.settings import ResidualSettings
from mudi.fit import Example, Examples, FitSettings, Noised, Predict, Trained, fit
from mudi.objectives import denoising_loss
from mudi.records import Report
from mudi.text.conditioning import Conditioning, encode_prompts
from mudi.text.spans import Span, token_spans


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A residual, float32 (K, D) on the CPU, the mean loss of the last tenth of the steps, and how many numbers were trained."""

    values: torch.Tensor
    loss: float
    trained: int


def learn_residual(
    backbone: Backbone, words: str, examples: Examples, settings: FitSettings, options: ResidualSettings, *, work: Path, seed: int,
    report: Report | None = None,
) -> Learnt:  # fmt: skip
    """The residual of the class noun `words` from pictures of the subject, whose prompts are the bare noun.

    Whatever is on the backbone is taken off first, and the text encoders are afterwards what they were. SDXL's UNet gets
    the untuned encoder's pooled text, as it will when the residual is used, so that the subject's looks go into the
    residual. Departure: the release has one encoder and no pooled text. Raises ValueError if `words` hold no word or
    do not fit the context, FloatingPointError if the loss is not finite.
    """
    adapters.detach(backbone)
    span = token_spans(backbone, words, [words])[0]
    fitted = partial(fit, backbone, settings=settings, work=work, seed=seed, report=report)
    if options.tuning == "direct":
        return _direct(backbone, words, span, examples, fitted)
    encoders = lora_on_encoders(backbone, options.rank, seed) if options.tuning == "text_lora" else whole_encoders(backbone)
    with encoders as parameters:
        return _by_tuning(backbone, words, span, examples, options, parameters, fitted)


def preservation(tuned: torch.Tensor, untuned: torch.Tensor, span: Span, mark_weight: float, rest_weight: float) -> torch.Tensor:
    """How far a sentence's states (T, D) have moved where they should not: `mark_weight` times the norm of the start mark's
    difference plus `rest_weight` times the norm of all others' together, the noun's left out.

    Norms are not squared, as released. Departure: the release counts only tokens behind the noun, before which its
    prompt has none; here those before it count too.
    """
    difference = tuned - untuned
    rest = [position for position in range(1, len(difference)) if position not in span]
    return mark_weight * difference[0].norm() + rest_weight * difference[rest].norm()


def _direct(backbone: Backbone, words: str, span: Span, examples: Examples, fitted: Callable[..., float]) -> Learnt:
    with torch.no_grad():
        bare = encode_prompts(backbone, [words], residuals=False)
    values = nn.Parameter(torch.zeros(len(span), bare.states.shape[-1], device=backbone.device))
    positions = torch.tensor(span, device=backbone.device)

    def encode(texts: list[str]) -> Conditioning:
        states = bare.states.float().index_add(1, positions, values[None]).to(backbone.dtype)
        return replace(bare, states=states).rows([0] * len(texts))

    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        return denoising_loss(predict(TRAINED), noised.target, noised.weights)

    tail = fitted(examples, loss, trained=[Trained(parameters=[values])], encode=encode)
    return Learnt(values=values.detach().cpu(), loss=tail, trained=values.numel())


def _by_tuning(
    backbone: Backbone, words: str, span: Span, examples: Examples, options: ResidualSettings, parameters: list[nn.Parameter],
    fitted: Callable[..., float],
) -> Learnt:  # fmt: skip
    # States that are subtracted are never rounded to a narrower format.
    exact = replace(backbone, dtype=torch.float32)
    kept = options.preserved(words)
    spans = [token_spans(backbone, sentence, [words])[0] for sentence in kept]
    with torch.no_grad():
        bare = encode_prompts(backbone, [words], residuals=False)
        before = _states(exact, sentences(words))
        # One by one, as they are compared: a batch changes last bits, and a norm of those has a gradient like any other.
        # Kept where there is room for a thousand.
        untuned = [_states(exact, [sentence])[0].cpu() for sentence in kept]
    drawn = [0]

    def draw(step: int, rng: np.random.Generator) -> list[Example]:
        pictures = examples(step, rng)
        drawn[0] = int(rng.integers(len(kept)))
        return pictures

    def encode(texts: list[str]) -> Conditioning:
        return replace(bare, states=encode_prompts(backbone, [words], residuals=False).states).rows([0] * len(texts))

    def loss(noised: Noised, predict: Predict) -> torch.Tensor:
        tuned = _states(exact, [kept[drawn[0]]])[0]
        held = preservation(tuned, untuned[drawn[0]].to(tuned.device), spans[drawn[0]], options.mark_weight, options.rest_weight)
        return denoising_loss(predict(TRAINED), noised.target, noised.weights) + held

    tail = fitted(draw, loss, trained=[Trained(parameters=parameters)], encode=encode)
    with torch.no_grad():
        after = _states(exact, sentences(words))
    values = template_mean(backbone, words, after, before)
    return Learnt(values=values.cpu(), loss=tail, trained=sum(p.numel() for p in parameters))


def _states(backbone: Backbone, texts: list[str]) -> torch.Tensor:
    return encode_prompts(backbone, texts, residuals=False).states
