"""A vision-language model on this machine says what a photo shows: descriptive classes and captions, checked."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from mudi.models import load_vision_language
from mudi.user_files.descriptions import Mistakes, ask_until_valid, checked_caption, checked_class, correction

LONGEST_SIDE = 768  # pixels; some models spend a token on every 28 x 28
MOST_TOKENS = 96  # of a reply; a caption of 25 words is about 35

# (photos (H, W, 3) uint8, question, what it said so far and what was wrong with it) -> what it says.
Generate = Callable[[Sequence[np.ndarray], str, Mistakes], str]


def load_local_writer(name: str, device: str | torch.device = "cpu") -> Generate:
    """The model of that name, a folder or a hub id with a revision, as a function; it answers the same question the same way.

    Raises ValueError for a model that does not talk about pictures.
    """
    model, processor = load_vision_language(name, device)

    def generate(images: Sequence[np.ndarray], question: str, mistakes: Mistakes = ()) -> str:
        pictures = [{"type": "image", "image": _scaled(image)} for image in images]
        turns = [_turn("user", question, pictures)]
        for reply, mistake in mistakes:
            turns += [_turn("assistant", reply), _turn("user", correction(mistake))]
        inputs = processor.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        ).to(model.device, model.dtype)  # fmt: skip
        output = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=MOST_TOKENS)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return generate


def describe(generate: Generate, images: Sequence[np.ndarray], noun: str) -> str:
    """A descriptive class of 1 to 4 words, lower case, for the subject of these photos, which is a `noun`.

    Raises ValueError of one line if none of three replies is one.
    """
    question = (
        f"These photos show one {noun}. Name its kind as precisely as you can in 1 to 4 words, "
        'the breed rather than "dog", colour and make rather than "toy". Answer with these words alone.'
    )
    what = f"descriptive class from {len(images)} photos of {noun!r}"
    return ask_until_valid(lambda mistakes: generate(images, question, mistakes), checked_class, what)


def caption(generate: Generate, image: np.ndarray, phrase: str) -> str:
    """A caption of the photo that holds `phrase`, such as "olis corgi"; ValueError of one line if none of three replies is one."""
    question = (
        f'Write a caption of this photo, one sentence of at most 25 words. Call its subject "a {phrase}", with exactly these words, '
        f"and say where it is and what it does. For example: A photo of a {phrase} on a wooden floor. Answer with the caption alone."
    )
    return ask_until_valid(
        lambda mistakes: generate([image], question, mistakes),
        lambda reply: checked_caption(reply, phrase),
        f"caption of a photo of {phrase!r}",
    )


def _turn(role: str, text: str, pictures: Sequence[dict] = ()) -> dict:
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}


def _scaled(image: np.ndarray) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    return picture
