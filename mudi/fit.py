"""The one optimisation loop: examples and a loss in, trained LoRA matrices and token rows out, exactly resumable."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from mudi import adapters
from mudi.backbone import Backbone
from mudi.diffusion import alphas_cumprod, clean_scale, predict, target_of, to_pixels
from mudi.records import Report
from mudi.text import tokens
from mudi.text.conditioning import Conditioning, encode_prompts, join

# The newest may be cut short by whatever ended the run.
CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Example:
    """One training picture: uint8 (S, S, 3) with S the backbone's resolution, and its prompt.

    `prior` marks a picture of the class, not of the subject. `key` names a picture that comes back
    unchanged, so that it goes through the autoencoder once; None for fresh compositions. `weight` is a
    float32 (S, S) loss weight, None for one everywhere. `reward` is how much of it counts as good, 0..1. With `as_before` it
    gets the noise and the timestep of the example before it.
    """

    image: np.ndarray
    prompt: str
    prior: bool = False
    key: str | None = None
    weight: np.ndarray | None = None
    reward: float = 1.0
    as_before: bool = False


@dataclass(frozen=True)
class Noised:
    """What a loss sees of a batch: what the UNet should answer (B, C, h, w), noise or velocity as the model was trained,
    which rows are priors (B,) bool, the loss weights (B, 1, h, w) or None, the rewards (B,), and by how much an error of the
    answer is one of the clean latents (B,)."""

    target: torch.Tensor
    prior: torch.Tensor
    weights: torch.Tensor | None
    rewards: torch.Tensor | None = None
    clean_scale: torch.Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """The optimiser. Defaults are MuDI's released ones: AdamW, constant rate, clip 1, batch 1 accumulated twice.

    `noise_offset` times one more normal number a row and channel is added to the noise, the same in all places; 0 draws none.
    Timesteps are uniform from `noise_from` on.
    """

    steps: int
    learning_rate: float = 1e-4
    batch: int = 1
    accumulation: int = 2
    weight_decay: float = 1e-4
    clip: float = 1.0
    noise_offset: float = 0.0
    noise_from: int = 0
    checkpoint_every: int = 200


Predict = Callable[[str | None], torch.Tensor]
Examples = Callable[[int, np.random.Generator], list[Example]]
Loss = Callable[[Noised, Predict], torch.Tensor]
Encode = Callable[[list[str]], Conditioning]


class _Inputs:
    """Examples to latents and conditions, with both caches: prompts, and posteriors of recurring pictures.

    Conditions are encoded anew for every batch while what encodes them is trained: `encode` where it is given, token rows.
    """

    def __init__(self, backbone: Backbone, encode: Encode | None) -> None:
        self.backbone = backbone
        self.words_move = encode is not None or bool(tokens.row_parameters(backbone))
        self.encode = encode or partial(encode_prompts, backbone)
        self.conditions: dict[str, Conditioning] = {}
        self.posteriors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def condition(self, prompts: list[str]) -> Conditioning:
        if self.words_move:
            return self.encode(prompts)
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.conditions:
                self.conditions[prompt] = self.encode([prompt])
        return join(*(self.conditions[prompt] for prompt in prompts))

    @torch.no_grad()
    def posterior(self, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (B, C, h, w) of each picture, encoded alone.

        A batch size changes the last bits, and the cache is empty after a restart: encoded together, a
        picture's bits would depend on which neighbours it first came with, and a resumed fit would differ.
        """
        pairs = []
        for example in examples:
            pair = self.posteriors.get(example.key)
            if pair is None:
                pixels = to_pixels([example.image]).to(self.backbone.device, self.backbone.vae.dtype)
                distribution = self.backbone.vae.encode(pixels).latent_dist
                pair = (distribution.mean[0].float(), distribution.std[0].float())
            if example.key is not None:
                self.posteriors[example.key] = pair
            pairs.append(pair)
        return torch.stack([mean for mean, _ in pairs]), torch.stack([std for _, std in pairs])

    def latents(self, examples: list[Example], source: torch.Generator) -> torch.Tensor:
        mean, std = self.posterior(examples)
        drawn = torch.randn(mean.shape, generator=source).to(mean.device)
        return (mean + std * drawn) * self.backbone.vae.config.scaling_factor


def _weights(examples: list[Example], latents: torch.Tensor) -> torch.Tensor | None:
    if all(e.weight is None for e in examples):
        return None
    rows = [np.ones(e.image.shape[:2], np.float32) if e.weight is None else e.weight for e in examples]
    stacked = torch.from_numpy(np.stack(rows))[:, None].to(latents.device)
    return torch.nn.functional.interpolate(stacked, latents.shape[-2:], mode="bilinear")


