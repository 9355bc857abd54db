"""Adapters of single subjects merged into one: what the merge predicts, what it refuses, what it keeps."""

import json
import os
from dataclasses import replace

import pytest
import torch
from double import ROUNDING
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from mudi import adapter_folder, adapters
from mudi.adapter_folder import Origin
from mudi.diffusion import generators, predict, standard_noise
from mudi.merging.adapters import MergeFacts, merged_adapter
from mudi.merging.concept_grams import counted, subject_grams
from mudi.merging.constrained import concept_states, constrained_adapter
from mudi.merging.recipes import Constrained, Fusion, Mean, Sum, Svd
from mudi.methods.custom_diffusion import TARGETS
from mudi.options import LoraSettings
from mudi.text import tokens
from mudi.text.conditioning import encode_prompts
from tests.mudi.test_adapters import noisy_adapter, prediction, stored

FACTS = MergeFacts(method="modular")


def single(backbone, folder, seed, settings=None, words=(), scale=0.1, facts=None):
    """An adapter of one subject with random matrices, and random rows for `words`."""
    settings = settings or LoraSettings(rank=3, alpha=6)
    adapters.detach(backbone)
    adapters.attach(backbone.unet, settings, seed)
    source = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters(backbone.unet):
        parameter.data = scale * torch.randn(parameter.shape, generator=source)
    if words:
        tokens.attach_rows(
            backbone,
            {
                word: {key: 0.05 * torch.randn(e.get_input_embeddings().weight.shape[1], generator=source) for key, (_, e) in readers}
                for readers in [backbone.readers.items()]
                for word in words
            },
        )
    facts = adapters.base_facts(backbone) if facts is None else facts
    adapter = adapters.save(backbone, folder, settings, Origin(method="one", combination=folder.name, details=facts), identifiers=words)
    adapters.detach(backbone)
    return adapter


def weights_of(backbone, adapter):
    """The UNet's attention weights with the adapter's update in them, by layer, float64."""
    settings, state = adapters.read_lora(adapter)
    layers = sorted(key.removesuffix(".lora_A.weight") for key in state if key.endswith("lora_A.weight"))
    adapters.detach(backbone)
    return {
        layer: backbone.unet.get_submodule(layer.removeprefix("unet.")).weight.double()
        + settings.alpha / settings.rank * state[f"{layer}.lora_B.weight"].double() @ state[f"{layer}.lora_A.weight"].double()
        for layer in layers
    }


def test_a_sum_predicts_as_the_base_model_with_both_updates(miniature, tmp_path, two_dogs):
    """The bare UNet with W0 + s1 B1 A1 + s2 B2 A2 written into its weights; ranks 3 and 2, and alphas that are not the ranks.

    The mean has half of each."""
    pair = [single(miniature, tmp_path / "a", 1), single(miniature, tmp_path / "b", 2, LoraSettings(rank=2, alpha=1))]
    base = {key: value.clone() for key, value in miniature.unet.state_dict().items()}
    first, second = (weights_of(miniature, adapter) for adapter in pair)
    for merge, share in ((Sum(), 1.0), (Mean(), 0.5)):
        adapters.detach(miniature)
        for layer, weight in first.items():
            start = base[layer.removeprefix("unet.") + ".weight"]
            changed = start + share * (weight - start) + share * (second[layer] - start)
            miniature.unet.get_submodule(layer.removeprefix("unet.")).weight.data = changed.float()
        expected = prediction(miniature)
        miniature.unet.load_state_dict(base)
        merged = merged_adapter(miniature, pair, two_dogs, tmp_path / merge.name, merge, FACTS)
        adapters.put_on(miniature, merged)
        torch.testing.assert_close(prediction(miniature), expected, atol=2e-4, rtol=1e-3)
        assert adapter_folder.read_manifest(merged.path)["lora"]["rank"] == 5


def test_svd_at_the_sum_of_the_ranks_is_the_sum_and_at_fewer_the_best_approximation(miniature, tmp_path, two_dogs):
    """Eckart and Young: the squared error at rank 2 is the sum of the squared singular values behind the second.

    The matrices are float32: a decomposition is exact for an update that differs from the given one by some roundings of its
    largest singular value."""
    pair = [single(miniature, tmp_path / "a", 1), single(miniature, tmp_path / "b", 2)]
    changes = {}
    for name, merge in (("sum", Sum()), ("whole", Svd()), ("low", Svd(rank=2))):
        merged = merged_adapter(miniature, pair, two_dogs, tmp_path / name, merge, FACTS)
        _, state = adapters.read_lora(merged)
        layer = next(key.removesuffix(".lora_A.weight") for key in state)
        changes[name] = state[f"{layer}.lora_B.weight"].double() @ state[f"{layer}.lora_A.weight"].double()
    singular = torch.linalg.svdvals(changes["sum"])
    torch.testing.assert_close(changes["whole"], changes["sum"], atol=10 * ROUNDING * float(singular[0]), rtol=0)
    assert (changes["low"] - changes["sum"]).norm().item() == pytest.approx(singular[2:].norm().item(), rel=1e-4)


