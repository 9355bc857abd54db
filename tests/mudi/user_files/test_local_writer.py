"""A local vision-language model sees the photo, repeats itself, and is believed only where its words will do.

The model is a tiny LLaVA of random weights, built, saved and loaded as a real one is: what it says is rubbish.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mudi.user_files.local_writer import caption, describe, load_local_writer
from pipeline.prepare.writer import TEMPLATES, local_writer_of

WORDS = ["?", "<pad>", "<s>", "</s>", "<image>", "user", "assistant", *(f"w{i}" for i in range(40))]
CONVERSATION = """\
{% for turn in messages %}{{ turn['role'] }} {% for part in turn['content'] %}\
{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}assistant """
BLACK = np.zeros((40, 50, 3), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
CORGI = "A photo of a olis corgi on a sofa."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA of 2 + 2 layers and width 16 that reads 32 x 32 pixels as 16 tokens and knows 47 words."""
    path = tmp_path_factory.mktemp("writer") / "tiny-llava"
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="?", pad_token="<pad>", bos_token="<s>", eos_token="</s>", additional_special_tokens=["<image>"]
    )
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(**narrow, vocab_size=len(WORDS), num_key_value_heads=2, bos_token_id=2, eos_token_id=3, pad_token_id=1)
    vision = CLIPVisionConfig(**narrow, image_size=32, patch_size=8, projection_dim=16)
    torch.manual_seed(0)
    LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, image_seq_length=16)
    ).save_pretrained(path)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=CONVERSATION,
        num_additional_image_tokens=1,
    ).save_pretrained(path)
    return path


def test_the_model_sees_the_photo_and_repeats_itself(folder):
    """Greedy: one photo and question, one reply, also from a second copy; another photo, another reply; the words are the model's own."""
    first, second = load_local_writer(str(folder)), load_local_writer(str(folder))
    replies = [generate([photo], "w1 w2", ()) for generate in (first, second) for photo in (BLACK, NOISE)]
    assert replies[:2] == replies[2:]
    assert replies[0] != replies[1]
    assert set(" ".join(replies).split()) <= set(WORDS)
    assert first([BLACK, NOISE], "w1 w2", ()) != first([NOISE, BLACK], "w1 w2", ())


def test_the_model_is_told_its_mistake(folder):
    generate = load_local_writer(str(folder))
    assert generate([NOISE], "w1", ()) != generate([NOISE], "w1", (("w3 w3 w3 w3", "w4 w5 w6"),))


def test_rubbish_is_never_taken_for_a_caption(folder):
    """Random words do not name the subject: three replies, then one line with question, mistake, reply and what to do."""
    writer = local_writer_of(str(folder))
    with pytest.raises(ValueError, match="caption of a photo of 'olis corgi'") as caught:
        writer.caption(NOISE, "olis corgi")
    text = str(caught.value)
    assert "\n" not in text
    assert 'does not name the subject as given, "olis corgi"' in text or "more than 300" in text
    assert "subjects.yaml" in text
    assert "--words templates" in text


def test_rubbish_is_never_taken_for_a_class(folder):
    """Every word that the model knows has a digit in it or is a role of the conversation."""
    with pytest.raises(ValueError, match=r"descriptive class from 2 photos of 'dog'.*not 1 to 4 words"):
        local_writer_of(str(folder)).describe([NOISE, BLACK], "dog")


def test_prompts_and_layouts_are_those_of_templates_and_the_source_says_so(folder):
    writer = local_writer_of(str(folder))
    assert writer.prompts(["olis corgi", "hta can"], 2) == list(TEMPLATES[:2])
    assert writer.layouts({"a": "olis corgi", "b": "hta can"}, 2) == []
    assert str(folder) not in writer.source
    assert "tiny-llava" in writer.source
    assert "templates" in writer.source


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("Weimaraner", "weimaraner"),
        (" 'Pembroke Welsh Corgi.' ", "pembroke welsh corgi"),
        ("The  chow chow", "chow chow"),
        ("an axolotl", "axolotl"),
    ],
)
def test_a_class_is_taken_without_case_quotes_and_article(said, taken):
    assert describe(lambda images, question, mistakes: said, [BLACK], "dog") == taken


def test_a_good_reply_after_a_bad_one_is_taken():
    """The second question holds the first reply and what was wrong with it; the photo and the phrase are in both."""
    asked = []

    def generate(images, question, mistakes):
        asked.append((images, question, mistakes))
        return f'"{CORGI}"\n' if mistakes else "A dog."

    assert caption(generate, NOISE, "olis corgi") == CORGI
    (images, question, none), (_, again, mistakes) = asked
    assert images[0] is NOISE
    assert '"a olis corgi"' in question
    assert (again, none) == (question, ())
    assert mistakes == (("A dog.", 'the caption does not name the subject as given, "olis corgi"'),)


def test_other_models_are_refused_in_one_line(folder, tmp_path):
    """A pickle beside the code, a text model, one without a chat template, one whose weights are incomplete, the miniature."""
    text_model = _changed(folder, tmp_path / "text", model_type="llama")
    with pytest.raises(ValueError, match="of type 'llama', which does not talk about pictures"):
        load_local_writer(str(text_model))

    mute = _changed(folder, tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="no chat template"):
        load_local_writer(str(mute))

    pickled = _changed(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="refused because loading it can run code"):
        load_local_writer(str(pickled))

    with pytest.raises(ValueError, match="the miniature has no model that talks"):
        load_local_writer("miniature")
    with pytest.raises(ValueError, match="write 'owner/writer@REVISION'"):
        load_local_writer("owner/writer")


def test_code_that_a_model_brings_along_is_not_run(folder, tmp_path):
    """The folder names a module of its own for everything; importing it would leave a file behind."""
    trap = tmp_path / "ran"
    brought = _changed(
        folder,
        tmp_path / "brought",
        auto_map={"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own", "AutoProcessor": "own.Own"},
    )
    (brought / "own.py").write_text(f"open({str(trap)!r}, 'w').close()\n")
    load_local_writer(str(brought))([BLACK], "w1", ())
    assert not trap.exists()


def _changed(folder, copy, **config):
    """A copy of the model's folder whose config.json has these keys."""
    shutil.copytree(folder, copy)
    values = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(values | config))
    return copy