def _noised(
    inputs: _Inputs, examples: list[Example], source: torch.Generator, alphas: torch.Tensor, settings: FitSettings
) -> tuple[Noised, Predict]:  # fmt: skip
    """A batch at one random timestep a row, and the function that predicts its noise with a named adapter."""
    backbone = inputs.backbone
    latents = inputs.latents(examples, source)
    noise = torch.randn(latents.shape, generator=source).to(latents.device)
    timesteps = torch.randint(settings.noise_from, len(alphas), (len(examples),), generator=source)
    if settings.noise_offset:
        noise = noise + settings.noise_offset * torch.randn((*noise.shape[:2], 1, 1), generator=source).to(noise.device)
    for row, example in enumerate(examples):
        if example.as_before:
            noise[row], timesteps[row] = noise[row - 1], timesteps[row - 1]
    signal = alphas[timesteps].view(-1, 1, 1, 1).to(latents.device)
    noisy = (signal.sqrt() * latents + (1 - signal).sqrt() * noise).to(backbone.dtype)
    condition = inputs.condition([e.prompt for e in examples])

    def answer(adapter: str | None) -> torch.Tensor:
        adapters.activate(backbone.unet, adapter)
        with nullcontext() if adapter == adapters.TRAINED else torch.no_grad():
            return predict(backbone, noisy, timesteps, condition)

    prior = torch.tensor([e.prior for e in examples], device=latents.device)
    rewards = torch.tensor([e.reward for e in examples], device=latents.device)
    target, weights = target_of(backbone, latents, noise, signal), _weights(examples, latents)
    return Noised(target, prior, weights, rewards, clean_scale(backbone, signal.flatten())), answer


def _save_checkpoint(work: Path, step: int, trained: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
    tensors = {f"weight.{i}": p.detach().cpu().clone() for i, p in enumerate(trained)}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{name}": value.cpu().clone() for name, value in state.items()}
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"step-{step:07d}.safetensors"
    save_file(tensors, path.with_suffix(".part"))
    path.with_suffix(".part").rename(path)
    for old in sorted(work.glob("step-*.safetensors"))[:-CHECKPOINTS_KEPT]:
        old.unlink()


def _is_complete(path: Path) -> bool:
    """Whether the file has all the bytes its header promises."""
    try:
        with safe_open(path, "pt") as file:
            return bool(file.keys())
    except SafetensorError:
        return False


def _restore(work: Path, trained: list[torch.nn.Parameter], optimiser: torch.optim.Optimizer) -> int:
    """Continue from the newest complete checkpoint; a cut one is passed over. The step it holds, or 0."""
    for path in sorted(work.glob("step-*.safetensors"), reverse=True):
        if not _is_complete(path):
            continue
        tensors = load_file(path)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            kind, index, *name = key.split(".")
            if kind == "weight":
                trained[int(index)].data.copy_(value)
            else:
                state.setdefault(int(index), {})[name[0]] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(path.stem.removeprefix("step-"))
    return 0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Parameters that a fit moves, at a learning rate of their own or at that of the settings."""

    parameters: Sequence[torch.nn.Parameter]
    learning_rate: float | None = None


def fit(
    backbone: Backbone, examples: Examples, loss: Loss, settings: FitSettings, *, work: Path, seed: int, report: Report | None = None,
    trained: Sequence[Trained] = (), encode: Encode | None = None,
) -> float:  # fmt: skip
    """Train what is on the backbone, or the groups `trained`; the mean loss of the last tenth of the steps.

    What is on the backbone: the adapter `default` and the token rows; either may be absent, not both. `encode` makes
    conditions of prompts, with gradients if it is trained; by default `encode_prompts`. The mean is NaN if no step was
    left to take. `examples(step, rng)` gives one micro-batch; `loss(noised, predict)`
    calls `predict` with the adapter it needs: "default", "reference" or None for the base model, the last two without
    gradients, and "default" last, so that gradient checkpointing recomputes with it.
    All randomness of optimiser step s comes from (seed, s, micro-batch), so a run resumed from a checkpoint
    in `work` takes exactly the steps that an uninterrupted one would. Raises FloatingPointError if the loss
    is not finite; the checkpoints before it stay.
    """
    adapters.activate(backbone.unet, adapters.TRAINED)
    groups = trained or [Trained(parameters=[*adapters.parameters(backbone.unet), *tokens.row_parameters(backbone)])]
    moved = [p for group in groups for p in group.parameters]
    rates = [{"params": list(group.parameters), "lr": group.learning_rate or settings.learning_rate} for group in groups]
    optimiser = torch.optim.AdamW(rates, betas=(0.9, 0.999), weight_decay=settings.weight_decay, fused=True)
    inputs, alphas, tail = _Inputs(backbone, encode), alphas_cumprod(backbone), []
    for step in range(_restore(work, moved, optimiser), settings.steps):
        total = 0.0
        for micro in range(settings.accumulation):
            rng = np.random.default_rng((seed, step, micro))
            source = torch.Generator().manual_seed(int(rng.integers(2**62)))
            value = loss(*_noised(inputs, examples(step, rng), source, alphas, settings)) / settings.accumulation
            value.backward()
            total += value.item()
        if not np.isfinite(total):
            raise FloatingPointError(f"loss is {total} at step {step}: lower learning_rate ({settings.learning_rate}) or use float32")
        torch.nn.utils.clip_grad_norm_(moved, settings.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if step >= int(0.9 * settings.steps):
            tail.append(total)
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < settings.steps:
            _save_checkpoint(work, step + 1, moved, optimiser)
        if report is not None:
            report(step + 1, total)
    return float(np.mean(tail)) if tail else float("nan")
