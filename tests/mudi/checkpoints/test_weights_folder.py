"""A model folder is read strictly: intact files, matching names and shapes, or an error that names them."""

import json

import pytest
import torch
from torch import nn

from mudi.checkpoints.weights_folder import CONFIG, WEIGHTS, check_safetensors, read_config, read_weights, write_model


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    write_model(tmp_path, {"width": 3}, nn.Linear(3, 2))
    return tmp_path


def test_what_is_written_is_read(folder):
    torch.manual_seed(0)
    original = nn.Linear(3, 2)
    assert read_config(folder) == {"width": 3}
    read = read_weights(folder, nn.Linear(3, 2))
    assert torch.equal(read.weight, original.weight)
    assert torch.equal(read.bias, original.bias)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (nn.Linear(4, 2), "1 of 2 entries .* first weight;"),
        (nn.Linear(3, 2, bias=False), "1 of 1 entries .* first bias;"),
        (nn.Sequential(nn.Linear(3, 2)), "4 of 2 entries .* first 0.bias, 0.weight, bias, weight;"),
    ],
)
def test_weights_of_another_model_are_refused_by_name(folder, model, names):
    with pytest.raises(ValueError, match=names):
        read_weights(folder, model)


def test_a_pickle_renamed_to_safetensors_is_refused(folder):
    torch.save({"weight": torch.zeros(2, 3)}, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not a safetensors file"):
        check_safetensors(folder)


def test_a_folder_without_weights_says_what_it_found(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=r"no \*\.safetensors weights \(none\)"):
        check_safetensors(folder)
    torch.save({}, folder / "model.pth")
    with pytest.raises(ValueError, match=r"only model\.pth, which is refused because loading it can run code"):
        check_safetensors(folder)


@pytest.mark.parametrize(("text", "message"), [("{", "line 1: not valid JSON"), (json.dumps([1]), "holds a list; expected an object")])
def test_a_broken_config_is_named(folder, text, message):
    (folder / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_config(folder)


def test_a_missing_config_is_named(folder):
    (folder / CONFIG).unlink()
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        read_config(folder)
