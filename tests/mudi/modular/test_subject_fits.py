"""Where the fit of a subject alone lies: what decides it changes the place, what does not decide it does not."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mudi.methods.dreambooth import DreamBooth
from mudi.model_facts import find_folder, weights_identity
from mudi.modular.subject_fits import single_folder
from mudi.options import Sampling
from mudi.records import Reference, Subject

RECIPE = {"method": "dreambooth", "steps": 3}


def picture(path: Path, value: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)
    return path


def subject_in(folder: Path, photo: int = 10, mask: int = 255) -> Subject:
    reference = Reference(image_path=picture(folder / "1.png", photo), mask_path=picture(folder / "1-mask.png", mask), caption="a olis dog")
    return Subject(key="a", identifier="olis", class_noun="dog", detection_query="dog", references=(reference,))


def place(subject: Subject, recipe: dict = RECIPE, seed: int = 0, backbone: str = "miniature", precision: str = "float32") -> Path:
    return single_folder(Path("singles"), subject, recipe, seed, backbone, precision)


def test_every_word_of_a_subject_but_its_key_decides(tmp_path):
    """Another identifier, noun or query is another fit; "b" in place of "a" is the same."""
    subject = subject_in(tmp_path)
    words = [field.name for field in fields(Subject) if field.name not in ("key", "references")]
    changed = [replace(subject, **{name: "other"}) for name in words]
    assert len({place(other) for other in [subject, *changed]}) == len(words) + 1
    assert place(replace(subject, key="b")) == place(subject)


def test_the_bytes_of_photos_and_masks_decide_and_where_they_lie_does_not(tmp_path):
    here, elsewhere = subject_in(tmp_path / "here"), subject_in(tmp_path / "elsewhere" / "deep")
    assert place(here) == place(elsewhere)
    other_photo, other_mask = subject_in(tmp_path / "photo", photo=11), subject_in(tmp_path / "mask", mask=0)
    (reference,) = here.references
    without, said = (replace(here, references=(replace(reference, **change),)) for change in ({"mask_path": None}, {"caption": "a olis"}))
    twice = replace(here, references=(reference, reference))
    assert len({place(subject) for subject in (here, other_photo, other_mask, without, said, twice)}) == 6


def test_recipe_seed_precision_and_backbone_decide(tmp_path):
    subject = subject_in(tmp_path)
    changes = ({"recipe": RECIPE | {"steps": 4}}, {"seed": 1}, {"precision": "bfloat16"}, {"backbone": "miniature-sd"})
    assert len({place(subject, **change) for change in ({}, *changes)}) == 5


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"steps": 4}, True), ({"rank": 2}, True), ({"descriptive_class": False}, True), ({"objective": "dco"}, True),
        ({"sampling": Sampling(steps=3)}, False), ({"single_seed": 5}, False), ({"priors": {"a": "x"}}, False), ({"singles": "x"}, False),
    ],
)  # fmt: skip
def test_how_pictures_are_drawn_decides_no_fit(change, decides):
    """single_seed is an argument of its own beside the recipe."""
    options = DreamBooth(steps=3, objective="denoising")
    assert (replace(options, **change).recipe() != options.recipe()) == decides


def test_who_makes_class_priors_decides_only_where_there_are_some():
    for objective, decides in (("denoising", False), ("prior_preservation", True)):
        options = DreamBooth(objective=objective)
        assert (replace(options, detector="other").recipe() != options.recipe()) == decides
        assert (replace(options, prior_images=7).recipe() != options.recipe()) == decides


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The miniature's backbone in another folder."""
    others = shutil.ignore_patterns("detector", "dreamsim", "dinov2", "sam", "clip", "one_encoder", "image_reward", "oracle")
    return Path(shutil.copytree(find_folder("miniature"), tmp_path_factory.mktemp("model") / "copy", ignore=others))


def test_weights_are_known_wherever_their_folder_lies(copied, tmp_path):
    """One model in two folders is one; a fit with it lies in one place."""
    assert weights_identity(str(copied)) == weights_identity("miniature") != weights_identity("miniature-sd")
    subject = subject_in(tmp_path)
    assert place(subject, backbone=str(copied)) == place(subject)


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json", "tokenizer_2/*"])
def test_another_model_in_the_same_folder_is_another(copied, name):
    """A file of weights whose numbers all moved, as training leaves them; settings and vocabulary by any byte."""
    path = next(copied.glob(name))
    before, content = weights_identity(str(copied)), path.read_bytes()
    moved = content[:-1] + b" " if path.suffix != ".safetensors" else _moved(content)
    try:
        path.write_bytes(moved)
        assert weights_identity(str(copied)) != before
    finally:
        path.write_bytes(content)
    assert weights_identity(str(copied)) == before


def _moved(content: bytes) -> bytes:
    head = 8 + int.from_bytes(content[:8], "little")
    numbers = np.frombuffer(content[head:], np.float32)
    return content[:head] + (numbers * np.float32(1.01)).tobytes()


def test_names_that_say_it_all_are_their_own_identity():
    names = ("owner/name@0123456789abcdef", "random-sdxl:3", "no/such/folder")
    assert [weights_identity(name) for name in names] == list(names)
