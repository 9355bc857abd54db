"""Learning a residual: what it is extracted from, what holds the encoders meanwhile, and what the UNet is told."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from places import DOGS, ROOT

from mudi.cones2.learn import ResidualSettings, learn_residual
from mudi.cones2.noun_templates import TEMPLATES, sentences, spans_of
from mudi.dataset import load_combination
from mudi.fit import Example, FitSettings
from mudi.methods import METHODS
from mudi.modular.subject_fits import single_folder
from mudi.text.conditioning import encode_prompts
from mudi.text.spans import token_spans
from pipeline.ready import ready
from pipeline.settings.config import load_run


def learn(backbone, work, steps, seen=lambda step: None, rate=1e-3, **values):
    """A residual of "dog" from noise; `seen(step)` looks at the encoders as they are before a step."""

    def examples(step, rng):
        with torch.no_grad():
            seen(step)
        return [Example(rng.integers(0, 255, (48, 48, 3), dtype=np.uint8), "dog")]

    settings = FitSettings(steps=steps, learning_rate=rate, accumulation=1, weight_decay=1e-2)
    return learn_residual(backbone, "dog", examples, settings, ResidualSettings(**{"rank": 4, **values}), work=work, seed=0)


def states(backbone, texts):
    return encode_prompts(backbone, texts).states


@pytest.mark.parametrize("tuning", ["text_lora", "text_full"])
def test_the_residual_leads_from_the_untuned_states_to_the_tuned_ones(backbone, tmp_path, tuning):
    """After one step it is what a longer fit sees before its second one, minus the untuned states, averaged over the templates.

    Both take the same step from the same numbers; a mean of 27 differences below 0.1 may be added in another order."""
    before, after = states(backbone, sentences("dog")), []
    learn(backbone, tmp_path / "two", 2, lambda step: after.append(states(backbone, sentences("dog"))), tuning=tuning)
    expected = torch.stack([after[1][i, list(s)] - before[i, list(s)] for i, s in enumerate(spans_of(backbone, "dog"))]).mean(0)
    learnt = learn(backbone, tmp_path / "one", 1, tuning=tuning)
    torch.testing.assert_close(learnt.values, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


def drift(backbone, work, sentence, **values):
    """How far the states of all tokens of a sentence but the noun have moved before the last of 8 steps."""
    untuned, moved = states(backbone, [sentence])[0], []
    learn(backbone, work, 8, lambda step: moved.append(states(backbone, [sentence])[0] - untuned), **values)
    (noun,) = token_spans(backbone, sentence, ["dog"])[0]
    return moved[-1][[position for position in range(len(untuned)) if position != noun]].norm().item()


HARD = {"mark_weight": 1e3, "rest_weight": 1e3}


def test_the_encoders_are_held_on_everything_but_the_noun(backbone, tmp_path):
    """Held hard, the other tokens move less than a third of what they do where nothing holds them."""
    free = drift(backbone, tmp_path / "free", "dog", mark_weight=0.0, rest_weight=0.0)
    assert drift(backbone, tmp_path / "held", "dog", **HARD) < free / 3


def test_sentences_of_the_users_own_hold_as_the_same_ones_do_that_are_built_in(backbone, tmp_path):
    """The bare noun is "instance", all templates are "templates", bit for bit; the two, and another sentence, are not alike."""
    given = ["instance", ("dog",), "templates", TEMPLATES, ("a rabbit beside a {}",)]
    learnt = [learn(backbone, tmp_path / str(i), 3, tuning="text_lora", preserve_prompts=own, **HARD).values for i, own in enumerate(given)]
    assert torch.equal(learnt[0], learnt[1])
    assert torch.equal(learnt[2], learnt[3])
    assert not torch.allclose(learnt[0], learnt[2])
    assert not torch.allclose(learnt[0], learnt[4])


def test_sentences_of_the_users_own_decide_the_fit_and_a_list_is_a_tuple():
    combination = load_combination(DOGS)
    bare, own, other = (METHODS["cones2"](preserve_prompts=value) for value in ("instance", ["a {} runs"], ["a {} sits"]))
    recipes = [method.single_recipe(combination) for method in (bare, own, other)]
    places = {single_folder(Path("s"), combination.subjects[0], recipe, 0, "miniature", "float32") for recipe in recipes}
    assert len(places) == 3
    assert own == METHODS["cones2"](preserve_prompts=("a {} runs",))


def test_a_sentence_without_the_noun_is_refused_before_anything_is_loaded(tmp_path):
    """The dogs are a "pink dog" and an "orange dog": written out, a noun is one subject's alone, and "{}" is every subject's."""
    for sentences_given in (["a pink dog runs"], ["the {} sits", "a cat runs"]):
        method = f"method={{name: cones2, preserve_prompts: {json.dumps(sentences_given)}}}"
        config = load_run(ROOT / "tests/data/miniature.yaml", [f"runs={tmp_path}", "rounds=0", "sampling.gamma=0.0", method])
        with pytest.raises(ValueError, match=r"^method.preserve_prompts: '(a pink dog runs|a cat runs)' does not hold the class noun"):
            ready(config)
    method = "method={name: cones2, preserve_prompts: ['a {} runs'], descriptive_class: false}"
    config = load_run(ROOT / "tests/data/miniature.yaml", [f"runs={tmp_path}", "rounds=0", "sampling.gamma=0.0", method])
    assert ready(config).combinations


@pytest.mark.parametrize("tuning", ["text_lora", "text_full", "direct"])
def test_the_unet_gets_the_untuned_pooled_text_of_the_noun_while_its_states_move(backbone, tmp_path, tuning):
    """As it will when the residual is used: the pooled text stays bit for bit, the states do not."""
    bare, told = encode_prompts(backbone, ["dog"]), []

    def record(unet, args, kwargs):
        told.append((args[2].detach().clone(), kwargs["added_cond_kwargs"]["text_embeds"].detach().clone()))

    hook = backbone.unet.register_forward_pre_hook(record, with_kwargs=True)
    try:
        learn(backbone, tmp_path, 3, tuning=tuning)
    finally:
        hook.remove()
    assert len(told) == 3
    assert all(torch.equal(pooled, bare.pooled) for _, pooled in told)
    assert torch.equal(told[0][0], bare.states)
    assert (told[2][0] - bare.states).abs().max() > 1e-4
