"""Gram matrices that are summed while a UNet runs, held against the inputs themselves."""

import os
import time

import pytest
import torch

from mudi import adapters
from mudi.checkpoints.random_weights import empty_unet
from mudi.merging import grams
from mudi.merging.grams import attention_layers, collecting, gram_bytes
from mudi.options import LoraSettings

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
TOKENS = 10


def batch(rows, seed=0, dtype=torch.float32):
    source = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(rows, 8, 6, 6, generator=source).to(dtype),
        "timestep": torch.randint(1000, (rows,), generator=source),
        "encoder_hidden_states": torch.randn(rows, TOKENS, 112, generator=source).to(dtype),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(rows, 64, generator=source).to(dtype),
            "time_ids": torch.full((rows, 6), 48.0, dtype=dtype),
        },
    }


def part(of, rows):
    return {key: part(value, rows) if isinstance(value, dict) else value[rows] for key, value in of.items()}


@torch.no_grad()
def collected(unet, *batches, layers=None, **options):
    with collecting(unet, layers or attention_layers(unet), **options) as found:
        for one in batches:
            unet(**one)
    return found


@torch.no_grad()
def inputs_of(unet, one):
    """The rows (n, in) that every attention layer was given."""
    seen, handles = {}, []
    for name in attention_layers(unet):
        hook = lambda _, given, name=name: seen.update({name: given[0].flatten(0, -2).double()})  # noqa: E731
        handles.append(unet.get_submodule(name).register_forward_pre_hook(hook))
    unet(**one)
    for handle in handles:
        handle.remove()
    return seen


