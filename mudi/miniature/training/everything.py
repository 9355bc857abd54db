"""Training the whole miniature from one seed: render, fit every part, whiten, store. Resumable at every stage."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import BitImageProcessor, Owlv2ImageProcessor, Owlv2Processor

from mudi.checkpoints.blip_reward import save_reward
from mudi.checkpoints.dreamsim_trunks import save_dreamsim
from mudi.checkpoints.sam_folder import save_segmenter
from mudi.diffusion import to_pixels
from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.corpus import Corpus, latents_path, training_corpus
from mudi.miniature.training import diffusion
from mudi.miniature.training.clip import export_clip, train_clip
from mudi.miniature.training.detector import train_detector
from mudi.miniature.training.embedders import train_dinov2, train_dreamsim
from mudi.miniature.training.optimise import averaged, in_parallel
from mudi.miniature.training.oracle import sharpen_oracle, train_oracle
from mudi.miniature.training.oracle_scenes import CONFIG
from mudi.miniature.training.reward import Taught, standardisation, train_reward
from mudi.miniature.training.sam import train_sam
from mudi.miniature.world import SIZE
from mudi.oracle import OracleNetwork, save_oracle

STORED = torch.float16
WHITENED_ON = 4000
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Stage -> (function, optimiser steps, pictures a step and process, processes at most, offset of the seed). The
# embedders' seeds differ so that they are two opinions. The model card says what each stage cost.
STAGES = {
    "vae": (diffusion.train_vae, 4000, 16, 2, 0),
    "decoder": (diffusion.train_decoder, 1600, 16, 2, 0),
    "unet": (partial(diffusion.train_unet, diffusion.FIRST), 6000, 24, 2, 0),
    "unet_long": (partial(diffusion.train_unet, diffusion.SECOND), 3200, 24, 2, 0),
    "unet_complete": (partial(diffusion.train_unet, diffusion.COMPLETE), 4000, 24, 2, 0),
    "unet_one_encoder": (partial(diffusion.train_unet, diffusion.ONE_ENCODER), 2400, 24, 2, 0),
    "detector": (train_detector, 3000, 32, 1, 0),
    "dreamsim": (train_dreamsim, 4000, 64, 1, 1),
    "dinov2": (train_dinov2, 2500, 64, 1, 2),
    "sam": (train_sam, 1200, 16, 1, 3),
    "clip": (train_clip, 2000, 64, 1, 4),
    "image_reward": (train_reward, 1400, 64, 1, 5),
    "oracle": (train_oracle, 3000, 64, 1, 4),
    "oracle_sharp": (sharpen_oracle, 2000, 64, 1, 5),
}


def restore(work: Path, stage: str, module: nn.Module) -> nn.Module:
    """`module` with the averaged weights that `stage` left in `work`, frozen and in evaluation mode."""
    module.load_state_dict({**module.state_dict(), **averaged(work, stage)})
    return module.eval().requires_grad_(False)


def train(work: Path, weights: Path, seed: int, workers: int) -> None:
    """Every stage in turn, then `export`. Files in `work` let a stopped training go on; `weights` is replaced."""
    work.mkdir(parents=True, exist_ok=True)
    corpus = training_corpus(work, seed, workers)
    for stage, (function, steps, batch, most, offset) in STAGES.items():
        if stage == "unet":
            vae, complete = whitened_vae(work, corpus), training_corpus(work, seed, workers, diffusion.COMPLETE.pairs)
            diffusion.encode_corpus(latents_path(work), vae, corpus)
            diffusion.encode_corpus(latents_path(work, diffusion.COMPLETE.pairs), vae, complete)
        in_parallel(function, min(workers, most), work, steps, batch, seed + offset)
    export(work, weights, seed)


def whitened_vae(work: Path, corpus: Corpus) -> AutoencoderKL:
    """The trained autoencoder with unit-variance latents, measured on the first scenes of the corpus."""
    return diffusion.whiten(restore(work, "decoder", architectures.vae()), to_pixels(corpus.images[:WHITENED_ON]))


def export(work: Path, weights: Path, seed: int) -> None:
    """Store all parts as float16 safetensors in the layout that `mudi.models` reads."""
    corpus = training_corpus(work, seed)
    fresh = weights.with_name(weights.name + ".part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    two, one = (
        restore(work, "unet_complete", diffusion.Conditioned()),
        restore(work, "unet_one_encoder", diffusion.OneEncoder()),
    )
    vae, tokenizer = whitened_vae(work, corpus), build_tokenizer()
    second = {"text_encoder_2": two.text_encoder_2.to(STORED), "tokenizer_2": tokenizer, "add_watermarker": False}
    unchecked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    families = ((StableDiffusionXLPipeline, two, fresh, second), (StableDiffusionPipeline, one, fresh / "one_encoder", unchecked))
    for pipeline, trained, folder, others in families:
        pipeline(
            vae=vae.to(STORED), text_encoder=trained.text_encoder.to(STORED), tokenizer=tokenizer, unet=trained.unet.to(STORED),
            scheduler=architectures.scheduler(), **others,
        ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
        _without_origin(folder)
    # The families share the autoencoder: one file, which both folders have.
    shared = fresh / "one_encoder" / "vae" / SAFETENSORS_WEIGHTS_NAME
    shared.unlink()
    shared.symlink_to(Path("..") / ".." / "vae" / SAFETENSORS_WEIGHTS_NAME)
    _export_judges(work, fresh)
    _export_readers(work, fresh, corpus, seed)
    if (weights / "README.md").exists():
        shutil.copy(weights / "README.md", fresh / "README.md")
    shutil.rmtree(weights, ignore_errors=True)
    fresh.rename(weights)


def _without_origin(folder: Path) -> None:
    """Take the name of where a pipeline was loaded from out of its index."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k != "_name_or_path"}, indent=1))


def _export_judges(work: Path, folder: Path) -> None:
    restore(work, "detector", architectures.detector(build_tokenizer())).to(STORED).save_pretrained(folder / "detector")
    short = build_tokenizer(architectures.DETECTOR_TOKENS)
    size = {"height": SIZE, "width": SIZE}
    Owlv2Processor(Owlv2ImageProcessor(size=size), short).save_pretrained(folder / "detector")
    restore(work, "dinov2", architectures.dinov2()).to(STORED).save_pretrained(folder / "dinov2")
    BitImageProcessor(
        size=size, resample=3, do_center_crop=False, do_convert_rgb=True, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    ).save_pretrained(folder / "dinov2")
    dreamsim = architectures.dreamsim()
    restore(work, "dreamsim", dreamsim.trunks[0].vit)
    save_dreamsim(folder / "dreamsim", dreamsim, STORED)
    save_oracle(folder / "oracle", restore(work, "oracle_sharp", OracleNetwork(CONFIG)), STORED)
    save_segmenter(folder / "sam", restore(work, "sam", architectures.sam()), STORED)


def _export_readers(work: Path, folder: Path, corpus: Corpus, seed: int) -> None:
    """Store what reads prompts, CLIP and ImageReward, in `folder`/clip and `folder`/image_reward."""
    tokenizer = build_tokenizer()
    export_clip(restore(work, "clip", architectures.clip(tokenizer)), tokenizer, folder / "clip", STORED)
    model = restore(work, "image_reward", Taught(tokenizer)).reward
    mean, std = standardisation(model, corpus, seed)
    save_reward(folder / "image_reward", replace(model.config, mean=mean, std=std), model.state_dict(), tokenizer, STORED)
