"""Whole LoRAs merged into one: against diffusers' own sum, exact and inexact merges of peft, fusion from collected Grams."""

import pytest
import torch

from mudi import adapters
from mudi.fusion import fuse_deltas
from mudi.merging.loras import merge_fusion, merge_peft, merge_sum
from mudi.options import LoraSettings
from tests.mudi.merging.test_grams import batch, close, collected
from tests.mudi.test_fusion import fusion_error

WIDTHS = {"block.attn1.to_q": (12, 10), "block.attn2.to_k": (12, 6), "block.attn2.to_out.0": (9, 12)}  # (out, in)
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def lora(seed, rank=3, widths=WIDTHS):
    """A state in float64, which merging keeps, so that what is exact is so to 1e-12."""
    source = torch.Generator().manual_seed(seed)
    state = {}
    for layer, (out, width) in widths.items():
        state[layer + DOWN] = torch.randn(rank, width, generator=source).double()
        state[layer + UP] = torch.randn(out, rank, generator=source).double()
    return state


def updates(state):
    """The update (out, in) of every layer."""
    return {key.removesuffix(UP): value @ state[key.removesuffix(UP) + DOWN] for key, value in state.items() if key.endswith(UP)}


def added(states, weights):
    return {layer: sum(w * updates(state)[layer] for w, state in zip(weights, states)) for layer in updates(states[0])}


def distance(state, expected):
    """The relative distance of a state's updates from given ones, over all layers."""
    ours = updates(state)
    return (sum((ours[k] - v).square().sum() for k, v in expected.items()) / sum(v.square().sum() for v in expected.values())).sqrt()


def stored_lora(unet, seed, rank=4):
    """What `adapters.save` would store of an adapter whose B is not zero, on the UNet's own layers."""
    from peft import get_peft_model_state_dict

    adapters.attach(unet, LoraSettings(rank=rank, alpha=rank), seed, f"of_{seed}")
    source = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters(unet, f"of_{seed}"):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=source)
    return {key: value.clone() for key, value in get_peft_model_state_dict(unet, adapter_name=f"of_{seed}").items()}


@torch.no_grad()
def test_the_sum_draws_what_diffusers_draws_with_both_adapters(double):
    """`set_adapters` runs two LoRAs beside each other with weights 0.7 and -1.2; the merged one, of rank 4 + 6, is the same model,
    in float64 but for its matrices, which are rounded to float32 (6e-8) when they are weighed."""
    from peft import set_peft_model_state_dict

    unet, one = double.unet, batch(2, dtype=torch.float64)
    bare = unet(**one).sample
    states = [stored_lora(unet, 1, 4), stored_lora(unet, 2, 6)]
    unet.double().set_adapters(["of_1", "of_2"], [0.7, -1.2])
    both = unet(**one).sample
    merged = merge_sum(states, [0.7, -1.2])
    adapters.detach_all(unet)
    adapters.attach(unet, LoraSettings(rank=10, alpha=10), 0)
    set_peft_model_state_dict(unet, merged, adapter_name=adapters.TRAINED)
    torch.testing.assert_close(unet.double()(**one).sample, both, rtol=1e-6, atol=1e-6)
    assert (both - bare).abs().max() > 0.1


def test_the_sum_is_exact_in_any_order():
    states, weights = [lora(0, 2), lora(1, 5), lora(2, 1)], [1.0, -0.5, 2.0]
    assert distance(merge_sum(states, weights), added(states, weights)) < 1e-12
    assert distance(merge_sum(states[::-1], weights[::-1]), added(states, weights)) < 1e-12


def test_peft_at_full_rank_is_exact_and_below_it_the_best():
    """svd at the default 2 + 3 is the sum; at rank 2 the distance is what Eckart and Young leave: the other singular values."""
    states, weights = [lora(0, 2), lora(1, 3)], [1.0, 0.5]
    total = added(states, weights)
    assert distance(merge_peft(states, weights, "svd"), total) < 1e-12
    left = sum(torch.linalg.svdvals(v)[2:].square().sum() for v in total.values()) / sum(v.square().sum() for v in total.values())
    assert distance(merge_peft(states, weights, "svd", rank=2), total) == pytest.approx(float(left.sqrt()), rel=1e-12)


def test_rank_beyond_a_layer_is_filled_with_zero_rows():
    """Two LoRAs of rank 4 on a layer of width 6: peft has 6 singular vectors for 8 rows, and one adapter has one rank."""
    states = [lora(0, 4), lora(1, 4)]
    merged = merge_peft(states, kind="svd")
    assert {len(value) for key, value in merged.items() if key.endswith(DOWN)} == {8}
    assert distance(merged, added(states, (1, 1))) < 1e-12


