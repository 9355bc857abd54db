"""Fits alone, merges and refinements in any combination: what each predicts, shares, needs and is counted as, and what cannot be."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mudi import adapter_folder, adapters
from mudi.adapter_folder import DOWN, UP
from mudi.adapter_size import TEXT
from mudi.dataset import load_combination
from mudi.diffusion import generators, predict, standard_noise
from mudi.merging.adapters import merged_adapter, united_adapter
from mudi.merging.neutral_grams import neutral_grams
from mudi.methods.custom_diffusion_merged import CustomDiffusionMerged
from mudi.methods.merged_loras import OF_THE_SINGLE, SINGLES, MergedLoras
from mudi.methods.mix_of_show import MixOfShow
from mudi.methods.mudi_modular import MudiModular
from mudi.methods.textual_inversion import TextualInversion
from mudi.records import Prompt
from mudi.text import tokens
from mudi.text.conditioning import encode_prompts
from pipeline import arms, assignments
from pipeline.cost.workload import fit_work
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import load_run
from pipeline.workers.fit_job import FitJob
from tests.mudi.merging.test_adapters import single
from tests.mudi.methods.test_merged_loras import QUICK, SELF, with_nouns

ROWS_ALONE = {name: value for name, value in QUICK.items() if name != "rank"}
STYLE = Path("jobs/configs/miniature/mcp/cat_in_sepia")


@pytest.mark.parametrize("name", SINGLES)
def test_what_is_left_out_is_what_the_single_method_has(name):
    """And is the same method, wherever it is compared, listed or found again by its fits, as with the same values written down."""
    method, own = MergedLoras(single=name), SINGLES[name]()
    assert {key: getattr(method, key) for key in OF_THE_SINGLE} == {key: getattr(own, key, None) for key in OF_THE_SINGLE}
    written = {field.name: getattr(method, field.name) for field in fields(method)}
    assert MergedLoras(**written) == method
    assert replace(method, singles="elsewhere") == method


def test_presets_share_their_fits_with_the_same_recipe_written_down(two_dogs):
    for preset, values in (
        (MixOfShow(), {"single": "ed_lora", "merge": "fusion"}),
        (CustomDiffusionMerged(), {"single": "custom_diffusion", "merge": "constrained", "steps": 500}),
        (MudiModular(), {"merge": "fusion", "refine_steps": 200, "sampling": MudiModular().sampling}),
    ):
        written = MergedLoras(**values)
        assert [getattr(preset, f.name) for f in fields(preset)] == [getattr(written, f.name) for f in fields(written)]
        assert preset.single_recipe(two_dogs) == written.single_recipe(two_dogs)


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        (MergedLoras, {"single": "dreambath"}, "single = 'dreambath': allowed are 'dreambooth', 'ed_lora'"),
        (MergedLoras, {"single": ["ed_lora"]}, r"single = \['ed_lora'\]: allowed are"),
        (MixOfShow, {"single": "dreambooth"}, "single = 'dreambooth': mix_of_show fits by 'ed_lora'"),
        (MudiModular, {"single": "ed_lora"}, "mudi_modular fits by 'dreambooth'; leave it out, or use merged_loras"),
        (MergedLoras, {"class_row": False}, "class_row = False: dreambooth has no such thing; leave it out, or use single: ed_lora$"),
        (MergedLoras, {"single": "custom_diffusion", "noise_offset": 0.0}, "noise_offset = 0.0: custom_diffusion has no such thing"),
        (MergedLoras, {"single": "textual_inversion", "rank": 4}, "rank = 4: textual_inversion has no such thing"),
        (MergedLoras, {"single": "textual_inversion", "merge": "sum"}, "merge = 'sum': textual_inversion fits token rows"),
        (MergedLoras, {"single": "ed_lora", "merge": "union"}, "merge = 'union': ed_lora fits a LoRA too"),
        (MergedLoras, {"merge": "constrained"}, "merge = 'constrained': takes keys and values"),
        (MixOfShow, {"merge": "constrained"}, "ed_lora has more; use single: custom_diffusion"),
        (MergedLoras, {"merge": "average"}, "merge = 'average': allowed are 'sum', .*'constrained', 'union'"),
        (CustomDiffusionMerged, {"merge_rank": 4}, "merge_rank = 4: a merge by 'constrained'"),
        (MergedLoras, {"single": "textual_inversion", "merge_rank": 4}, "merge_rank = 4: a merge by 'union'"),
        (MergedLoras, {"single": "textual_inversion", "refine_steps": 5}, "refine_steps = 5: a refinement trains a LoRA"),
        (MergedLoras, {"neutral_weight": 0.5}, "neutral_weight = 0.5: merge 'sum' has no use for it; leave it out, or use fusion"),
        (MergedLoras, {"density": 0.3}, "density = 0.3: merge 'sum' has no use for it; leave it out, or use ties_svd or dare_linear_svd"),
        (MudiModular, {"merge": "svd", "kv_positions": "all"}, "kv_positions = 'all': merge 'svd' has no use for it"),
        (MergedLoras, {"ridge": 0.5}, "ridge = 0.5: merge 'sum' solves nothing; leave it out, or use fusion or constrained"),
        (MergedLoras, {"steps": 0}, "steps = 0: allowed are"),
        (MergedLoras, {"self_steps": 0}, "self_steps = 0: allowed are"),
        (MixOfShow, {"masked_loss": "no"}, "masked_loss = 'no': allowed are true and false"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(method, values, said):
    with pytest.raises(ValueError, match=said) as caught:
        method(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("dog", "cat", True),
        ("dog", "pink dog", False),
        ("pink dog", "Dog", False),
        ("dog", "dog-shaped toy", False),
        ("dog", "pink bulldog", True),
        ("pink dog", "pink cat", True),
        ("pink dog", "pink dog", False),
    ],
)
def test_a_class_row_that_would_stand_in_anothers_phrase_is_not_trained(two_dogs, first, second, kept):
    """Words stand for tokens: the row of "dog" would be read in "hta pink dog". No noun of two words has a row, so "pink" is none's."""
    assert MixOfShow().alone(with_nouns(two_dogs, first, second)).class_row is kept
    assert MixOfShow(class_row=False).alone(with_nouns(two_dogs, first, second)).class_row is False


