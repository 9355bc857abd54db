"""What gradient fusion must know of one subject: the Grams of what its own adapter sends through the UNet's layers, kept beside it."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress

import torch

from mudi import adapters
from mudi.adapter_size import TEXT
from mudi.backbone import Backbone
from mudi.diffusion import denoise, generators, predict, standard_noise
from mudi.merging import grams
from mudi.merging.grams import Grams
from mudi.merging.recipes import PROMPTS, STEPS, Positions
from mudi.records import Adapter, Subject
from mudi.text.conditioning import encode_prompts
from mudi.text.spans import token_spans


def subject_grams(
    backbone: Backbone, adapter: Adapter, subject: Subject, positions: Positions = "real", steps: int = STEPS, seed: int = 0
) -> Grams:
    """The Grams of every layer that the LoRA of `adapter`, a fit of `subject` alone, sits on; on the CPU.

    As in Mix-of-Show's released code: the layers fed by the picture see one sample of `steps` steps of "photo of a PHRASE"
    without guidance, drawn from `seed` by DPM-Solver++ with the adapter on; keys and values of cross-attention see the states of
    that prompt and of "PHRASE". Departures: the released code takes there the tokens it added and the end mark; our identifiers
    are words of the vocabulary, so `positions` says which tokens count (`counted`). One Gram a layer stands for all
    inputs. They are collected once and kept in `ADAPTER.grams`; a broken file is collected again.
    """
    settings, _ = adapters.read_lora(adapter)
    prompts = [prompt.format(subject.phrase) for prompt in PROMPTS]
    decided = json.dumps([adapter.sha256, prompts, positions, steps, seed])
    digest = hashlib.sha256(decided.encode()).hexdigest()[:32]
    path = adapter.path.with_name(adapter.path.name + ".grams") / f"{digest}.safetensors"
    grams.clear_parts(path.parent)
    if path.is_file():
        # A broken file stays until the new one takes its place: another process may have found it as well.
        with suppress(ValueError):
            return grams.load(path)
    adapters.put_on(backbone, adapter)
    layers = grams.attention_layers(backbone.unet, settings.targets)
    fed_by_text = [layer for layer in layers if TEXT.fullmatch(layer)]
    fed_by_picture = sorted(set(layers) - set(fed_by_text))
    condition = encode_prompts(backbone, prompts)
    noise = standard_noise(backbone, generators([seed]))
    collected = Grams()
    if fed_by_picture:
        with grams.collecting(backbone.unet, fed_by_picture, into=collected):
            denoise(backbone, noise, condition.rows([0]), condition.rows([0]), steps=steps, guidance_scale=1.0, scheduler="dpmpp_2m")
    if fed_by_text:
        # The states of the text are the same at every step, so one pass over both prompts is enough.
        counts = counted(backbone, prompts, subject.phrase, positions)
        with torch.no_grad(), grams.collecting(backbone.unet, fed_by_text, counts, into=collected):
            latents = noise.to(backbone.device, backbone.dtype).expand(len(prompts), -1, -1, -1)
            predict(backbone, latents, torch.tensor(500), condition)
    adapters.detach(backbone)
    grams.save(collected, path)
    return grams.load(path)


def counted(backbone: Backbone, texts: Sequence[str], phrase: str, positions: Positions) -> torch.Tensor:
    """Which tokens of the encoded texts count, bool (B, T): "real" all but the start mark and padding, "concept" those of
    `phrase` and the end mark, "all" every one. ValueError if the texts are too long for their phrase."""
    context = backbone.text_encoder.config.max_position_embeddings
    mask = torch.zeros(len(texts), context, dtype=torch.bool, device=backbone.device)
    for row, text in enumerate(texts):
        end = len(backbone.tokenizer(text, max_length=context, truncation=True).input_ids) - 1
        if positions == "all":
            mask[row] = True
        elif positions == "real":
            mask[row, 1 : end + 1] = True
        else:
            mask[row, [*token_spans(backbone, text, [phrase])[0], end]] = True
    return mask