def test_the_fusion_of_equal_loras_is_that_lora(miniature, tmp_path, two_dogs):
    """With D1 = D2 = D the optimum is D wherever inputs go, since both terms vanish there: the noted errors are 0, up to the ridge."""
    pair = [single(miniature, tmp_path / name, 1) for name in ("a", "b")]
    adapters.put_on(miniature, pair[0])
    expected = prediction_of(miniature, two_dogs)
    merged = merged_adapter(miniature, pair, two_dogs, tmp_path / "fused", Fusion(ridge=1e-6), FACTS)
    adapters.put_on(miniature, merged)
    assert (prediction_of(miniature, two_dogs) - expected).abs().max() < 0.02 * expected.abs().max()
    noted = adapter_folder.read_manifest(merged.path)["merge"]
    assert all(of_subject["largest"] < 1e-3 for of_subject in noted["error"])
    assert set(noted["errors"]) == {key.split(".lora_")[0] for key in load_file(merged.path / adapter_folder.WEIGHTS)}
    assert noted["gram_bytes"] == sum(value.nbytes for value in subject_grams(miniature, pair[0], two_dogs.subjects[0]).sums.values())


def prediction_of(backbone, combination):
    """The predicted noise for a prompt that fusion has seen."""
    condition = encode_prompts(backbone, [f"photo of a {combination.subjects[0].phrase}"], padding="adaptive")
    with torch.no_grad():
        return predict(backbone, standard_noise(backbone, generators([0])), torch.tensor(500), condition)


def test_grams_are_collected_once_and_again_when_their_file_is_broken(miniature, tmp_path, two_dogs):
    adapter = single(miniature, tmp_path / "a", 1)
    grams = subject_grams(miniature, adapter, two_dogs.subjects[0], steps=2)
    (path,) = (tmp_path / "a.grams").iterdir()
    written, before = path.stat().st_mtime_ns, {key: value.clone() for key, value in grams.sums.items()}
    subject_grams(miniature, adapter, two_dogs.subjects[0], steps=2)
    assert path.stat().st_mtime_ns == written
    path.write_bytes(path.read_bytes()[:-50])
    (left := path.with_name(f".{path.name}.0.part")).write_bytes(b"what a killed writer left")
    os.utime(left, times=(0, 0))
    there = []
    handle = miniature.unet.register_forward_pre_hook(lambda *_: there.append(path.is_file()))
    again = subject_grams(miniature, adapter, two_dogs.subjects[0], steps=2)
    handle.remove()
    assert all(there), "the broken file is gone, which another process may have opened"
    assert there
    assert not left.exists()
    assert all(torch.equal(again.sums[key], value) for key, value in before.items())
    other = replace(two_dogs.subjects[0], class_noun="cat")
    subject_grams(miniature, adapter, other, steps=2)
    assert len(list((tmp_path / "a.grams").iterdir())) == 2


def test_the_text_gram_is_that_of_the_counted_tokens(miniature, tmp_path, two_dogs):
    """X^T X of the states that the text encoders give for both prompts, start mark and padding left out; pictures of two steps
    have 2 x 36 positions at each attention."""
    adapter = single(miniature, tmp_path / "a", 1, words=["olis"])
    grams = subject_grams(miniature, adapter, two_dogs.subjects[0], steps=2)
    adapters.put_on(miniature, adapter)
    prompts = ["photo of a olis pink dog", "olis pink dog"]
    with torch.no_grad():
        states = encode_prompts(miniature, prompts).states
    rows = torch.cat([states[0, 1:8], states[1, 1:5]]).double()
    torch.testing.assert_close(grams.sums["text.112"], rows.T @ rows)
    assert grams.rows["text.112"] == 11
    assert max(grams.rows.values()) == 2 * 36


def test_which_tokens_count(miniature):
    """ "photo of a olis pink dog" has its six words at 1 to 6 and the end mark at 7; the phrase is the last three."""
    texts = ["photo of a olis pink dog", "olis pink dog"]
    marked = {kind: counted(miniature, texts, "olis pink dog", kind).nonzero().tolist() for kind in ("concept", "real")}
    assert marked["concept"] == [[0, 4], [0, 5], [0, 6], [0, 7], [1, 1], [1, 2], [1, 3], [1, 4]]
    assert marked["real"] == [*([0, i] for i in range(1, 8)), *([1, i] for i in range(1, 5))]
    assert counted(miniature, texts, "olis pink dog", "all").all()


