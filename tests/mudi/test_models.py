"""A name becomes exactly the weights in its folder, in the dtype asked for, or an error that says what to do."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, Owlv2ImageProcessor, Owlv2Processor

from mudi import model_facts, models
from mudi.checkpoints.dreamsim_trunks import save_dreamsim
from mudi.checkpoints.sam_folder import save_segmenter
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.world import SIZE


@pytest.fixture(scope="module")
def pipeline():
    """The miniature's architecture with random weights, as the pipeline class that diffusers itself saves."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder, text_encoder_2 = architectures.text_encoders(tokenizer)
    return StableDiffusionXLPipeline(
        vae=architectures.vae(), text_encoder=text_encoder, text_encoder_2=text_encoder_2, tokenizer=tokenizer, tokenizer_2=tokenizer,
        unet=architectures.unet(), scheduler=architectures.scheduler(),
    )  # fmt: skip


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    return tmp_path


PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def test_a_diffusers_folder_loads_with_the_weights_that_were_saved(pipeline, folder):
    backbone = models.load(str(folder))
    for part in PARTS:
        loaded, saved = getattr(backbone, part).state_dict(), getattr(pipeline, part).state_dict()
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(loaded[key], saved[key]) for key in saved), part
    text = "a photo of olis dog and hta cat"
    assert backbone.tokenizer(text).input_ids == backbone.tokenizer_2(text).input_ids == pipeline.tokenizer(text).input_ids
    backbone.scheduler.set_timesteps(10)
    pipeline.scheduler.set_timesteps(10)
    assert torch.equal(backbone.scheduler.sigmas, pipeline.scheduler.sigmas)


def test_the_resolution_is_the_latent_side_times_the_latent_factor(folder):
    """12 latents of 4 px (two halvings by three autoencoder levels) are 48 px."""
    backbone = models.load(str(folder))
    assert (backbone.latent_factor, backbone.resolution) == (4, 48)


def test_weights_stored_in_half_precision_load_as_their_exact_upcast(folder):
    for part in PARTS:
        (file,) = (folder / part).glob("*.safetensors")
        save_file({k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    backbone = models.load(str(folder), dtype=torch.float32)
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for key, weight in backbone.unet.state_dict().items():
        assert torch.equal(weight, stored[key].float()), key
    assert {p.dtype for part in PARTS for p in getattr(backbone, part).parameters()} == {torch.float32}


def test_text_weights_load_under_their_published_names_as_well(pipeline, folder):
    """SDXL's published text encoders name every weight "text_model.…" and store the position ids; current transformers
    saves the first encoder without that prefix."""
    file = folder / "text_encoder" / "model.safetensors"
    published = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    published["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(published, file, metadata={"format": "pt"})
    loaded, saved = models.load(str(folder)).text_encoder.state_dict(), pipeline.text_encoder.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_models_come_frozen_and_in_evaluation_mode(folder):
    backbone = models.load(str(folder))
    for part in PARTS:
        assert not any(p.requires_grad for p in getattr(backbone, part).parameters())
        assert not any(m.training for m in getattr(backbone, part).modules())


@pytest.mark.parametrize(("force_upcast", "expected"), [(True, torch.float32), (False, torch.float16)])
def test_only_an_autoencoder_that_float16_would_overflow_stays_float32(folder, force_upcast, expected):
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"force_upcast": force_upcast}))
    backbone = models.load(str(folder), dtype=torch.float16)
    assert backbone.vae.dtype == expected
    assert backbone.unet.dtype == backbone.text_encoder.dtype == backbone.text_encoder_2.dtype == torch.float16


def test_each_judge_loads_with_the_weights_that_were_saved(tmp_path):
    """The folder has the layout that the miniature uses for its detector, embedders and segmenter."""
    torch.manual_seed(0)
    detector, dinov2, sam = architectures.detector(build_tokenizer()), architectures.dinov2(), architectures.sam()
    dreamsim = architectures.dreamsim()
    detector.save_pretrained(tmp_path / "detector")
    Owlv2Processor(Owlv2ImageProcessor(size={"height": SIZE, "width": SIZE}), build_tokenizer()).save_pretrained(tmp_path / "detector")
    dinov2.save_pretrained(tmp_path / "dinov2")
    BitImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "dinov2")
    save_dreamsim(tmp_path / "dreamsim", dreamsim)
    save_segmenter(tmp_path / "sam", sam)
    loaded = [
        (models.load_detector(str(tmp_path / "detector")).model, detector),
        (models.load_embedder("dinov2", str(tmp_path / "dinov2")).model, dinov2),
        (models.load_embedder("dreamsim", str(tmp_path / "dreamsim")).model, dreamsim),
        (models.load_segmenter(str(tmp_path / "sam")).model, sam),
    ]
    for ours, saved in loaded:
        assert ours.state_dict().keys() == saved.state_dict().keys()
        assert all(torch.equal(ours.state_dict()[key], value) for key, value in saved.state_dict().items())
        assert not ours.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", r"has no revision.*'stabilityai/stable-diffusion-xl-base-1\.0@REVISION'"),
        ("minature", r"'minature' is neither an existing folder nor a known name; allowed are 'miniature', an existing folder"),
        ("/no/such/folder", "neither an existing folder"),
        ("random-sdxl:x", "neither an existing folder"),
        ("random-sd20", "neither an existing folder"),
        ("weights/sd_xl.ckpt", "a pickled file, refused"),
        ("", "neither an existing folder"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_with_what_is_allowed(name, message):
    with pytest.raises(ValueError, match=message):
        models.load(name)


def test_an_unknown_embedder_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="embedder 'clip' is unknown; use one of dreamsim, dinov2"):
        models.load_embedder("clip", "miniature")


def test_a_folder_that_is_no_backbone_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json; a backbone is a folder as diffusers saves"):
        models.load(str(tmp_path))


def test_pickled_weights_are_refused_even_where_safetensors_are_missing(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only diffusion_pytorch_model\.bin, which is refused because loading it can run code"):
        models.load(str(folder))


def test_truncated_weights_are_named(folder):
    file = folder / "text_encoder" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"text_encoder/model\.safetensors is truncated"):
        models.load(str(folder))


@pytest.mark.parametrize(("part", "file"), [("unet", "diffusion_pytorch_model.safetensors"), ("text_encoder_2", "model.safetensors")])
def test_a_missing_weight_is_an_error_where_the_libraries_would_draw_it_at_random(folder, part, file):
    state = load_file(folder / part / file)
    dropped = next(key for key in state if key.endswith("weight"))
    save_file({k: v for k, v in state.items() if k != dropped}, folder / part / file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{part}: 1 weights of .* are missing"):
        models.load(str(folder))


def test_a_weight_that_is_not_finite_is_named(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state["conv_in.bias"][0] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weight conv_in\.bias of UNet2DConditionModel is not finite"):
        models.load(str(folder))


@pytest.mark.skipif(not model_facts.MINIATURE.is_dir(), reason="the miniature's weights are not in the package")
def test_the_miniature_is_nothing_but_its_folder():
    named, stored = models.load("miniature"), models.load(str(model_facts.MINIATURE))
    for part in PARTS:
        ours, theirs = getattr(named, part).state_dict(), getattr(stored, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), part
    assert type(models.load_detector("miniature").model) is type(models.load_detector(str(model_facts.MINIATURE / "detector")).model)
