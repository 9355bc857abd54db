"""The loop that trains every tiny model: data-parallel AdamW with a cosine schedule, EMA and exact resume."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

EMA_DECAY = 0.9985
Loss = Callable[[np.random.Generator, torch.Generator], dict[str, torch.Tensor]]


def _schedule(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    if not dist.is_initialized():
        return
    present = [p for p in parameters if p.grad is not None]
    flat = torch.cat([p.grad.flatten() for p in present])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for p, g in zip(present, flat.split([p.numel() for p in present]), strict=True):
        p.grad.copy_(g.view_as(p))


def _checkpoint(path: Path, module: nn.Module, ema: dict, optimiser: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model.{k}": v.contiguous() for k, v in module.state_dict().items()}
    tensors |= {f"ema.{k}": v.contiguous() for k, v in ema.items()}
    for i, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{i}.{k}": v.contiguous() for k, v in state.items()}
    save_file({k: v.clone() for k, v in tensors.items()}, path.with_suffix(".part"), metadata={"step": str(step)})
    path.with_suffix(".part").replace(path)


def _restore(path: Path, module: nn.Module, ema: dict, optimiser: torch.optim.Optimizer) -> None:
    tensors = load_file(path)
    module.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for k in ema:
        ema[k].copy_(tensors[f"ema.{k}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for k, v in tensors.items():
        if k.startswith("adam."):
            _, i, name = k.split(".")
            state.setdefault(int(i), {})[name] = v
    saved = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": saved["param_groups"]})


def _step_of(path: Path) -> int:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return int(header["__metadata__"]["step"])


def optimise(
    name: str, module: nn.Module, loss: Loss, *, steps: int, learning_rate: float, work: Path, seed: int,
    warmup: int = 100, weight_decay: float = 0.01, report_every: int = 50, minutes_between_checkpoints: float = 2.0,
) -> nn.Module:  # fmt: skip
    """`module` holding the EMA of its trained weights.

    `loss(numpy_rng, torch_rng)` draws its own batch and returns named scalars; those without a
    leading underscore are summed and minimised. Both generators are derived from (seed, rank, step),
    so a resumed run sees the batches that an uninterrupted one would. Under an initialised process
    group gradients are averaged over the ranks. Checkpoints go to `work/NAME.safetensors`.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True)
    ema = {k: v.detach().clone() for k, v in module.state_dict().items() if v.is_floating_point()}
    path, start = work / f"{name}.safetensors", 0
    if path.exists():
        start = _step_of(path)
        _restore(path, module, ema, optimiser)
    began = saved = time.monotonic()
    sums: dict[str, float] = {}
    module.train()
    for step in range(start, steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * _schedule(step, steps, warmup)
        terms = loss(np.random.default_rng((seed, rank, step)), torch.Generator().manual_seed(seed * 1_000_003 + rank * 500_009 + step))
        sum(v for k, v in terms.items() if not k.startswith("_")).backward()
        _average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        state = module.state_dict()
        torch._foreach_lerp_(list(ema.values()), [state[k] for k in ema], 1 - decay)
        for k, v in terms.items():
            sums[k] = sums.get(k, 0.0) + float(v.detach())
        if rank == 0 and ((step + 1) % report_every == 0 or step + 1 == steps):
            done = (step - start) % report_every + 1
            shown = "  ".join(f"{k.lstrip('_')} {v / done:.4f}" for k, v in sums.items())
            print(f"{name} {step + 1}/{steps}  {shown}  {(time.monotonic() - began) / (step + 1 - start):.3f} s/step", flush=True)
        if (step + 1 - start) % report_every == 0:
            sums = {}
        if rank == 0 and (time.monotonic() - saved > 60 * minutes_between_checkpoints or step + 1 == steps):
            saved = time.monotonic()
            _checkpoint(path, module, ema, optimiser, step + 1)
    module.load_state_dict({**module.state_dict(), **ema})
    return module.eval()


def in_parallel(worker: Callable[..., None], workers: int, *arguments) -> None:
    """Run `worker(*arguments)` in `workers` processes of one thread each, joined by gloo.

    Two processes of one thread train these models 1.5 to 2 times as fast as one of two threads.
    """
    if workers == 1:
        worker(*arguments)
        return
    store = f"file://{arguments[0]}/rendezvous-{time.time_ns()}"
    torch.multiprocessing.spawn(_ranked, (workers, store, worker, arguments), nprocs=workers)


def _ranked(rank: int, workers: int, store: str, worker: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
    worker(*arguments)
    dist.destroy_process_group()