def answer(backbone, text):
    """The predicted noise for a prompt, with whatever is on."""
    with torch.no_grad():
        return predict(backbone, standard_noise(backbone, generators([0])), torch.tensor(500), encode_prompts(backbone, [text]))


def fits_of(folder):
    """The stored fits of subjects alone, by subject key."""
    found = [adapter_folder.find(path) for path in folder.iterdir() if (path / adapter_folder.MANIFEST).is_file()]
    return {adapter.combination: adapter for adapter in found}


def test_a_sum_of_custom_diffusions_predicts_as_diffusers_with_both_adapters(miniature, two_dogs, tmp_path):
    """`set_adapters` with weights 1, and the rows of both subjects on, for a prompt that names both."""
    method = MergedLoras(**QUICK, single="custom_diffusion", singles=str(tmp_path / "singles"))
    merged = method.train(miniature, two_dogs, tmp_path / "sum", 1)
    adapters.detach(miniature)
    rows, text = {}, two_dogs.prompts[0].text
    bare = answer(miniature, text)
    for key, own in fits_of(tmp_path / "singles").items():
        settings, state = adapters.read_lora(own)
        adapters.put_matrices(miniature.unet, settings, state, key)
        rows |= adapters.stored_rows(own)
    miniature.unet.set_adapters(["a", "b"], [1.0, 1.0])
    tokens.attach_rows(miniature, rows)
    expected = answer(miniature, text)
    adapters.put_on(miniature, merged)
    torch.testing.assert_close(answer(miniature, text), expected, atol=1e-5, rtol=1e-4)
    assert (expected - bare).abs().max() > 1e-3


