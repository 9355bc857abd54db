"""LoRA on the UNet: storage that diffusers reads back, and damage that is noticed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mudi import adapter_folder, adapters
from mudi.adapter_folder import Origin
from mudi.model_facts import file_sha256
from mudi.options import LoraSettings
from tests.mudi.test_diffusion import pipeline_of

SETTINGS = LoraSettings(rank=4, alpha=8)


def noisy_adapter(backbone, seed=0):
    """An adapter whose B matrices are not zero, as after training."""
    adapters.attach(backbone.unet, SETTINGS, seed)
    source = torch.Generator().manual_seed(seed)
    for parameter in adapters.parameters(backbone.unet):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=source)


def prediction(backbone):
    """The UNet's answer in its own number format."""
    dtype, source = backbone.unet.dtype, torch.Generator().manual_seed(9)
    added = {"text_embeds": torch.ones(1, 64, dtype=dtype), "time_ids": torch.full((1, 6), 48.0, dtype=dtype)}
    noisy = torch.randn(1, 8, 12, 12, generator=source).to(dtype)
    with torch.no_grad():
        return backbone.unet(noisy, 500, torch.ones(1, 40, 112, dtype=dtype), added_cond_kwargs=added).sample


def stored(backbone, folder):
    return adapters.save(backbone, folder, SETTINGS, Origin(method="mudi", combination="two"))


def test_a_fresh_adapter_changes_nothing(miniature):
    """B starts at zero, so the product B A is zero."""
    before = prediction(miniature)
    adapters.attach(miniature.unet, SETTINGS, 0)
    assert torch.equal(prediction(miniature), before)


def test_stored_and_loaded_predictions_agree(miniature, tmp_path):
    noisy_adapter(miniature)
    before = prediction(miniature)
    adapter = stored(miniature, tmp_path / "a")
    adapters.detach_all(miniature.unet)
    adapters.load(miniature.unet, adapter)
    assert torch.equal(prediction(miniature), before)
    assert adapter_folder.find(tmp_path / "a") == adapter


def test_equal_adapters_have_equal_bytes(miniature, tmp_path):
    """The sha256 names an adapter in every candidate's key, so it must follow from the matrices alone."""
    noisy_adapter(miniature)
    assert len({stored(miniature, tmp_path / str(i)).sha256 for i in range(8)}) == 1


def test_diffusers_reads_the_file_with_the_same_effect(double, tmp_path):
    """`load_lora_weights` on the bare pipeline, alpha 8 over rank 4 included, equals our adapter; in float64, matrices too."""
    bare = prediction(double)
    noisy_adapter(double)
    double.unet.double()
    ours = prediction(double)
    stored(double, tmp_path / "a")
    adapters.detach_all(double.unet)
    pipeline_of(double).load_lora_weights(tmp_path / "a")
    double.unet.double()
    assert not torch.allclose(ours, bare, atol=1e-3)
    torch.testing.assert_close(prediction(double), ours, rtol=1e-12, atol=1e-12)


def test_without_an_adapter_the_base_model_speaks(miniature):
    bare = prediction(miniature)
    noisy_adapter(miniature)
    adapters.activate(miniature.unet, None)
    assert torch.equal(prediction(miniature), bare)


def test_only_the_trained_adapter_requires_gradients(miniature):
    """Two adapters on one UNet: activating the trained one leaves reference and base frozen."""
    adapters.attach(miniature.unet, SETTINGS, 0, adapters.REFERENCE)
    adapters.attach(miniature.unet, SETTINGS, 0, adapters.TRAINED)
    adapters.activate(miniature.unet, adapters.TRAINED)
    trainable = {id(p) for p in miniature.unet.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapters.parameters(miniature.unet)}


def test_initial_matrices_come_from_the_seed_alone(miniature):
    torch.manual_seed(1)
    adapters.attach(miniature.unet, SETTINGS, 3)
    first = [p.clone() for p in adapters.parameters(miniature.unet)]
    torch.manual_seed(2)
    adapters.attach(miniature.unet, SETTINGS, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, adapters.parameters(miniature.unet), strict=True))


def corrupt(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [corrupt, cut])
def test_damaged_weights_are_refused_and_not_found(miniature, tmp_path, damage):
    """One flipped bit loads silently in safetensors; the sha256 tells."""
    noisy_adapter(miniature)
    adapter = stored(miniature, tmp_path / "a")
    damage(tmp_path / "a" / adapter_folder.WEIGHTS)
    assert adapter_folder.find(tmp_path / "a") is None
    with pytest.raises(ValueError, match="sha256"):
        adapters.load(miniature.unet, adapter)


def test_an_adapter_of_another_model_is_refused(miniature, tmp_path):
    """Keys that do not match exactly would leave a LoRA that loads but does nothing."""
    noisy_adapter(miniature)
    adapter = stored(miniature, tmp_path / "a")
    weights = tmp_path / "a" / adapter_folder.WEIGHTS
    save_file({key.replace("mid_block", "other"): value for key, value in load_file(weights).items()}, weights)
    manifest = json.loads((tmp_path / "a" / adapter_folder.MANIFEST).read_text())
    manifest["sha256"] = file_sha256(weights)
    (tmp_path / "a" / adapter_folder.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="do not match this UNet"):
        adapters.load(miniature.unet, adapter_folder.find(tmp_path / "a"))
    del adapter


def test_values_that_are_not_finite_are_never_stored(miniature, tmp_path):
    noisy_adapter(miniature)
    adapters.parameters(miniature.unet)[0].data.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        stored(miniature, tmp_path / "a")
    assert not (tmp_path / "a").exists()
