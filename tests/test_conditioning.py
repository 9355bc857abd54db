"""Prompts to conditions, held against diffusers' `encode_prompt`."""

import torch
from test_diffusion import pipeline_of

from mudi.conditioning import cut_tokens, encode_negative, encode_prompts, join


def test_conditions_equal_those_of_diffusers(miniature):
    """Penultimate states of both encoders side by side, pooled output of the second."""
    prompts = ["a photo of a olis red dog", "a cat"]
    ours = encode_prompts(miniature, prompts)
    states, _, pooled, _ = pipeline_of(miniature).encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(ours.states, states)
    torch.testing.assert_close(ours.pooled, pooled)


def test_a_prompt_does_not_depend_on_its_neighbours(miniature):
    """Encoding two prompts together or apart gives the same rows."""
    together = encode_prompts(miniature, ["a red dog", "a blue cat on the beach"])
    apart = join(encode_prompts(miniature, ["a red dog"]), encode_prompts(miniature, ["a blue cat on the beach"]))
    torch.testing.assert_close(together.states, apart.states, rtol=1e-5, atol=1e-6)


def test_no_negative_prompt_is_zero_and_an_empty_one_is_not(miniature):
    """SDXL's released setting forces zeros where there is no negative prompt."""
    assert not encode_negative(miniature, None).states.any()
    assert encode_negative(miniature, "").states.any()


def test_cut_tokens_counts_what_does_not_fit(miniature):
    """The context is 40 tokens, two of which mark begin and end: 45 words are 47 tokens, 7 too many."""
    assert cut_tokens(miniature, " ".join(["dog"] * 45)) == 7
    assert cut_tokens(miniature, "a dog") == 0
