"""Concept Conductor on the miniature: subjects fitted alone, once, and drawn together by as many paths as a plan counts."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from places import DOGS

from mudi import adapter_folder, adapters
from mudi.adapter_folder import MANIFEST, WEIGHTS, Origin
from mudi.adapter_size import known_architecture, payload_bytes
from mudi.attention.injection import ConceptPath, conducted, injected
from mudi.methods.concept_conductor import ConceptConductor
from mudi.methods.dreambooth import DreamBooth
from mudi.modular.subject_fits import fit_apart
from mudi.options import LayoutGuidance, LoraSettings, Sampling
from mudi.text.conditioning import encode_prompts
from pipeline.ready import ready
from pipeline.settings.config import load_run
from tests.pipeline.test_rounds import RUN_FILE, SMALL

SAMPLING = Sampling(steps=2, guidance_scale=2.0, gamma=0.0, layout="given", negative_prompt=None)
QUICK = {"steps": 2, "rank": 2, "batch": 1, "accumulation": 1, "learning_rate": 1e-2, "objective": "denoising"}
METHOD = (
    "method={name: concept_conductor, objective: denoising, rank: 2}", "rounds=0", "watched_prompts=[]", "sampling.layout=given",
)  # fmt: skip


@pytest.fixture
def fitted(miniature, two_dogs, tmp_path):
    """The adapter of both dogs, and the folder of their own fits."""
    method = ConceptConductor(**QUICK, sampling=SAMPLING, singles=str(tmp_path / "subjects"))
    steps = []
    adapter = method.train(miniature, two_dogs, tmp_path / "pair", seed=1, report=lambda step, loss: steps.append(step))
    assert steps == [1, 2, 3, 4]
    return method, adapter, tmp_path / "subjects"


def test_the_adapter_holds_the_fit_of_each_subject_alone(miniature, two_dogs, fitted, tmp_path):
    """File N is the LoRA that DreamBooth fits to subject N alone from the same seed, byte for byte; all are counted."""
    method, adapter, _ = fitted
    files = []
    for number, subject in enumerate(two_dogs.subjects):
        single = replace(two_dogs, key=subject.key, subjects=(subject,), layouts=(), prompts=())
        alone = DreamBooth(**QUICK).train(miniature, single, tmp_path / subject.key, seed=method.single_seed)
        files.append((alone.path / WEIGHTS).read_bytes())
        assert (adapter.path / f"concept_{number}.safetensors").read_bytes() == files[-1]
    assert files[0] != files[1]
    manifest = adapter_folder.read_manifest(adapter.path)
    assert [concept["phrase"] for concept in manifest["concepts"]] == [subject.phrase for subject in two_dogs.subjects]
    assert payload_bytes(adapter.path) == 4 * manifest["parameters"]


def test_subjects_are_not_fitted_again_for_another_combination(miniature, two_dogs, fitted, tmp_path):
    """The other order is another adapter of the same files; nothing is trained for it."""
    method, adapter, _ = fitted
    swapped = replace(two_dogs, key="swapped", subjects=two_dogs.subjects[::-1])

    def trained(step, loss):
        raise AssertionError("a subject was fitted again")

    again = replace(method, sampling=replace(SAMPLING, steps=9)).train(miniature, swapped, tmp_path / "swapped", seed=5, report=trained)
    first, second = (path.path / "concept_0.safetensors" for path in (again, adapter))
    assert first.read_bytes() == second.with_name("concept_1.safetensors").read_bytes()
    assert adapter_folder.find(again.path) == again != adapter


def test_a_chunk_takes_as_many_passes_as_answered(miniature, two_dogs, fitted):
    """Two subjects are three passes: a picture of 2 steps and both sides of guidance is 2 x 2 x 3 = 12 rows in 6 calls, counted at the
    UNet."""
    method, adapter, _ = fitted
    counted = Counter()
    hook = miniature.unet.register_forward_hook(lambda module, args, output: counted.update(rows=len(output.sample), calls=1))
    adapters.put_on(miniature, adapter)
    method.sample(miniature, two_dogs, two_dogs.prompts[0], [0])
    hook.remove()
    assert (method.paths(two_dogs), counted["rows"], counted["calls"]) == (3, 2 * 2 * 3, 2 * 3)


def test_the_size_of_an_adapter_is_answered(fitted, two_dogs):
    """Two files of one LoRA each and as many of the subjects' own fits, in numbers; and those that a fit trains at once."""
    method, adapter, singles = fitted
    parameters, size = method.adapter_numbers(known_architecture("miniature"), two_dogs, 2)
    assert size == sum(payload_bytes(folder) for folder in (adapter.path, *singles.iterdir()) if (folder / MANIFEST).is_file())
    assert 2 * parameters == adapter_folder.read_manifest(adapter.path)["parameters"]


