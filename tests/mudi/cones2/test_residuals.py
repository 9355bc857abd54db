"""Cones 2: residuals of class nouns, learnt alone, put together, and nothing else changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

from mudi import models
from mudi.adapter_size import Architecture, encoder_lora_parameters, encoder_parameters
from mudi.backbone import Residual
from mudi.cones2.encoder_tuning import lora_on_encoders, whole_encoders
from mudi.cones2.learn import ResidualSettings, learn_residual, preservation
from mudi.cones2.noun_templates import TEMPLATES, sentences, spans_of, template_mean
from mudi.dataset import load_combination
from mudi.diffusion import alphas_cumprod, encode, predict
from mudi.examples import personal_examples, reference_pictures
from mudi.fit import Example, FitSettings
from mudi.methods.cones2 import Cones2
from mudi.objectives import denoising_loss
from mudi.text.conditioning import encode_negative, encode_prompts
from mudi.text.spans import token_spans

TUNINGS = ("text_lora", "text_full", "direct")
# A residual is added to a state in float32, and the state is subtracted again: sums below 8 are rounded to 2.4e-7.
ADDED = {"rtol": 0, "atol": 1e-6}


def width(backbone):
    return backbone.unet.config.cross_attention_dim


def random_residual(backbone, key, words, seed):
    tokens = len(backbone.tokenizer(words, add_special_tokens=False).input_ids)
    return Residual(key=key, words=words, values=torch.randn(tokens, width(backbone), generator=torch.Generator().manual_seed(seed)))


def noise_pictures(step, rng):
    return [Example(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8), "dog")]


def learn(backbone, words, work, tuning="text_lora", steps=0, examples=noise_pictures, **values):
    settings = FitSettings(steps=steps, learning_rate=values.pop("learning_rate", 1e-3), accumulation=1, weight_decay=1e-2)
    return learn_residual(backbone, words, examples, settings, ResidualSettings(tuning=tuning, rank=4, **values), work=work, seed=0)


def snapshot(backbone):
    """Everything of the text encoders that a tuning could leave behind; a first use adds attributes of its own."""
    encode_prompts(backbone, [""])
    return [
        (name, p.dtype, p.requires_grad, p.detach().clone()) for _, e in backbone.readers.values() for name, p in e.named_parameters()
    ], [sorted(vars(encoder)) for _, encoder in backbone.readers.values()]


def unchanged(backbone, before):
    parameters, attributes = snapshot(backbone)
    same = all(a[:3] == b[:3] and torch.equal(a[3], b[3]) for a, b in zip(parameters, before[0], strict=True))
    return same and attributes == before[1]


@pytest.mark.parametrize("words", ["dog", "teddy bear"])
def test_the_residual_is_the_mean_over_templates_of_tuned_minus_untuned(backbone, words):
    """Sentence i of 27 is moved by i at the noun's first token, by 2 i at its second, by 99 elsewhere: the means are 13 and 26."""
    untuned = encode_prompts(backbone, sentences(words)).states.detach()
    tuned = untuned + 99
    for i, span in enumerate(spans_of(backbone, words)):
        for k, position in enumerate(span):
            tuned[i, position] = untuned[i, position] + i * (k + 1)
    residual = template_mean(backbone, words, tuned, untuned)
    expected = torch.tensor([13.0, 26.0])[: len(words.split()), None].expand(-1, width(backbone))
    torch.testing.assert_close(residual, expected, rtol=0, atol=1e-4)
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 27


