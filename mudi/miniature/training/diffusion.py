"""Training the tiny diffusion models: the autoencoder on pixels, then UNet and text encoders together on its latents."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler
from torch import nn

from mudi.diffusion import to_pixels
from mudi.miniature import architectures
from mudi.miniature.captions import TOKENS, build_tokenizer, caption, name_table
from mudi.miniature.claims import complete_caption
from mudi.miniature.corpus import SHARE_PAIRS, Corpus, latents_path, training_corpus
from mudi.miniature.training.optimise import averaged, optimise
from mudi.miniature.world import SIZE, Scene, split_identities

LATENT_POSITIONS = (SIZE // 4) ** 2
MIN_SNR = 5.0


def _differences(x: torch.Tensor) -> torch.Tensor:
    """Horizontal and vertical differences of neighbours, flattened: (N, K)."""
    return torch.cat([(x[..., 1:] - x[..., :-1]).flatten(1), (x[..., 1:, :] - x[..., :-1, :]).flatten(1)], 1)


def train_vae(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the autoencoder by L1 + MSE + 0.5 gradient L1 + a small KL, with plain tensors on the CPU."""
    corpus, model = training_corpus(work, seed), architectures.vae()

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        images = to_pixels(corpus.images[np.sort(rng.integers(len(corpus), size=batch))])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(images).latent_dist
            shown = model.decode(posterior.sample(generator=noise)).sample.float()
        return {
            "l1": F.l1_loss(shown, images),
            "mse": F.mse_loss(shown, images),
            "edges": 0.5 * F.l1_loss(_differences(shown), _differences(images)),
            "kl": 1e-4 * posterior.kl().float().mean() / LATENT_POSITIONS,
        }

    optimise("vae", model, loss, steps=steps, learning_rate=4e-3, work=work, seed=seed)


