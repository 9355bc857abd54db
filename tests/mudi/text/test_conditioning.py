"""Prompts to conditions, held against diffusers' `encode_prompt`; in float64, but for the answers of `predict`, which are float32."""

import json
import shutil

import torch
from double import ROUNDING

from mudi.diffusion import predict
from mudi.model_facts import find_folder
from mudi.models import load
from mudi.text.conditioning import Conditioning, cut_tokens, encode_negative, encode_prompts, join
from tests.mudi.test_diffusion import pipeline_of

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # in float64
ANSWERS = {"rtol": 2 * ROUNDING, "atol": 2 * ROUNDING}  # equal in float64 and then rounded, up or down


def test_conditions_equal_those_of_diffusers(double):
    """Penultimate states of both encoders side by side, pooled output of the second."""
    prompts = ["a photo of a olis red dog", "a cat"]
    ours = encode_prompts(double, prompts)
    states, _, pooled, _ = pipeline_of(double).encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(ours.states, states, **EXACT)
    torch.testing.assert_close(ours.pooled, pooled, **EXACT)


def test_a_prompt_does_not_depend_on_its_neighbours(double):
    """Encoding two prompts together or apart gives the same rows."""
    together = encode_prompts(double, ["a red dog", "a blue cat on the beach"])
    apart = join(encode_prompts(double, ["a red dog"]), encode_prompts(double, ["a blue cat on the beach"]))
    torch.testing.assert_close(together.states, apart.states, **EXACT)


def test_no_negative_prompt_is_zero_and_an_empty_one_is_not(miniature):
    """SDXL's released setting forces zeros where there is no negative prompt."""
    assert not encode_negative(miniature, None).states.any()
    assert encode_negative(miniature, "").states.any()


def test_cut_tokens_counts_what_does_not_fit(miniature):
    """The context is 40 tokens, two of which mark begin and end: 45 words are 47 tokens, 7 too many."""
    assert cut_tokens(miniature, " ".join(["dog"] * 45)) == 7
    assert cut_tokens(miniature, "a dog") == 0


def words_alone(backbone, text):
    """States and pooled output of a text that was never padded, straight from the encoders."""
    outputs = []
    for tokenizer, encoder in backbone.readers.values():
        outputs.append(encoder(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True))
    return torch.cat([output.hidden_states[-2] for output in outputs], -1), outputs[-1].text_embeds


def test_adaptive_padding_leaves_the_states_of_a_text_that_was_never_padded(double):
    """The encoders are causal, so padding behind a text changes neither its states nor its pooled output; both marks stay."""
    text = "a photo of a olis red dog"
    ours = encode_prompts(double, [text], "adaptive")
    states, pooled = words_alone(double, text)
    assert ours.mask is None
    torch.testing.assert_close(ours.states, states, **EXACT)
    torch.testing.assert_close(ours.pooled, pooled, **EXACT)


@torch.no_grad()
def test_trimmed_text_and_masked_padding_are_the_same_to_the_unet(double):
    """Adaptive padding is a mask on padding's keys; seen, padding draws attention and changes the answer."""
    noisy = torch.randn(1, 8, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    trimmed, padded = (encode_prompts(double, ["a red dog"], padding) for padding in ("adaptive", "full"))
    real = torch.arange(padded.states.shape[1])[None] < trimmed.states.shape[1]
    answers = [
        predict(double, noisy, torch.tensor(500), condition)
        for condition in (trimmed, Conditioning(padded.states, padded.pooled, padded.time_ids, real), padded)
    ]
    torch.testing.assert_close(answers[0], answers[1], **ANSWERS)
    assert (answers[0] - answers[2]).abs().max() > 1e-3


@torch.no_grad()
def test_adaptive_texts_of_unlike_length_do_not_depend_on_their_neighbours(double):
    """In a batch the shorter text is filled up and masked: the UNet answers as to the text alone."""
    noisy = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    texts = ["a red dog", "a photo of a blue cat on the beach at night"]
    together = predict(double, noisy, torch.tensor(500), encode_prompts(double, texts, "adaptive"))
    for row, text in enumerate(texts):
        alone = predict(double, noisy[row : row + 1], torch.tensor(500), encode_prompts(double, [text], "adaptive"))
        torch.testing.assert_close(together[row : row + 1], alone, **ANSWERS)


def with_an_added_word(folder):
    """The miniature with a word behind its vocabulary, and with the end mark that published SDXL's settings name: 2."""
    shutil.copytree(
        find_folder("miniature"), folder, ignore=shutil.ignore_patterns("detector", "dreamsim", "dinov2", "sam", "clip", "one_encoder")
    )
    backbone = load(str(folder))
    for part, tokenizer, encoder in zip(("", "_2"), *zip(*backbone.readers.values()), strict=True):
        tokenizer.add_tokens(["brandnew"])
        with torch.random.fork_rng():
            torch.manual_seed(0)
            encoder.resize_token_embeddings(len(tokenizer))
        tokenizer.save_pretrained(folder / f"tokenizer{part}")
        encoder.save_pretrained(folder / f"text_encoder{part}")
        config = folder / f"text_encoder{part}" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 2}))
    return folder


@torch.no_grad()
def test_text_is_pooled_at_its_end_mark_whatever_words_were_added(double, tmp_path):
    """transformers pools at the highest id where the settings say 2, which is the added word's; we pool at the end mark, where
    the projection of the encoder's own last states is taken by hand. Prompts without the word stay as they were."""
    backbone = load(str(with_an_added_word(tmp_path / "backbone")), dtype=torch.float64)
    tokenizer, encoder = backbone.readers["clip_g"]
    ids = tokenizer("a brandnew dog", return_tensors="pt").input_ids
    assert ids.max() > tokenizer.eos_token_id
    output = encoder(ids)
    at_the_end, at_the_word = (encoder.text_projection(output.last_hidden_state[:, place]) for place in (-1, 2))
    ours = encode_prompts(backbone, ["a brandnew dog"])
    torch.testing.assert_close(ours.pooled, at_the_end, **EXACT)
    encoder.text_model.eos_token_id = 2
    torch.testing.assert_close(encoder(ids).text_embeds, at_the_word, **EXACT)
    assert (at_the_end - at_the_word).abs().max() > 1e-2
    torch.testing.assert_close(encode_prompts(backbone, ["a red dog"]).pooled, encode_prompts(double, ["a red dog"]).pooled, **EXACT)