def close(ours, expected, tolerance=1e-5):
    """To float32's rounding, 2**-24 = 6e-8, of the largest entry for each product of its sum: up to 144 pixels, so 1e-5."""
    torch.testing.assert_close(ours.double(), expected.double(), rtol=tolerance, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_gram_is_that_of_the_inputs_themselves(double, with_adapter):
    """For all 32 layers, bare and under an adapter's wrapper: X^T X / n of X as the layer saw it. Afterwards no hook is left."""
    unet = double.unet
    if with_adapter:
        adapters.attach(unet, LoraSettings(rank=2, alpha=2), 0)
    one = batch(3, dtype=torch.float64)
    found, seen = collected(unet, one), inputs_of(unet, one)
    assert len(found.keys) == len(seen) == 32
    for layer, rows in seen.items():
        close(found.mean(layer), rows.T @ rows / len(rows))
    assert not any(module._forward_pre_hooks for module in unet.modules())


def test_layers_fed_the_same_rows_share_one_gram(miniature):
    """Four blocks: q, k, v of a self-attention are one, and so are k and v of all four cross-attentions; the other three of a block
    stand alone. 4 x 4 + 1 = 17, each summed once a pass: 2 x 10 tokens, 2 x 9 pixels in the middle."""
    found = collected(miniature.unet, batch(2))
    assert len(found.sums) == 17
    assert {found.key(f"{BLOCK}.attn1.{part}") for part in ("to_q", "to_k", "to_v")} == {f"{BLOCK}.attn1.qkv"}
    assert {key for layer, key in found.keys.items() if "attn2.to_k" in layer or "attn2.to_v" in layer} == {"text.112"}
    assert found.rows["text.112"] == 2 * TOKENS
    assert found.rows[f"{BLOCK}.attn1.qkv"] == found.rows[f"{BLOCK}.attn2.to_out.0"] == 2 * 9


def test_batches_and_their_order_do_not_matter(double):
    """One batch of 4, its halves, its halves the other way round, and halves in two turns: the same sums and counts."""
    whole, unet = batch(4, dtype=torch.float64), double.unet
    first, second = part(whole, slice(0, 2)), part(whole, slice(2, 4))
    together = collected(unet, whole)
    continued = collected(unet, second, into=collected(unet, first))
    for other in (collected(unet, first, second), collected(unet, second, first), continued):
        assert other.rows == together.rows
        for key, value in together.sums.items():
            close(other.sums[key], value)


def test_masked_tokens_count_in_text_grams_alone(miniature):
    """Tokens 1 to 4 of the first prompt and 1 to 2 of the second: six rows; pixels are all counted."""
    one, mask = batch(2), torch.zeros(2, TOKENS, dtype=torch.bool)
    mask[0, 1:5] = mask[1, 1:3] = True
    masked, whole = collected(miniature.unet, one, text_mask=mask), collected(miniature.unet, one)
    rows = one["encoder_hidden_states"][mask].double()
    close(masked.mean(f"{BLOCK}.attn2.to_v"), rows.T @ rows / 6)
    assert masked.rows["text.112"] == 6
    assert torch.equal(masked.mean(f"{BLOCK}.attn2.to_q"), whole.mean(f"{BLOCK}.attn2.to_q"))


def test_collecting_does_not_change_the_prediction(miniature):
    unet = miniature.unet
    with torch.no_grad():
        bare = unet(**batch(1)).sample
        with collecting(unet, attention_layers(unet)):
            assert torch.equal(unet(**batch(1)).sample, bare)


def test_some_layers_alone_are_collected(miniature):
    """A LoRA on keys and values needs two kinds of Grams: those of self-attention and of the text."""
    layers = attention_layers(miniature.unet, ("to_k", "to_v"))
    found = collected(miniature.unet, batch(1), layers=layers)
    assert len(layers) == 16
    assert len(found.sums) == 5
    with pytest.raises(ValueError, match="no Gram of layer"):
        found.mean(f"{BLOCK}.attn2.to_q")


def test_stored_and_loaded_grams_are_equal(miniature, tmp_path):
    found = collected(miniature.unet, batch(1))
    for name in ("a", "b"):
        grams.save(found, tmp_path / name)
    loaded = grams.load(tmp_path / "a")
    assert (loaded.rows, loaded.keys) == (found.rows, found.keys)
    assert all(torch.equal(loaded.sums[key], value) for key, value in found.sums.items())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_part_of_another_nodes_process_with_the_same_number_is_left_alone(miniature, tmp_path):
    part = tmp_path / f".a.{os.getpid()}.part"
    part.write_bytes(b"half of it")
    grams.save(collected(miniature.unet, batch(1)), tmp_path / "a")
    assert part.read_bytes() == b"half of it"
    assert sorted(path.name for path in tmp_path.iterdir()) == [part.name, "a"]


def test_a_part_goes_when_it_cannot_be_finished(miniature, tmp_path):
    """A folder stands where the file should be, which no file can be renamed over."""
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="irectory"):
        grams.save(collected(miniature.unet, batch(1)), tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_parts_that_nobody_wrote_to_for_a_day_are_cleared(tmp_path):
    """Of parts last written 25 and 23 hours ago and now, the first goes; a whole file stays, however old."""
    ages = {".a.0.part": 25, ".a.1.part": 23, ".b.0.part": 0, "a": 25}
    for name, hours in ages.items():
        (tmp_path / name).write_bytes(b"1")
        os.utime(tmp_path / name, times=(time.time() - 3600 * hours,) * 2)
    grams.clear_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.1.part", ".b.0.part", "a"]
    grams.clear_parts(tmp_path / "none")


def test_a_cut_file_is_refused(miniature, tmp_path):
    path = tmp_path / "grams"
    grams.save(collected(miniature.unet, batch(1)), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a complete file of Grams"):
        grams.load(path)


def test_sdxl_needs_1_67_gigabytes_a_concept(miniature):
    """Per block of width w four float32 matrices of w^2, 10 blocks of 640 and 60 of 1280, and one of 2048^2 in float64:
    16 (10 x 409,600 + 60 x 1,638,400) + 8 x 4,194,304 = 1,671,954,432. The miniature's: what its collected Grams take."""
    assert gram_bytes(empty_unet()) == 1_671_954_432
    taken = sum(value.nbytes for value in collected(miniature.unet, batch(1)).sums.values())
    assert gram_bytes(miniature.unet) == taken


def test_what_cannot_be_collected_is_said(miniature):
    unet, layers = miniature.unet, attention_layers(miniature.unet)
    with pytest.raises(ValueError, match="no linear layer"):
        collected(unet, layers=[*layers, "conv_in"])
    with pytest.raises(ValueError, match="give one entry a token"):
        collected(unet, batch(2), text_mask=torch.ones(1, TOKENS, dtype=torch.bool))
    with pytest.raises(ValueError, match="give bool"):
        collected(unet, batch(1), text_mask=torch.ones(1, TOKENS))
    with pytest.raises(ValueError, match="has no rows"):
        collected(unet).mean(layers[0])