def test_states_change_at_the_nouns_and_nowhere_else(backbone):
    """By exactly each residual; pooled text, sizes, other prompts and the unconditional side stay bit for bit."""
    prompts = ["a photo of a dog and a teddy bear on the grass", "a cat in the snow"]
    bare, nothing, empty = encode_prompts(backbone, prompts), encode_negative(backbone, None), encode_negative(backbone, "a dog")
    spans = token_spans(backbone, prompts[0], ["dog", "teddy bear"])
    backbone.residuals.extend([random_residual(backbone, "a", "dog", 1), random_residual(backbone, "b", "teddy bear", 2)])
    told = encode_prompts(backbone, prompts)
    for residual, span in zip(backbone.residuals, spans, strict=True):
        torch.testing.assert_close((told.states - bare.states)[0, list(span)], residual.values, **ADDED)
    others = [i for i in range(told.states.shape[1]) if i not in {*spans[0], *spans[1]}]
    assert torch.equal(told.states[0, others], bare.states[0, others])
    assert torch.equal(told.states[1], bare.states[1])
    assert torch.equal(told.pooled, bare.pooled)
    assert torch.equal(encode_negative(backbone, None).states, nothing.states)
    assert torch.equal(encode_negative(backbone, "a dog").states, empty.states)


def test_a_residual_of_zero_is_the_base_model_bit_for_bit(backbone):
    bare = encode_prompts(backbone, ["a photo of a dog"])
    backbone.residuals.append(Residual(key="a", words="dog", values=torch.zeros(1, width(backbone))))
    assert torch.equal(encode_prompts(backbone, ["a photo of a dog"]).states, bare.states)


def test_exchanging_the_residuals_of_one_noun_exchanges_what_is_added(backbone):
    """ "a dog and a dog": the first subject has the first dog."""
    bare = encode_prompts(backbone, ["a dog and a dog"]).states
    first, second = (span[0] for span in token_spans(backbone, "a dog and a dog", ["dog", "dog"]))
    pair = [random_residual(backbone, "a", "dog", 1), random_residual(backbone, "b", "dog", 2)]
    added = []
    for order in (pair, pair[::-1]):
        backbone.residuals[:] = order
        added.append((encode_prompts(backbone, ["a dog and a dog"]).states - bare)[0])
    assert first < second
    torch.testing.assert_close(added[0][first], added[1][second], **ADDED)
    torch.testing.assert_close(added[0][second], added[1][first], **ADDED)
    torch.testing.assert_close(added[0][first], pair[0].values[0], **ADDED)


def test_a_noun_inside_another_subjects_noun_is_not_taken(backbone):
    """In "a pink dog and a dog" the dog is the second one, in whatever order the subjects come; the start mark is 0."""
    assert token_spans(backbone, "a pink dog and a dog", ["dog", "pink dog"]) == [(6,), (2, 3)]
    assert token_spans(backbone, "a pink dog and a dog", ["pink dog", "dog"]) == [(2, 3), (6,)]