def test_a_union_draws_each_subject_as_its_own_fit_does(miniature, two_dogs, tmp_path):
    """To the pixel, for a prompt that names one; there is no LoRA, and so nothing for a round of self-training."""
    method = MergedLoras(**ROWS_ALONE, single="textual_inversion", singles=str(tmp_path / "singles"))
    union, drawn = method.train(miniature, two_dogs, tmp_path / "union", 1), []
    assert not (union.path / adapter_folder.WEIGHTS).exists()
    assert not method.refits
    singles = fits_of(tmp_path / "singles")
    for subject in two_dogs.subjects:
        prompt = Prompt(prompt_id="one", text=f"a photo of a {subject.phrase} at night")
        drawn.append(method.sample(miniature, union, two_dogs, prompt, [5])[0])
        (own,) = TextualInversion(sampling=method.sampling).sample(miniature, singles[subject.key], two_dogs, prompt, [5])
        assert np.array_equal(drawn[-1], own)
    assert not np.array_equal(*drawn)


def test_a_union_is_of_rows_alone_of_one_base(miniature, two_dogs, tmp_path):
    with_lora = single(miniature, tmp_path / "a", 1, words=["olis"])
    with pytest.raises(ValueError, match=r"a: holds a LoRA, which a union of token rows would lose"):
        united_adapter(miniature, [with_lora], two_dogs, tmp_path / "u", method="merged_loras")
    elsewhere = single(miniature, tmp_path / "b", 2, words=["hta"], facts={"backbone": "other"})
    with pytest.raises(ValueError, match="was fitted on 'other' with weights None and the merge is for 'miniature'"):
        united_adapter(miniature, [elsewhere], two_dogs, tmp_path / "u", method="merged_loras")
    assert not (tmp_path / "u").exists()


def test_a_refined_ed_lora_keeps_its_rows_bit_for_bit_and_draws_its_pictures_with_them(miniature, two_dogs, tmp_path):
    """Only the LoRA moves. A hook on the UNet sees "a photo of a PHRASE" read with each subject's own row, and never without."""
    method = MergedLoras(**QUICK, **SELF, single="ed_lora", singles=str(tmp_path / "singles"))
    plain = replace(method, refine_steps=0).train(miniature, two_dogs, tmp_path / "plain", 1)
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

    def was_read(text):
        wanted = encode_prompts(miniature, [text]).states[0]
        return any(torch.allclose(row, wanted, atol=1e-6) for of_call in states for row in of_call)

    singles = fits_of(tmp_path / "singles")
    for subject in two_dogs.subjects:
        adapters.put_on(miniature, singles[subject.key])
        assert was_read(f"a photo of a {subject.phrase}")
        adapters.detach(miniature)
        assert not was_read(f"a photo of a {subject.phrase}")


def test_the_captions_weight_leaves_neutral_states_alone_and_other_layers_as_they_are(miniature, two_dogs, tmp_path):
    """Keys and values of cross-attention answer the captions' mean square at least 100 times less with a weight of 1e4; layers
    that the picture feeds are fused as without, to the bit."""
    pair = [single(miniature, tmp_path / name, seed) for name, seed in (("a", 1), ("b", 2))]
    neutral = neutral_grams(miniature, ["pink dog"], ("to_q", "to_k", "to_v", "to_out.0"))
    assert set(neutral.keys) == {name for name in neutral.keys if TEXT.fullmatch(name)}
    reach = {}
    for weight in (0.0, 1e4):
        merged = merged_adapter(
            miniature, pair, two_dogs, tmp_path / f"{weight}", "fusion", method="merged_loras", neutral=neutral, neutral_weight=weight
        )
        _, state = adapters.read_lora(merged)
        for layer in (key.removesuffix(DOWN) for key in state if key.endswith(DOWN)):
            update = state[layer + UP].double() @ state[layer + DOWN].double()
            name = layer.removeprefix("unet.")
            seen = ((update @ neutral.mean(name)) * update).sum() if name in neutral.keys else update
            reach.setdefault(layer, []).append(seen)
    for layer, (free, held) in reach.items():
        assert held < free / 100 if free.ndim == 0 else torch.equal(free, held), layer