def test_token_rows_of_all_subjects_are_in_the_merge(miniature, tmp_path, two_dogs):
    pair = [single(miniature, tmp_path / "a", 1, words=["olis"]), single(miniature, tmp_path / "b", 2, words=["hta"])]
    merged = merged_adapter(miniature, pair, two_dogs, tmp_path / "sum", Sum(), FACTS)
    rows, own = adapters.stored_rows(merged), [adapters.stored_rows(adapter) for adapter in pair]
    assert list(rows) == ["hta", "olis"]
    for encoder in ("clip_l", "clip_g"):
        assert torch.equal(rows["olis"][encoder], own[0]["olis"][encoder])
        assert torch.equal(rows["hta"][encoder], own[1]["hta"][encoder])


def test_a_word_that_two_subjects_trained_is_refused(miniature, tmp_path, two_dogs):
    pair = [single(miniature, tmp_path / name, seed, words=["olis"]) for name, seed in (("a", 1), ("b", 2))]
    with pytest.raises(ValueError, match="trains the word 'olis' as another subject does"):
        merged_adapter(miniature, pair, two_dogs, tmp_path / "sum", Sum(), FACTS)


@pytest.mark.parametrize(
    ("settings", "facts", "said"),
    [
        (None, {"weights": "0123"}, "fitted on 'miniature' with weights '0123' and the merge is for 'miniature' with"),
        (None, {"precision": "float16"}, "precision 'float16' and the merge is for 'miniature' with 'float32'"),
        (None, {"precision": None}, "precision None"),
        (LoraSettings(rank=3, alpha=6, targets=TARGETS), None, "its LoRA sits on attn2.to_k, attn2.to_v and that of"),
    ],
)
def test_adapters_of_different_bases_are_refused(miniature, tmp_path, two_dogs, settings, facts, said):
    facts = None if facts is None else adapters.base_facts(miniature) | facts
    pair = [single(miniature, tmp_path / "a", 1), single(miniature, tmp_path / "b", 2, settings, facts=facts)]
    with pytest.raises(ValueError, match=said):
        merged_adapter(miniature, pair, two_dogs, tmp_path / "sum", Sum(), FACTS)
    assert not (tmp_path / "sum").exists()


def test_the_constrained_merge_answers_each_subject_as_its_own_fit_and_is_exactly_low_rank(miniature, tmp_path, two_dogs):
    """Custom Diffusion, eq. 4: W c = W_i c for the states c of each subject's words, to float32's rounding, though W is a LoRA."""
    settings = LoraSettings(rank=3, alpha=3, targets=TARGETS)
    pair = [single(miniature, tmp_path / n, s, settings, [w], 0.3) for n, s, w in (("a", 1, "olis"), ("b", 2, "hta"))]
    own = [weights_of(miniature, adapter) for adapter in pair]
    states = [concept_states(miniature, *one) for one in zip(pair, two_dogs.subjects)]
    merged = constrained_adapter(miniature, pair, two_dogs, tmp_path / "c", Constrained(), FACTS)
    fused = weights_of(miniature, merged)
    assert adapter_folder.read_manifest(merged.path)["lora"]["rank"] == sum(map(len, states)) == 16
    for layer, weight in fused.items():
        for of_subject, rows in zip(own, states):
            torch.testing.assert_close(rows @ weight.T, rows @ of_subject[layer].T, atol=2e-4, rtol=1e-3)


class CholeskySizes(TorchDispatchMode):
    """The widths of all matrices that are factored while it is open."""

    def __init__(self):
        super().__init__()
        self.widths = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.linalg_cholesky_ex.default:
            self.widths.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def test_the_neutral_captions_are_factored_once_for_all_layers(miniature, tmp_path, two_dogs):
    """The miniature has eight layers of width 112 and, for two subjects of two prompts with four tokens each, 16 constraints."""
    settings = LoraSettings(rank=3, alpha=3, targets=TARGETS)
    pair = [single(miniature, tmp_path / name, seed, settings) for name, seed in (("a", 1), ("b", 2))]
    with CholeskySizes() as factored:
        merged = constrained_adapter(miniature, pair, two_dogs, tmp_path / "c", Constrained(), FACTS)
    assert len(weights_of(miniature, merged)) == 8
    assert sorted(factored.widths) == [16, 112]


def test_a_merge_elsewhere_than_on_keys_and_values_has_no_constrained_form(miniature, tmp_path, two_dogs):
    pair = [single(miniature, tmp_path / name, 1) for name in ("a", "b")]
    with pytest.raises(ValueError, match="keys and values of cross-attention"):
        constrained_adapter(miniature, pair, two_dogs, tmp_path / "c", Constrained(), FACTS)


def test_an_adapter_from_before_merging_is_refused_in_one_line(miniature, tmp_path, two_dogs):
    """Its manifest says nothing of the precision, and nothing is assumed."""
    noisy_adapter(miniature)
    old = stored(miniature, tmp_path / "old")
    assert "precision" not in json.loads((old.path / adapter_folder.MANIFEST).read_text())
    with pytest.raises(ValueError, match=r"^[^\n]*fitted on None with weights None[^\n]*$"):
        merged_adapter(miniature, [old, old], two_dogs, tmp_path / "sum", Sum(), FACTS)