@pytest.mark.parametrize("words", ["dog", "teddy bear", "illustration"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_no_step_leaves_a_residual_of_zero_for_every_token_of_the_noun(backbone, tmp_path, tuning, words):
    """A LoRA begins with B at zero, whole encoders as they are. "illustration" is eight tokens here."""
    learnt = learn(backbone, words, tmp_path, tuning)
    tokens = {"dog": 1, "teddy bear": 2, "illustration": 8}[words]
    assert torch.equal(learnt.values, torch.zeros(tokens, width(backbone)))


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_model_with_one_encoder_is_tuned_and_put_back_too(tmp_path, tuning):
    """The residual is as wide as its only encoder, whose last states are taken and which has no pooled text."""
    backbone = models.load("miniature-sd")
    before = snapshot(backbone)
    moved = learn(backbone, "dog", tmp_path / "one", tuning, steps=1).values
    assert moved.any()
    assert moved.shape == (1, backbone.text_encoder.config.hidden_size)
    assert torch.equal(learn(backbone, "dog", tmp_path / "none", tuning).values, torch.zeros_like(moved))
    assert unchanged(backbone, before)


@pytest.mark.parametrize("preserve_prompts", ["instance", "templates"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_encoders_are_bit_for_bit_what_they_were(backbone, tmp_path, tuning, preserve_prompts):
    """After a step that moved something: weights, number formats, names, gradients asked for, attributes."""
    before = snapshot(backbone)
    learnt = learn(backbone, "dog", tmp_path, tuning, steps=1, preserve_prompts=preserve_prompts)
    assert learnt.values.any()
    assert unchanged(backbone, before)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_narrow_encoders_come_back_exactly_too(tmp_path, tuning):
    """In bfloat16 they are tuned in float32: no step is a residual of zero, and the weights return as they were."""
    backbone = models.load("miniature", dtype=torch.bfloat16)
    before = snapshot(backbone)
    assert not learn(backbone, "dog", tmp_path / "none", tuning).values.any()
    assert learn(backbone, "dog", tmp_path / "one", tuning, steps=1).values.any()
    assert unchanged(backbone, before)


@pytest.mark.parametrize("tuning", TUNINGS[:2])
def test_encoders_come_back_from_a_fit_that_was_broken_off(backbone, tmp_path, tuning):
    before = snapshot(backbone)

    def broken(step, rng):
        if step:
            raise KeyboardInterrupt
        return noise_pictures(step, rng)

    with pytest.raises(KeyboardInterrupt):
        learn(backbone, "dog", tmp_path, tuning, steps=2, examples=broken)
    assert unchanged(backbone, before)


def test_the_lora_of_an_encoder_is_sized_as_it_is_laid(backbone):
    """r (in + out) for q, k, v, out (width to width), fc1 and fc2, in every layer; and all numbers of a whole encoder."""
    texts = tuple(encoder.config.to_dict() for _, encoder in backbone.readers.values())
    architecture = Architecture(unet={}, side=0, row_widths={}, texts=texts, assumed=False)
    with lora_on_encoders(backbone, 3, 0) as parameters:
        assert sum(p.numel() for p in parameters) == encoder_lora_parameters(architecture, 3)
    with whole_encoders(backbone) as parameters:
        assert sum(p.numel() for p in parameters) == encoder_parameters(architecture)


def test_preservation_counts_all_but_the_noun_and_does_not_square():
    """Differences of (3, 4) at the start mark, (6, 8) at token 2 and (0, 24) at token 3, the noun at 1: 0.1 x 5 + 0.01 x 26."""
    untuned = torch.zeros(4, 2)
    tuned = torch.tensor([[3.0, 4.0], [100.0, 100.0], [6.0, 8.0], [0.0, 24.0]])
    assert preservation(tuned, untuned, (1,), 0.1, 0.01).item() == pytest.approx(0.1 * 5 + 0.01 * 26)


def loss_on_photos(backbone, pictures, text):
    """Mean squared error of the noise at ten times, the same noise each time this is asked."""
    source, losses = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        latents = encode(backbone, [p.image for p in pictures])
        condition = encode_prompts(backbone, [text]).rows([0] * len(pictures))
        for timestep in range(50, 1000, 100):
            noise, signal = torch.randn(latents.shape, generator=source), alphas_cumprod(backbone)[timestep]
            noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
            losses.append(denoising_loss(predict(backbone, noisy, torch.tensor(timestep), condition), noise).item())
    return float(np.mean(losses))


@pytest.mark.slow
@pytest.mark.parametrize(("tuning", "rate"), [("direct", 3e-2), ("text_lora", 5e-3)])
def test_a_fitted_residual_explains_the_photos_better_than_none(backbone, tmp_path, tuning, rate):
    """On the bare noun, and in a sentence that it was not fitted in."""
    dogs = Cones2(descriptive_class=False).view(load_combination(Path(ROOT) / "jobs/configs/miniature/tuning/two_dogs_tuning"))
    pictures = reference_pictures(replace(dogs, subjects=dogs.subjects[:1]), backbone.resolution, masks=False)
    before = [loss_on_photos(backbone, pictures, text) for text in ("dog", "a photo of a dog")]
    learnt = learn(
        backbone, "dog", tmp_path, tuning, steps=40, learning_rate=rate, examples=personal_examples(pictures, [], batch=2)
    )  # fmt: skip
    backbone.residuals.append(Residual(key="a", words="dog", values=learnt.values))
    after = [loss_on_photos(backbone, pictures, text) for text in ("dog", "a photo of a dog")]
    assert all(now < then for now, then in zip(after, before, strict=True)), (before, after)
