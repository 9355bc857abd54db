"""Sizes of adapters from settings alone: against a hand count, and against files that were written."""

from dataclasses import replace
from pathlib import Path

import pytest

from mudi import adapter_folder, adapters
from mudi.adapter_folder import Origin
from mudi.adapter_size import (
    FLOAT32,
    checkpoint_bytes,
    gram_bytes,
    lora_shapes,
    parameters,
    payload_bytes,
    published,
    read_architecture,
    row_shapes,
)
from mudi.checkpoints.full_sizes import FAMILIES, SDXL
from mudi.checkpoints.random_weights import empty_unet
from mudi.fit import CHECKPOINTS_KEPT, FitSettings
from mudi.merging import grams
from mudi.methods.custom_diffusion import TARGETS
from mudi.model_facts import MINIATURE
from mudi.options import LoraSettings
from mudi.text import tokens


def test_a_rank_32_attention_lora_of_sdxl_has_46_million_parameters():
    """r (in + out): a block of width w has 14 w + 4096 over both attentions (test_random_weights); 10 blocks have w = 640, 60 have 1280:
    32 (10 x 13,056 + 60 x 22,016) = 46,448,640, in 70 blocks x 8 layers x 2 = 1120 matrices. 185,794,560 bytes of numbers."""
    shapes = lora_shapes(SDXL["unet"], LoraSettings())
    assert (parameters(shapes), len(shapes)) == (46_448_640, 1120)


def test_keys_and_values_alone_are_counted_alone():
    """Custom Diffusion at rank 128: 2 r (2048 + w) a block: 256 (10 x 2688 + 60 x 3328) = 57,999,360."""
    assert parameters(lora_shapes(SDXL["unet"], LoraSettings(rank=128, alpha=128, targets=TARGETS))) == 57_999_360


@pytest.mark.parametrize("targets", [LoraSettings().targets, TARGETS, ("to_q",)])
def test_grams_from_settings_alone_are_as_large_as_those_of_the_network(miniature, targets):
    """Every published family with its layers on the meta device, and the miniature; SDXL's are worked out in test_grams."""
    for family, parts in FAMILIES.items():
        assert gram_bytes(parts["unet"], targets) == grams.gram_bytes(empty_unet(family), targets)
    assert gram_bytes(read_architecture(MINIATURE).unet, targets) == grams.gram_bytes(miniature.unet, targets) > 0
    assert gram_bytes(SDXL["unet"], LoraSettings().targets) == 1_671_954_432


def test_checkpoints_are_counted_as_a_fit_writes_them():
    """None before the first interval is over, since the last step writes none; then one more each, and at most one above those kept."""
    every, one = FitSettings.checkpoint_every, 3 * FLOAT32 * 10
    assert [checkpoint_bytes(10, steps) // one for steps in (1, every, every + 1, 2 * every + 1)] == [0, 0, 1, 2]
    assert checkpoint_bytes(10, 100 * every) == (CHECKPOINTS_KEPT + 1) * one


def test_a_backbone_that_is_not_here_is_taken_for_sdxl_and_says_so():
    missing = read_architecture(Path("weights/none"))
    assert (missing.side, missing.row_widths, missing.assumed) == (1024, {"clip_l": 768, "clip_g": 1280}, True)
    assert not published("sdxl").assumed


def test_a_family_with_one_encoder_has_one_row_a_word():
    """Stable Diffusion 2.1 at 96 x 8 = 768 pixels: one row of 1024, called clip."""
    published_21 = published("sd21")
    assert (published_21.side, row_shapes(published_21, ["olis"])) == (768, {"olis.clip": (1024,)})


@pytest.mark.parametrize("targets", [LoraSettings().targets, TARGETS])
def test_saved_files_have_the_numbers_that_were_predicted_and_little_else(miniature, two_dogs, tmp_path, targets):
    """A LoRA with two token rows on the miniature: the numbers exactly, and of the file's bytes all but
    2 %, its names; at rank 64, since names weigh as much at any."""
    lora = replace(LoraSettings(rank=64, alpha=64), targets=targets)
    adapters.attach(miniature.unet, lora, seed=0)
    words = [subject.identifier for subject in two_dogs.subjects]
    tokens.attach_rows(miniature, {word: word for word in words})
    stored = adapters.save(
        miniature, tmp_path / "a", lora, Origin(method="mudi", combination="c"), identifiers=words
    )  # fmt: skip
    architecture = read_architecture(MINIATURE)
    assert (architecture.side, architecture.assumed) == (miniature.resolution, False)
    shapes, rows = lora_shapes(architecture.unet, lora), row_shapes(architecture, words)
    trained = [*adapters.parameters(miniature.unet), *tokens.row_parameters(miniature)]
    assert parameters(shapes) + parameters(rows) == sum(p.numel() for p in trained)
    assert payload_bytes(stored.path) == FLOAT32 * (parameters(shapes) + parameters(rows))
    assert (stored.path / adapter_folder.WEIGHTS).stat().st_size == pytest.approx(FLOAT32 * parameters(shapes), rel=0.02)
