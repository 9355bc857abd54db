"""Recipes of parts at work: what combinations share, what is refused first, what merges predict, what a refinement starts from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quick_recipes import REFINE, quick

from mudi import adapter_folder, adapters, models
from mudi.adapter_folder import DOWN, UP
from mudi.adapter_size import TEXT
from mudi.diffusion import generators, predict, standard_noise
from mudi.merging.adapters import MergeFacts, merged_adapter, united_adapter
from mudi.merging.neutral_captions import neutral_grams
from mudi.merging.recipes import Fusion, Mean, Union
from mudi.methods.textual_inversion import TextualInversion
from mudi.records import Prompt
from mudi.text import tokens
from mudi.text.conditioning import encode_prompts
from tests.mudi.merging.test_adapters import single

FACTS = MergeFacts(method="modular")


def test_a_subject_is_fitted_once_for_all_combinations_and_merges(miniature, two_dogs, tmp_path):
    """Two combinations of three subjects and two kinds of merge: three fits. Other steps are another fit, another seed too."""
    first, second = two_dogs.subjects
    third = replace(second, key="c", identifier="ult", references=tuple(replace(r, caption="a ult") for r in second.references))
    other = replace(two_dogs, key="other", subjects=(first, third))
    method = quick(singles=str(tmp_path / "singles"))
    folders = {path.name: path.stat().st_mtime_ns for path in _made(method, miniature, two_dogs, tmp_path / "one")}
    assert len(folders) == 2
    again = {path.name: path.stat().st_mtime_ns for path in _made(replace(method, merge=Mean()), miniature, other, tmp_path / "two")}
    assert len(again) == 3
    assert folders.items() <= again.items()
    assert len(_made(replace(method, single_seed=1), miniature, two_dogs, tmp_path / "three")) == 5


def _made(method, backbone, combination, out_dir):
    method.train(backbone, combination, out_dir, seed=3)
    return [path for path in (out_dir.parent / "singles").iterdir() if (path / adapter_folder.MANIFEST).is_file()]


@pytest.mark.slow
def test_steps_are_reported_as_if_all_fits_were_one(miniature, two_dogs, tmp_path):
    """Two subjects of two steps each, then one step of refinement; a second start fits nothing."""
    steps = []
    method = quick("mudi_modular", merge={"name": "sum"}, refine=REFINE)
    method.train(miniature, two_dogs, tmp_path / "a", 1, lambda step, _: steps.append(step))
    assert steps == [1, 2, 3, 4, 5]
    assert method.steps_in_all(2) == 5


def test_a_shared_identifier_is_refused_before_anything_is_fitted(miniature, two_dogs, tmp_path):
    first, second = two_dogs.subjects
    twins = replace(two_dogs, subjects=(first, replace(second, identifier=first.identifier.upper())))
    for method in (quick(), quick("mix_of_show"), quick("mudi_modular", refine=REFINE)):
        with pytest.raises(ValueError, match=r"^two_dogs: subjects 'a' and 'b' both have the identifier 'olis'"):
            method.train(miniature, twins, tmp_path / method.name, 1)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_kl_is_zero_where_the_refinement_starts(miniature, two_dogs, tmp_path):
    """The loss of the first refining step is the same with weights 0 and 1e6: trained and reference adapter are both
    the merge. A step later the weight counts."""
    losses = {}
    for weight in (0.0, 1e6):
        seen = losses.setdefault(weight, [])
        method = quick(refine={**REFINE, "steps": 2, "kl_weight": weight}, singles=str(tmp_path / "singles"))
        method.train(miniature, two_dogs, tmp_path / str(weight), 1, lambda step, loss, seen=seen: seen.append(loss))
    assert losses[0.0][-2] == losses[1e6][-2]
    assert losses[0.0][-1] != losses[1e6][-1]


def test_an_adapter_that_cannot_draw_its_subject_is_named(miniature, two_dogs, tmp_path):
    """Nothing in a picture of a dog answers to "lighthouse": after ten draws for the one picture, two batches of eight, that is said."""
    subjects = tuple(replace(subject, detection_query="lighthouse") for subject in two_dogs.subjects)
    with pytest.raises(ValueError, match="alone drew exactly one 'lighthouse' in 0 of 16 pictures, 1 are needed"):
        quick(refine={**REFINE, "sample_steps": 1}).train(miniature, replace(two_dogs, subjects=subjects), tmp_path / "a", 1)


def answer(backbone, text):
    """The predicted noise for a prompt, with whatever is on."""
    with torch.no_grad():
        noisy = standard_noise(backbone, generators([0])).to(backbone.dtype)
        return predict(backbone, noisy, torch.tensor(500), encode_prompts(backbone, [text]))


def fits_of(folder):
    """The stored fits of subjects alone, by subject key."""
    found = [adapter_folder.find(path) for path in folder.iterdir() if (path / adapter_folder.MANIFEST).is_file()]
    return {adapter.combination: adapter for adapter in found}


def test_a_sum_of_custom_diffusions_predicts_as_diffusers_with_both_adapters(miniature, double, two_dogs, tmp_path):
    """`set_adapters` with weights 1, and the rows of both subjects on, for a prompt that names both.

    The answers are computed in float64 and rounded to float32, as the merged matrices are: 6e-8 of each.
    """
    method = quick(single={"name": "custom_diffusion"}, singles=str(tmp_path / "singles"))
    merged = method.train(miniature, two_dogs, tmp_path / "sum", 1)
    rows, text = {}, two_dogs.prompts[0].text
    bare = answer(double, text)
    for key, own in fits_of(tmp_path / "singles").items():
        settings, state = adapters.read_lora(own)
        adapters.put_matrices(double.unet, settings, state, key)
        rows |= adapters.stored_rows(own)
    double.unet.double().set_adapters(["a", "b"], [1.0, 1.0])
    tokens.attach_rows(double, rows)
    expected = answer(double, text)
    adapters.put_on(double, merged)
    double.unet.double()
    torch.testing.assert_close(answer(double, text), expected, atol=1e-6, rtol=1e-6)
    assert (expected - bare).abs().max() > 1e-3


def test_a_union_draws_each_subject_as_its_own_fit_does(miniature, two_dogs, tmp_path):
    """To the pixel, for a prompt that names one; there is no LoRA, and so nothing for a round of self-training."""
    method = quick(single={"name": "textual_inversion"}, singles=str(tmp_path / "singles"))
    union, drawn = method.train(miniature, two_dogs, tmp_path / "union", 1), []
    assert not (union.path / adapter_folder.WEIGHTS).exists()
    assert not method.refits
    singles = fits_of(tmp_path / "singles")
    for subject in two_dogs.subjects:
        prompt = Prompt(prompt_id="one", text=f"a photo of a {subject.phrase} at night")
        adapters.put_on(miniature, union)
        drawn.append(method.sample(miniature, two_dogs, prompt, [5])[0])
        adapters.put_on(miniature, singles[subject.key])
        (own,) = TextualInversion(sampling=method.sampling).sample(miniature, two_dogs, prompt, [5])
        assert np.array_equal(drawn[-1], own)
    assert not np.array_equal(*drawn)


def test_a_union_is_of_rows_alone_of_one_base(miniature, two_dogs, tmp_path):
    with_lora = single(miniature, tmp_path / "a", 1, words=["olis"])
    with pytest.raises(ValueError, match=r"a: holds a LoRA, which a union of token rows would lose"):
        united_adapter(miniature, [with_lora], two_dogs, tmp_path / "u", Union(), FACTS)
    elsewhere = single(miniature, tmp_path / "b", 2, words=["hta"], facts={"backbone": "other"})
    with pytest.raises(ValueError, match="was fitted on 'other' with weights None and the merge is for 'miniature'"):
        united_adapter(miniature, [elsewhere], two_dogs, tmp_path / "u", Union(), FACTS)
    assert not (tmp_path / "u").exists()


@pytest.mark.slow
def test_a_refined_ed_lora_keeps_its_rows_bit_for_bit_and_draws_its_pictures_with_them(miniature, two_dogs, tmp_path):
    """Only the LoRA moves. A hook on the UNet sees "a photo of a PHRASE" read with each subject's own row, and never without.

    Float32 states of one text read in two batches differ by 1e-6 or less, and those of a text read with another row by 0.01 or more.
    """
    method = quick(single={"name": "ed_lora"}, refine=REFINE, singles=str(tmp_path / "singles"))
    plain = replace(method, refine=None).train(miniature, two_dogs, tmp_path / "plain", 1)
    states = []
    handle = miniature.unet.register_forward_pre_hook(lambda unet, given: states.append(given[2]))
    refined = method.train(miniature, two_dogs, tmp_path / "refined", 1)
    handle.remove()

    before, after = adapters.stored_rows(plain), adapters.stored_rows(refined)
    assert set(after) == {"olis", "hta"}
    assert all(torch.equal(after[word][key], row) for word, of_word in before.items() for key, row in of_word.items())
    (was, started), (now, ended) = adapters.read_lora(plain), adapters.read_lora(refined)
    assert was == now
    assert all(not torch.equal(ended[key], value) for key, value in started.items())
    assert adapter_folder.read_manifest(refined.path)["refine"]["merged_sha256"] == plain.sha256

    def nearest(text):
        wanted = encode_prompts(miniature, [text]).states[0]
        return min((row - wanted).abs().max().item() for of_call in states for row in of_call)

    singles = fits_of(tmp_path / "singles")
    for subject in two_dogs.subjects:
        adapters.put_on(miniature, singles[subject.key])
        assert nearest(f"a photo of a {subject.phrase}") < 1e-4
        adapters.detach(miniature)
        assert nearest(f"a photo of a {subject.phrase}") > 1e-2


@pytest.mark.slow
def test_the_captions_weight_leaves_neutral_states_alone_and_other_layers_as_they_are(miniature, two_dogs, tmp_path):
    """Keys and values of cross-attention answer the captions' mean square at least 100 times less with a weight of 1e4; layers
    that the picture feeds are fused as without, to the bit."""
    pair = [single(miniature, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))]
    neutral = neutral_grams(miniature, [subject.class_noun for subject in two_dogs.subjects], ("to_q", "to_k", "to_v", "to_out.0"))
    assert set(neutral.keys) == {name for name in neutral.keys if TEXT.fullmatch(name)}
    reach = {}
    for weight in (0.0, 1e4):
        merged = merged_adapter(miniature, pair, two_dogs, tmp_path / f"{weight}", Fusion(neutral_weight=weight), FACTS)
        _, state = adapters.read_lora(merged)
        for layer in (key.removesuffix(DOWN) for key in state if key.endswith(DOWN)):
            update = state[layer + UP].double() @ state[layer + DOWN].double()
            name = layer.removeprefix("unet.")
            seen = ((update @ neutral.mean(name)) * update).sum() if name in neutral.keys else update
            reach.setdefault(layer, []).append(seen)
    for layer, (free, held) in reach.items():
        assert held < free / 100 if free.ndim == 0 else torch.equal(free, held), layer


@pytest.mark.slow
def test_another_combinations_fit_of_the_same_subject_is_taken_as_it_is(miniature, two_dogs, tmp_path):
    """While this one fits its first subject, another process puts the same fit in place: that stays, with its files untouched."""
    method = quick(singles=str(tmp_path / "singles"))
    other = {}

    def meanwhile(step, loss):
        if step == 1 and not other:
            other["running"] = True
            replace(method, singles=str(tmp_path / "quick")).train(models.load("miniature"), two_dogs, tmp_path / "other", 1)
            (tmp_path / "quick").rename(tmp_path / "singles")
            other.update({p: p.stat().st_mtime_ns for p in (tmp_path / "singles").rglob("*") if p.is_file()})

    adapter = method.train(miniature, two_dogs, tmp_path / "a", 1, meanwhile)
    del other["running"]
    assert other == {p: p.stat().st_mtime_ns for p in (tmp_path / "singles").rglob("*") if p.is_file()}
    assert adapter.sha256 == adapter_folder.find(tmp_path / "other").sha256
