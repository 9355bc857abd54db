"""Cones 2 as a method: subjects fitted once and shared, manifests, plans, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from places import DOGS, ROOT

from mudi import adapter_folder, adapters
from mudi.dataset import load_combination
from mudi.methods import METHODS
from mudi.methods.cones2 import Cones2
from mudi.options import RetrainSettings
from mudi.retrain import retrain
from mudi.self_training.candidates import Rewarded
from mudi.text.prompts import fill_prompts
from pipeline.ready import ready
from pipeline.settings.config import load_run


def test_subjects_go_without_identifier_in_prompts_and_training(two_dogs):
    """The class noun alone, plain or descriptive, whatever the captions say; a view of a view is the same."""
    plain, described = Cones2(descriptive_class=False).view(two_dogs), Cones2().view(two_dogs)
    assert fill_prompts(plain, ["a photo of {subjects}"]).prompts[0].text == "a photo of a dog and a dog"
    assert [s.phrase for s in described.subjects] == [s.class_noun for s in two_dogs.subjects]
    assert {r.caption for s in plain.subjects for r in s.references} == {"dog"}
    assert Cones2().view(described) == described


def quick(**values):
    return Cones2(**{"steps": 2, "tuning": "direct", "descriptive_class": False, **values})


def test_a_subject_is_fitted_once_for_all_combinations(backbone, tmp_path):
    """The same two dogs the other way round, under other keys, identifiers and captions: two fits in all, none made again, and the
    residuals come in each combination's order under its own keys."""
    dogs = load_combination(DOGS)
    first, second = dogs.subjects
    renamed = tuple(replace(r, caption="something else") for r in second.references)
    turned = replace(
        dogs, key="turned", subjects=(replace(second, key="x", identifier="ult", references=renamed), replace(first, key="y"))
    )  # fmt: skip
    method = quick(singles=str(tmp_path / "subjects"))
    one = method.train(backbone, dogs, tmp_path / "one", seed=1)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "subjects").rglob("*")}
    other = method.train(backbone, turned, tmp_path / "other", seed=2)
    assert len(list((tmp_path / "subjects").iterdir())) == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "subjects").rglob("*")} == stamps
    values = []
    for adapter in (one, other):
        adapters.put_on(backbone, adapter)
        values.append({residual.key: residual.values for residual in backbone.residuals})
    assert [list(of) for of in values] == [["a", "b"], ["x", "y"]]
    assert torch.equal(values[0]["a"], values[1]["y"])
    assert torch.equal(values[0]["b"], values[1]["x"])
    assert not torch.equal(values[0]["a"], values[0]["b"])


def test_the_manifest_tells_payload_format_and_model_together(backbone, tmp_path):
    """One token of width 112 in float32: 448 bytes; the numbers of the file are what the manifest says."""
    adapter = quick().train(backbone, load_combination(DOGS), tmp_path / "a", seed=0)
    manifest = adapter_folder.read_manifest(adapter.path)
    said = manifest["residuals"]["a"]
    assert (said["tokens"], said["payload_bytes"], said["dtype"], said["backbone"]) == (1, 4 * 112, "float32", "miniature")
    assert manifest["hyperparameters"]["learning_rate"] == 1e-3
    assert manifest["final_loss"] == pytest.approx(np.mean([manifest["residuals"][key]["final_loss"] for key in "ab"]))


def test_rounds_of_self_training_are_refused_before_anything_is_fitted(tmp_path):
    config = load_run(ROOT / "tests/data/miniature.yaml", [f"runs={tmp_path}", "method={name: cones2}", "rounds=1"])
    with pytest.raises(ValueError, match="rounds = 1: cones2 leaves no LoRA for a refit to train; set rounds to 0"):
        ready(config)


def test_a_refit_of_a_method_without_lora_is_refused(backbone, tmp_path, two_dogs):
    adapter = quick(steps=1).train(backbone, two_dogs, tmp_path / "a", seed=0)
    candidates = [Rewarded(np.zeros((48, 48, 3), np.uint8), "a dog", 1.0)]
    with pytest.raises(ValueError, match=r"holds no LoRA .*\(cones2\)"):
        retrain(backbone, two_dogs, adapter, candidates, RetrainSettings(steps=1), tmp_path / "b", 1, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"tuning": "lora"},
        {"objective": "dco"},
        {"preserve_prompts": "list"},
        {"preserve_prompts": []},
        {"preserve_prompts": ["a dog", " "]},
        {"mark_weight": -1},
        {"learning_rate": 0},
    ],
)
def test_impossible_hyperparameters_are_refused(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"{name} = "):
        METHODS["cones2"](**values)