def test_masks_are_asked_for_where_something_is_cut_out(two_dogs):
    """A style has none, and nothing finds it: an ED-LoRA with a masked loss cannot have it, nor a refinement of any fit."""
    style, run = load_combination(STYLE), [f"combinations=[{STYLE}]", "rounds=0", "sampling.gamma=0.0"]

    def named(*method):
        config = load_run(Path("jobs/configs/miniature.yaml"), [*run, "method.objective=denoising", *method])
        return assignments.with_prompts(config, style)

    assert named("method={name: mix_of_show, masked_loss: false}").prompts
    assert named("method={name: mudi_modular, refine_steps: 0}").prompts
    for method in ("{name: mix_of_show}", "{name: mudi_modular}", "{name: merged_loras, single: custom_diffusion, refine_steps: 5}"):
        with pytest.raises(ValueError, match="cuts every subject out, and 'b' has no query"):
            named(f"method={method}")
    with pytest.raises(ValueError, match="merged_loras with refine_steps cuts every subject out"):
        MergedLoras(**QUICK, **SELF).train(None, style, Path("none"), 1)
    bare = replace(
        two_dogs, subjects=tuple(replace(s, references=tuple(replace(r, mask_path=None) for r in s.references)) for s in two_dogs.subjects)
    )
    assert not MudiModular().needs_masks
    config = load_run(Path("jobs/configs/miniature.yaml"), ["rounds=0", "sampling.gamma=0.0", "method={name: mudi_modular}"])
    assert assignments.with_prompts(config, bare).prompts
    config = load_run(Path("jobs/configs/miniature.yaml"), ["rounds=0", "sampling.gamma=0.0", "method={name: mix_of_show}"])
    with pytest.raises(ValueError, match="has no mask"):
        assignments.with_prompts(config, bare)


def test_a_benchmarks_defaults_reach_the_arms_that_have_a_use_for_them():
    """The file's rank is none of Textual Inversion's, whose union no refit can start from."""
    path, union = Path("jobs/configs/benchmark_miniature.yaml"), "methods.rows={method: merged_loras, single: textual_inversion}"
    options = arms.resolve(load_benchmark(path, [union]))["rows"].options
    assert (options.merge, options.rank, options.batch) == ("union", None, 6)
    refit = "methods.again={refit: {of: rows, pool: 8, keep: 2}}"
    with pytest.raises(ValueError, match=r"methods\.again: refit.of 'rows', a merged_loras, leaves no LoRA"):
        arms.resolve(load_benchmark(path, [union, refit]))
    with pytest.raises(ValueError, match=r"methods\.rows\.rank = 4: textual_inversion has no such thing"):
        arms.resolve(load_benchmark(path, ["methods.rows={method: merged_loras, single: textual_inversion, rank: 4}"]))


def test_what_two_merges_keep_beside_one_fit_is_counted_once(two_dogs, tmp_path):
    """Grams of other positions are others; 5 and 12 pictures are the first of two batches of eight and then the second."""
    planned, drawing = set(), {"refine_steps": 1, "self_steps": 10, "self_guidance_scale": 1.0}

    def besides(name, **values):
        method = MergedLoras(**QUICK, **values)
        job = FitJob(
            label=name, combination=two_dogs, method=method.name, hyperparameters={}, backbone="miniature", precision="float32",
            out_dir=str(tmp_path / name), seed=1, steps=method.steps_in_all(2),
        )  # fmt: skip
        work = fit_work(job, name, method, planned)
        return work.alone, work.besides[0]

    photos = sum(len(subject.references) for subject in two_dogs.subjects)
    refining = 1 + 2 * 10 * photos  # the pass through the reference replaces nothing: objective denoising has none; drift
    assert besides("sum") == (2, 0)
    assert besides("fusion", merge="fusion") == (0, 2 * 22)
    assert besides("again", merge="fusion", ridge=0.5) == (0, 0)
    assert besides("other", merge="fusion", kv_positions="concept") == (0, 2 * 22)
    assert besides("refined", **drawing) == (0, 2 * 8 * 10 + refining)
    assert besides("more", **drawing, self_images=12) == (0, 2 * 8 * 10 + refining)
    assert besides("guided", **{**drawing, "self_guidance_scale": 2.0}) == (0, 2 * 8 * 10 * 2 + refining)
    assert besides("values", single="custom_diffusion", merge="fusion") == (2, 2 * 2)
