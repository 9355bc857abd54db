"""Trained token rows: they change their own word, nothing else, and come back from a file as they were."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mudi import adapter_folder, adapters
from mudi.adapter_folder import Origin
from mudi.text import tokens
from mudi.text.conditioning import encode_prompts

STARTS = {"olis": "dog", "hta": "hta"}


def states(backbone, text):
    with torch.no_grad():
        return encode_prompts(backbone, [text]).states


def test_a_row_that_starts_at_its_own_word_changes_nothing(miniature):
    before = states(miniature, "a olis dog and a hta cat")
    tokens.attach_rows(miniature, {"olis": "olis", "hta": "hta"})
    assert torch.equal(states(miniature, "a olis dog and a hta cat"), before)


def test_a_row_that_starts_at_another_word_reads_as_that_word(miniature):
    """With the row of "cat" under its id, "olis" is "cat" to both encoders."""
    expected = states(miniature, "a photo of a cat")
    tokens.attach_rows(miniature, {"olis": "cat"})
    assert torch.equal(states(miniature, "a photo of a olis"), expected)


def test_given_rows_meet_those_of_words_where_the_encoder_is(miniature):
    """Fake tensors know devices without having one and refuse to mix them: a float16 row on the CPU beside that of a word on a GPU."""
    given, widths = {}, []
    with FakeTensorMode():
        for key, (_, encoder) in miniature.readers.items():
            size = encoder.get_input_embeddings().weight.shape
            encoder.set_input_embeddings(torch.nn.Embedding(*size, device="cuda"))
            given[key] = torch.zeros(size[1], dtype=torch.float16)
            widths.append(size[1])
        tokens.attach_rows(miniature, {"olis": given, "dog": "dog"})
    found = tokens.row_parameters(miniature)
    assert [tuple(rows.shape) for rows in found] == [(2, width) for width in widths]
    assert {(rows.device.type, rows.dtype) for rows in found} == {("cuda", torch.float32)}


def test_prompts_without_the_word_stay_bit_for_bit(miniature):
    before = states(miniature, "a red dog on the grass")
    tokens.attach_rows(miniature, STARTS)
    for parameter in tokens.row_parameters(miniature):
        parameter.data.add_(1.0)
    assert torch.equal(states(miniature, "a red dog on the grass"), before)
    assert not torch.equal(states(miniature, "a olis dog on the grass"), before)


def test_only_the_rows_receive_a_gradient(miniature):
    """Every row that a prompt names gets one, the last as well as the first; no frozen weight does."""
    tokens.attach_rows(miniature, STARTS)
    encode_prompts(miniature, ["a olis dog and a hta cat"]).states.sum().backward()
    for parameter in tokens.row_parameters(miniature):
        assert (parameter.grad.abs().sum(1) > 0).all()
    frozen = [p for encoder in (miniature.text_encoder, miniature.text_encoder_2) for k, p in encoder.named_parameters() if "rows" not in k]
    assert all(p.grad is None for p in frozen)


def test_detaching_gives_the_loaded_model_back(miniature):
    before = states(miniature, "a olis dog")
    tokens.attach_rows(miniature, STARTS)
    tokens.detach_rows(miniature)
    assert tokens.row_parameters(miniature) == []
    assert torch.equal(states(miniature, "a olis dog"), before)


def test_rows_survive_the_file(miniature, tmp_path):
    """An adapter of rows alone: saved, taken off, put on again, the same states; and another adapter takes them off."""
    tokens.attach_rows(miniature, STARTS)
    for i, parameter in enumerate(tokens.row_parameters(miniature)):
        parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    expected = states(miniature, "a olis dog and a hta cat")
    kept = adapters.save(
        miniature, tmp_path / "rows", None, Origin(method="textual_inversion", combination="two"), identifiers=list(STARTS)
    )
    adapters.detach(miniature)
    adapters.put_on(miniature, kept)
    assert torch.equal(states(miniature, "a olis dog and a hta cat"), expected)
    assert not any(parameter.requires_grad for parameter in tokens.row_parameters(miniature))
    assert adapter_folder.find(tmp_path / "rows") == kept
    with pytest.raises(ValueError, match="no LoRA"):
        adapters.load(miniature.unet, kept)


def test_a_word_of_several_tokens_is_refused(miniature):
    with pytest.raises(ValueError, match="'qqqqq' is 5 tokens"):
        tokens.attach_rows(miniature, {"qqqqq": "dog"})


def test_rows_of_another_model_are_refused(miniature):
    with pytest.raises(ValueError, match="another model"):
        tokens.attach_rows(miniature, {"olis": {"clip_l": torch.zeros(7), "clip_g": torch.zeros(7)}})
