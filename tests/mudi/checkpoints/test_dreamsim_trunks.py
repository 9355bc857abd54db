"""DreamSim from a folder equals the published package, in features, embedding and merged LoRA."""

import numpy as np
import peft
import pytest
import torch
from double import in_double
from dreamsim.config import dreamsim_args
from dreamsim.feature_extraction.extractor import ViTExtractor
from dreamsim.feature_extraction.load_clip_as_dino import QuickGELU
from dreamsim.feature_extraction.vision_transformer import vit_base
from dreamsim.model import PerceptualModel

from mudi.checkpoints.dreamsim_download import convert_ensemble
from mudi.checkpoints.dreamsim_trunks import read_dreamsim, save_dreamsim
from mudi.checkpoints.weights_folder import CONFIG
from mudi.miniature import architectures
from mudi.miniature.world import SIZE


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return architectures.dreamsim().eval()


@pytest.fixture
def tiny_in_double(tiny):
    return in_double(tiny)


def test_the_dino_feature_is_that_of_the_published_extractor(tiny_in_double, monkeypatch):
    """The package hooks the last block and takes the class token there, before the final norm; both in float64."""
    trunk, images = tiny_in_double.trunks[0], torch.rand(3, 3, SIZE, SIZE, dtype=torch.float64)
    vit = trunk.vit
    monkeypatch.setattr(ViTExtractor, "create_model", lambda *_: vit)
    extractor = ViTExtractor("dino_vits8", vit.patch_embed.patch_size, device="cpu")
    normalised = (images - trunk.mean) / trunk.std
    with torch.no_grad():
        expected = extractor.extract_descriptors(normalised, len(vit.blocks) - 1)[:, 0, 0, 0]
        torch.testing.assert_close(trunk(images), expected, atol=1e-12, rtol=1e-12)


def test_an_embedding_has_mean_zero_and_length_one_and_keeps_its_batch_axis(tiny_in_double):
    with torch.no_grad():
        rows = tiny_in_double(torch.rand(1, 3, SIZE, SIZE))
    assert rows.shape == (1, tiny_in_double.width)
    assert rows.sum().item() == pytest.approx(0.0, abs=1e-12)
    assert rows.norm().item() == pytest.approx(1.0, abs=1e-12)


def test_a_saved_model_reads_back_the_same(tiny, tmp_path):
    save_dreamsim(tmp_path, tiny)
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(read_dreamsim(tmp_path).eval()(images), tiny(images))


def test_weights_saved_in_half_precision_are_read_as_their_rounding(tiny, tmp_path):
    save_dreamsim(tmp_path, tiny, torch.float16)
    for name, weight in read_dreamsim(tmp_path).state_dict().items():
        assert torch.equal(weight, tiny.state_dict()[name].half().float())


def test_a_config_that_describes_no_dreamsim_is_refused(tiny, tmp_path):
    save_dreamsim(tmp_path, tiny)
    text = (tmp_path / CONFIG).read_text()
    for wrong in (text.replace("image_size", "size"), text.replace("heads", "hats"), text.replace('"gelu"', '"tanh"')):
        (tmp_path / CONFIG).write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.json does not describe a DreamSim|activation 'tanh' is unknown"):
            read_dreamsim(tmp_path)


def published_trunks():
    """The ensemble's three transformers as the package builds them, with seeded random weights and CLIP's projections."""
    torch.manual_seed(1)
    trunks = {"dino_vitb16": vit_base(), "clip_vitb16": vit_base(), "open_clip_vitb16": vit_base()}
    projections = {name: torch.randn(768, 512) / 768**0.5 for name in ("clip_vitb16", "open_clip_vitb16")}
    for name in projections:
        trunks[name].pos_drop = torch.nn.LayerNorm(768)
        for module in trunks[name].modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5
    for block in trunks["clip_vitb16"].blocks:
        block.mlp.act = QuickGELU()
    for trunk in trunks.values():
        for parameter in trunk.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1) * 0.1, std=0.05)
    return trunks, projections


@pytest.mark.slow
def test_a_converted_download_embeds_as_the_published_model_alone_and_in_a_batch(tmp_path, monkeypatch):
    """The reference is dreamsim's PerceptualModel under a live peft LoRA with random, non-zero weights at the ensemble's true
    sizes; its trunks are handed to it where it would call torch.hub. The files are laid out as in the published zip.

    In float32, for the sizes' sake: twelve blocks of four sums of at most 3072 products leave some sqrt(12 x 4 x 3072) = 384
    roundings of 6e-8 of numbers up to 0.11, which is 3e-6.
    """
    trunks, projections = published_trunks()
    download = tmp_path / "download"
    download.mkdir()
    torch.save(trunks["dino_vitb16"].state_dict(), tmp_path / "dino_vitbase16_pretrain.pth")
    for name, projection in projections.items():
        torch.save({"state_dict": {**trunks[name].state_dict(), "proj": projection}}, download / f"{name}_pretrain.pth.tar")
    monkeypatch.setattr(
        ViTExtractor, "create_model", lambda name, _: (trunks[name], projections[name]) if name in projections else trunks[name]
    )
    published = PerceptualModel(**dreamsim_args["model_config"]["ensemble"], device="cpu", normalize_embeds=True)
    lora = peft.LoraConfig(r=16, lora_alpha=0.5, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    published = peft.get_peft_model(published, lora).eval()
    for name, parameter in published.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    published.save_pretrained(download / "ensemble_lora")

    convert_ensemble(download, tmp_path / "dino_vitbase16_pretrain.pth", tmp_path / "converted")
    ours, images = read_dreamsim(tmp_path / "converted").eval(), torch.from_numpy(np.random.default_rng(0).random((2, 3, 224, 224))).float()
    with torch.no_grad():
        expected = published.embed(images)
        with published.disable_adapter():
            without_lora = published.embed(images)
        assert expected.shape == (2, 1792)
        assert (expected - without_lora).abs().max() > 1e-3
        torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.cat([ours(images[:1]), ours(images[1:])]), expected, atol=1e-5, rtol=0)