def trimmed(update):
    """The larger half of the entries, in magnitude."""
    return torch.where(update.abs() >= update.abs().flatten().sort(descending=True).values[update.numel() // 2 - 1], update, 0.0)


def test_ties_follows_its_three_steps():
    """Trim each update to its larger half, elect the sign of the sum, average what agrees: written out here. Rank 9 is full for 9 x 10."""
    widths = {"layer": (9, 10)}
    states = [lora(seed, 9, widths) for seed in (0, 1)]
    stacked = torch.stack([trimmed(updates(state)["layer"]) for state in states])
    agrees = stacked.sign() == torch.where(stacked.sum(0) >= 0, 1, -1)
    expected = (stacked * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    close(updates(merge_peft(states, kind="ties_svd"))["layer"], expected, 1e-12)


def test_dare_depends_on_its_seed_alone():
    """The same seed drops the same entries whatever was drawn before, and leaves the caller's numbers alone; another seed does not."""
    states = [lora(0), lora(1)]
    torch.manual_seed(5)
    first = merge_peft(states, kind="dare_linear_svd", seed=3)
    after = torch.rand(1)
    second = merge_peft(states, kind="dare_linear_svd", seed=3)
    other = merge_peft(states, kind="dare_linear_svd", seed=4)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert distance(other, updates(first)) > 0.1
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


def test_dare_doubles_what_it_keeps():
    """At density 0.5 every entry of one update is 0 or twice itself; the other has weight 0. Full rank, so nothing is lost."""
    states = [lora(seed, 9, {"layer": (9, 10)}) for seed in (0, 1)]
    ratio = updates(merge_peft(states, [1, 0], "dare_linear_svd", seed=0))["layer"] / updates(states[0])["layer"]
    assert ((ratio.abs() < 1e-2) | ((ratio - 2).abs() < 1e-2)).all()
    assert 0.2 < (ratio > 1).double().mean() < 0.8


@pytest.fixture
def concepts(miniature):
    """Two LoRAs of the miniature's UNet and the Grams of two different batches, each drawn with its own LoRA."""
    unet = miniature.unet
    states = [stored_lora(unet, 1, 4), stored_lora(unet, 2, 6)]
    found = []
    for seed in (1, 2):
        adapters.activate(unet, f"of_{seed}")
        found.append(collected(unet, batch(1, seed)))
    return states, found


def test_fusion_of_loras_is_fusion_of_every_layer(concepts):
    """Against the dense closed form from the same Grams; the reported errors are those of the merged update. The rank is 4 + 6."""
    states, found = concepts
    merged, errors = merge_fusion(states, found, [1.0, 0.8], ridge=1e-4)
    assert {len(value) for key, value in merged.items() if key.endswith(DOWN)} == {10}
    for layer, update in updates(merged).items():
        grams, deltas = [of.mean(layer) for of in found], [updates(state)[layer] for state in states]
        close(update, fuse_deltas(deltas, grams, [1.0, 0.8], ridge=1e-4), 1e-4)
        assert errors[layer] == pytest.approx(fusion_error(update, deltas, grams, [1.0, 0.8]), rel=1e-3, abs=1e-4)


def test_fusion_answers_each_concept_better_than_the_sum(concepts):
    """The two errors weighed by each concept's energy are what fusion minimises; the sum of the updates is one of its candidates."""
    states, found = concepts
    merged, _ = merge_fusion(states, found)
    summed = updates(merge_sum(states))

    def objective(fused):
        total = 0.0
        for layer, update in fused.items():
            for state, of in zip(states, found):
                rest = (update - updates(state)[layer]).double()
                total += ((rest @ of.mean(layer).double()) * rest).sum()
        return total

    assert objective(updates(merged)) < 0.5 * objective(summed)


def test_fusion_reads_the_layer_names_that_adapters_store(concepts):
    """In files every layer is under "unet."; Grams name it as the UNet does."""
    states, found = concepts
    stored = [{f"unet.{key}": value for key, value in state.items()} for state in states]
    plain, under = merge_fusion(states, found)[0], merge_fusion(stored, found)[0]
    assert {f"unet.{key}" for key in plain} == set(under)
    assert all(torch.equal(under[f"unet.{key}"], value) for key, value in plain.items())


def test_a_prior_shrinks_what_neutral_inputs_would_see(concepts):
    """With the first concept's inputs as neutral ones at a weight of 1e6, next to nothing of the update reaches them."""
    states, found = concepts

    def reach(fused):
        return sum(((update.double() @ found[0].mean(layer).double()) * update).sum() for layer, update in updates(fused).items())

    free, held = merge_fusion(states, found)[0], merge_fusion(states, found, prior=found[0], prior_weight=1e6)[0]
    assert reach(held) < 1e-4 * reach(free)


WIDER = {**WIDTHS, "block.attn2.to_k": (12, 7)}
FEWER = {layer: WIDTHS[layer] for layer in list(WIDTHS)[1:]}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: merge_sum([lora(0), lora(1, widths=FEWER)]), r"only 0 has block.attn1.to_q.lora_A"),
        (lambda: merge_sum([lora(0), lora(1, widths=WIDER)]), r"block.attn2.to_k: A and B have shapes"),
        (lambda: merge_sum([lora(0), lora(1)], [1.0]), "finite weight for each"),
        (lambda: merge_sum([{**lora(0), "block.alpha": torch.ones(1)}]), "no matrix of a LoRA"),
        (lambda: merge_peft([lora(0), lora(1)], kind="cat"), "use one of svd"),
        (lambda: merge_peft([lora(0)], kind="svd"), "two or more"),
        (lambda: merge_peft([lora(0), lora(1)], kind="dare_linear_svd"), "give a seed"),
        (lambda: merge_peft([lora(0), lora(1)], kind="ties_svd", density=0), "density is 0"),
        (lambda: merge_fusion([lora(0)], []), "1 adapters and 0 Grams"),
    ],
)  # fmt: skip
def test_what_cannot_be_merged_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