def train_decoder(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit the decoder alone to the modes of the finished encoder, by MSE and a fifth of L1.

    The latents stay what they are, so this can follow or run beside the UNet's training.
    """
    corpus, model = training_corpus(work, seed), architectures.vae()
    model.load_state_dict(averaged(work, "vae"))
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        images = to_pixels(corpus.images[np.sort(rng.integers(len(corpus), size=batch))])
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = model.encode(images).latent_dist.mode()
            shown = model.decode(latents).sample.float()
        return {"mse": F.mse_loss(shown, images), "l1": 0.2 * F.l1_loss(shown, images)}

    optimise("decoder", model, loss, steps=steps, learning_rate=2e-3, work=work, seed=seed)


@torch.no_grad()
def whiten(model: AutoencoderKL, images: torch.Tensor) -> AutoencoderKL:
    """The autoencoder with its latents shifted and scaled to zero mean and unit variance a channel.

    Both maps are folded into the 1 x 1 quant convolutions, so the scaling factor stays 1.
    """
    latents = model.encode(images).latent_dist.mode()
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    quant, post = model.quant_conv, model.post_quant_conv
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std.view(1, -1, 1, 1)
    return model


class Conditioned(nn.Module):
    """UNet and both text encoders as one module, so that one optimiser and one EMA hold them all."""

    empty = 0.05  # share of captions left empty; as many rows again get a condition of zeros

    def __init__(self) -> None:
        super().__init__()
        self.unet = architectures.unet()
        self.text_encoder, self.text_encoder_2 = architectures.text_encoders(build_tokenizer())

    def forward(self, noisy, timesteps, token_ids, silent) -> torch.Tensor:
        """Predicted noise; rows of `silent` get an all-zero condition, as SDXL does for no negative prompt."""
        first = self.text_encoder(token_ids, output_hidden_states=True)
        second = self.text_encoder_2(token_ids, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        keep = (~silent).to(states.dtype)
        time_ids = torch.tensor([[SIZE, SIZE, 0, 0, SIZE, SIZE]], dtype=torch.float32).expand(len(noisy), -1)
        added = {"text_embeds": second.text_embeds * keep[:, None], "time_ids": time_ids}
        return self.unet(noisy, timesteps, states * keep[:, None, None], added_cond_kwargs=added).sample

    def warm_start(self, trained: dict[str, torch.Tensor]) -> None:
        """Go on from weights of the same model."""
        self.load_state_dict({**self.state_dict(), **trained})


class OneEncoder(nn.Module):
    """UNet and text encoder of the one-encoder family as one module."""

    empty = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.unet = architectures.one_encoder_unet()
        self.text_encoder = architectures.one_text_encoder(build_tokenizer())

    def forward(self, noisy, timesteps, token_ids, silent) -> torch.Tensor:
        """Predicted noise. This family's unconditional side is the empty prompt, so `silent` rows keep their own words."""
        return self.unet(noisy, timesteps, self.text_encoder(token_ids).last_hidden_state).sample

    @torch.no_grad()
    def warm_start(self, trained: dict[str, torch.Tensor]) -> None:
        """Begin from the two-encoder model: its second text encoder, all layers of the UNet that both have, and the
        columns of cross-attention's keys and values that read that encoder. New attention starts by adding nothing."""
        own = self.state_dict()
        for key, value in own.items():
            source = trained.get(key.replace("text_encoder.", "text_encoder_2."))
            if source is None:
                if key.startswith("unet.") and ".proj_out." in key:
                    value.zero_()
            elif source.shape == value.shape:
                value.copy_(source)
            elif key.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                value.copy_(source[:, -value.shape[1] :])
            else:
                raise ValueError(f"{key}: shape {tuple(source.shape)} cannot start {tuple(value.shape)}")


@torch.no_grad()
def encode_corpus(path: Path, model: AutoencoderKL, corpus: Corpus) -> None:
    """Keep the posterior modes of every scene, float16 (N, 8, 12, 12), as a .npy file."""
    if not path.exists():
        chunks = [model.encode(to_pixels(corpus.images[i : i + 250])).latent_dist.mode().half().numpy() for i in range(0, len(corpus), 250)]
        np.save(path, np.concatenate(chunks))


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """A training of a UNet with its text encoders, begun from the averaged weights of the stage `start`, if one is named (`warm_start`).

    `draws` moves the seed of batches and noise, so that a second sitting does not repeat the first; the corpus stays. `pairs` is the
    share of scenes with two subjects, `complete` that of captions that name everything, `subject_weight` by how much more an error
    on a subject counts than one behind it.
    """

    name: str
    learning_rate: float
    kind: type[Conditioned | OneEncoder] = Conditioned
    start: str = ""
    draws: int = 0
    pairs: float = SHARE_PAIRS
    complete: float = 0.0
    subject_weight: float = 0.0


FIRST = Sitting(name="unet", learning_rate=1.5e-3)
# With a second, lower schedule: a longer training in two sittings.
SECOND = Sitting(name="unet_long", learning_rate=1.0e-3, start="unet", draws=10)
# The one-encoder family begins from what it shares with the tiny SDXL.
ONE_ENCODER = Sitting(name="unet_one_encoder", learning_rate=1.2e-3, start="unet_long", kind=OneEncoder, draws=6)
# Pairs whose caption names everything are where attributes went to the wrong subject.
COMPLETE = Sitting(name="unet_complete", learning_rate=9e-4, start="unet_long", draws=20, pairs=0.8, complete=0.55, subject_weight=1.0)


def train_unet(sitting: Sitting, work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit noise prediction with min-SNR-5 weights on cached latents and freshly worded captions."""
    corpus, latents = training_corpus(work, seed, pairs=sitting.pairs), np.load(latents_path(work, sitting.pairs), mmap_mode="r")
    tokenizer, names, model = build_tokenizer(), name_table(split_identities()[0]), sitting.kind()
    if sitting.start:
        model.warm_start(averaged(work, sitting.start))
    alphas = DDPMScheduler(**{k: architectures.scheduler().config[k] for k in ("beta_start", "beta_end", "beta_schedule")}).alphas_cumprod
    weights = torch.clamp(MIN_SNR * (1 - alphas) / alphas, max=1.0)

    def worded(scene: Scene, rng: np.random.Generator) -> str:
        return complete_caption(scene, rng) if rng.random() < sitting.complete else caption(scene, rng, names)

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        rows = np.sort(rng.integers(len(corpus), size=batch))
        chance = rng.random(batch)
        texts = ["" if c < model.empty else worded(corpus.scene(r), rng) for r, c in zip(rows, chance, strict=True)]
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        clean = torch.from_numpy(latents[rows].astype(np.float32))
        epsilon = torch.randn(clean.shape, generator=noise)
        # Stratified: one time in each of `batch` equal intervals, shuffled because the rows are sorted.
        t = ((torch.randperm(batch, generator=noise) + torch.rand(batch, generator=noise)) * (1000 / batch)).long()
        a = alphas[t].view(-1, 1, 1, 1)
        # In float32: on a processor without bfloat16 of its own an autocast step takes 3.2 times as long.
        predicted = model(a.sqrt() * clean + (1 - a).sqrt() * epsilon, t, ids, torch.from_numpy((chance > 0.05) & (chance < 0.1)))
        covered = F.avg_pool2d(torch.from_numpy(corpus.labels[rows] > 0).float()[:, None], SIZE // clean.shape[-1])
        counts = 1 + sitting.subject_weight * covered
        error = (counts / counts.mean((1, 2, 3), keepdim=True) * (predicted - epsilon).square()).mean((1, 2, 3))
        return {"loss": (weights[t] * error).mean(), "_mse": error.mean()}

    optimise(sitting.name, model, loss, steps=steps, learning_rate=sitting.learning_rate, work=work, seed=seed + sitting.draws)