def test_of_two_processes_that_fit_a_subject_at_once_the_quicker_ones_fit_is_used(miniature, tmp_path):
    """Each fits in a folder of its own; what stands in the shared place by then stays, and a half made one does not."""
    place = tmp_path / "subjects" / "digest"

    def saved(folder, seed):
        adapters.attach(miniature.unet, LoraSettings(rank=1, alpha=1), seed=seed)
        return adapters.save(miniature, folder, LoraSettings(rank=1, alpha=1), Origin(method="m", combination="c"))

    def while_another_does(folder):
        other = saved(place, seed=2)
        assert folder.parent == tmp_path / "work"
        assert other != saved(folder, seed=1)
        return adapter_folder.find(folder)

    ours = fit_apart(while_another_does, place, tmp_path / "work")
    assert ours == adapter_folder.find(place)
    (place / WEIGHTS).write_bytes(b"half")
    again = fit_apart(lambda folder: saved(folder, seed=3), place, tmp_path / "later")
    assert again == adapter_folder.find(place) != ours


@pytest.mark.parametrize(
    ("sampling", "match"),
    [
        (Sampling(gamma=0.0), r"sampling\.layout = 'random': concept_conductor"),
        (replace(SAMPLING, layout_guidance=LayoutGuidance()), r"sampling\.layout_guidance: concept_conductor"),
    ],
)
def test_sampling_that_has_no_boxes_or_one_prompt_for_all_is_refused(sampling, match):
    with pytest.raises(ValueError, match=match):
        ConceptConductor(sampling=sampling)


def test_a_combination_without_layouts_is_refused_before_anything_is_loaded(tmp_path):
    pair = tmp_path / "two_dogs"
    shutil.copytree(DOGS, pair)
    header, *lines = (pair / "metadata.jsonl").read_text().splitlines()
    bare = {key: value for key, value in json.loads(header).items() if key != "layouts"}
    (pair / "metadata.jsonl").write_text("\n".join([json.dumps(bare), *lines]))
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path / 'runs'}", f"combinations=[{pair}]", *SMALL, *METHOD])
    with pytest.raises(ValueError, match="two_dogs: has no layouts"):
        ready(config)


def test_a_style_has_what_the_boxes_leave(miniature, two_dogs, fitted):
    """The second dog taken for a style: its path comes first, over the whole canvas, and the first dog's box is put over it."""
    method, adapter, _ = fitted
    (dog, other), box = two_dogs.subjects, (0.0, 0.0, 512.0, 1024.0)
    styled = replace(two_dogs, subjects=(dog, replace(other, detection_query="")), layouts=({dog.key: box},))
    adapters.put_on(miniature, method.train(miniature, styled, adapter.path.with_name("styled"), seed=1))
    text = f"a photo of a {dog.phrase} as a {other.phrase}"

    def tell(words):
        return encode_prompts(miniature, [words])

    of_dog = ConceptPath(adapter="concept_0", condition=tell(f"a photo of a {dog.phrase} as a {other.class_noun}"), boxes=[box])
    of_style = ConceptPath(adapter="concept_1", condition=tell(f"a photo of a {dog.class_noun} as a {other.phrase}"), boxes=[None])
    noisy = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0))
    answers = []
    for paths in (
        conducted(miniature, styled, text, [[box]], tell), injected(miniature, [of_style, of_dog], (12, 12)),
        injected(miniature, [of_dog, of_style], (12, 12)),
    ):  # fmt: skip
        with paths as predicting, torch.no_grad():
            answers.append(predicting(miniature, noisy, torch.tensor(500), tell(text)))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
