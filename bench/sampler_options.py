"""`python -m bench.sampler_options [BACKBONE] [STEPS]`: what each option of drawing costs a step, as a ratio to plain CFG.

Only the denoising loop is timed, on one thread or a GPU; encoding prompts and decoding are the same for all. The options take turns,
so that what else the machine does falls on all of them; a ratio is the median over turns of an option's time by CFG's in
the same turn. The backbone is `miniature-sd` unless another is named, such as random-sdxl; its weights matter to no time.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

TURNS, STEPS, SEEDS = 15, 10, (1, 2, 3, 4)
PAIR = Path("jobs/configs/miniature/two_dogs")


def main(name: str = "miniature-sd", steps: int = STEPS) -> None:
    import torch

    from mudi import models
    from mudi.dataset import load_combination
    from mudi.text.prompts import fill_prompts

    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone = models.load(name, device, torch.bfloat16 if device == "cuda" else torch.float32)
    pair = fill_prompts(load_combination(PAIR), ["a photo of {subjects} on the grass"])
    options = options_of(steps)
    runs = {label: loop(backbone, pair, sampling) for label, sampling in options.items()}
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for turn in range(TURNS):
        labels = list(runs)
        for label in labels[turn % len(labels) :] + labels[: turn % len(labels)]:
            seconds[label].append(timed(runs[label], device) / steps)
    print(f"{name} on {device}, {len(SEEDS)} pictures at once, {steps} steps, {TURNS} turns")
    print(f"{'':<32}{'ms a step':>10}{'ratio':>8}{'middle half':>16}")
    for label, times in seconds.items():
        ratios = sorted(a / b for a, b in zip(times, seconds["CFG"], strict=True))
        middle = f"{ratios[TURNS // 4]:.3f} to {ratios[-1 - TURNS // 4]:.3f}"
        print(f"{label:<32}{median(times) * 1000:>10.1f}{median(ratios):>8.3f}{middle:>16}")


def options_of(steps: int) -> dict:
    """What is compared, the first being what the others are measured by."""
    from mudi.options import LayoutGuidance, Sampling

    plain = Sampling(steps=steps, gamma=0.0)
    plus = replace(plain, guidance_scale=None, cfg_plus_plus=0.6)
    return {
        "CFG": plain,
        "CFG again": plain,
        "CFG++": plus,
        "adaptive padding": replace(plain, padding="adaptive"),
        "CFG++ and adaptive padding": replace(plus, padding="adaptive"),
        "layout guidance, each step once": replace(plain, layout_guidance=LayoutGuidance(recurrence=0)),
        "layout guidance, each step twice": replace(plain, layout_guidance=LayoutGuidance(recurrence=1)),
    }


def loop(backbone, pair, sampling):
    """A function that denoises the pictures of SEEDS once."""
    from mudi.diffusion import denoise, generators, standard_noise
    from mudi.layout import boxes_of
    from mudi.sampling import layout_edit
    from mudi.text.conditioning import encode_negative, encode_prompts

    prompt, layouts = pair.prompts[0], [boxes_of(pair)[0]] * len(SEEDS)
    positive = encode_prompts(backbone, [prompt.text], sampling.padding).rows([0] * len(SEEDS))
    negative = encode_negative(backbone, sampling.negative_prompt, sampling.padding)
    noise = standard_noise(backbone, generators(SEEDS))

    def run() -> None:
        with layout_edit(backbone, pair, prompt, SEEDS, sampling, layouts) as edit:
            denoise(backbone, noise, positive, negative, steps=sampling.steps, guidance_scale=sampling.guidance, edit=edit)

    return run


def timed(run, device: str) -> float:
    """Seconds until the device has done it."""
    import torch

    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
