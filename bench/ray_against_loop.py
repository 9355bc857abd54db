"""`python -m bench.ray_against_loop`: a sweep on Ray against a plain loop over the same chunks, as a ratio.

Both draw, detect, compare and store the same candidates with the same stages. One generator, one thread
each: Ray has no more hands for the expensive stage than the loop, so the ratio is what its machinery costs
(or what the overlap of the stages gives back). Starting workers, importing and loading models come before
the clock starts and are reported beside the ratio; they are paid once a sweep. The two are timed in turns, the ratio is the median.
"""

import os
import tempfile
import time
from pathlib import Path
from statistics import median

from jobs.entry import prepare_environment

CHUNKS, BATCH, STEPS, TURNS = 24, 8, 25, 3


def main() -> None:
    prepare_environment()
    os.environ.setdefault("RAY_worker_niceness", "0")
    import torch

    from mudi import adapters, models
    from mudi.options import LoraSettings
    from pipeline import plan
    from pipeline.assignments import load_combinations, method_of
    from pipeline.settings.config import load_run
    from pipeline.workers import in_process, sweep
    from pipeline.workers.cluster import connected
    from pipeline.workers.stages import StageSettings

    torch.set_num_threads(1)
    sizes = [f"candidates={CHUNKS * BATCH}", f"sampling.batch={BATCH}", f"sampling.steps={STEPS}", "keep=1", "watched_prompts=[]"]
    config = load_run(Path("jobs/configs/miniature.yaml"), sizes)
    combinations = load_combinations(config)
    backbone = models.load("miniature")
    adapters.attach(backbone.unet, LoraSettings(rank=16, alpha=16), 0)
    names = {"backbone": "miniature", "detector": "miniature", "embedders": config.models.embedders.chosen}
    with tempfile.TemporaryDirectory() as folder, connected(config.cluster):
        adapter = adapters.save(
            backbone,
            Path(folder) / "adapter",
            LoraSettings(rank=16, alpha=16),
            method="mudi",
            combination="two_dogs",
            round=0,
            details={},
        )
        chunks = plan.plan_round(
            run="bench", run_seed=0, method="mudi", combination=combinations[0], adapter=adapter, round=0, candidates=CHUNKS * BATCH,
            watched_images=1, batch=BATCH,
        )  # fmt: skip
        settings = StageSettings(
            run_dir=folder, models=names, methods={"mudi": method_of(config)}, threshold=0.4, precision="float32",
            combinations={c.key: c for c in combinations},
        )  # fmt: skip
        ratios = []
        for turn in range(TURNS):
            loop_start, loop_steady = timed(lambda r: in_process.sweep(chunks, settings, config.cluster, r))
            ray_start, ray_steady = timed(lambda r: sweep.sweep(chunks, settings, config.cluster, r))
            ratios.append(ray_steady / loop_steady)
            per_chunk = loop_steady / CHUNKS
            loop = f"loop {loop_steady:.1f} s ({per_chunk * 1000:.0f} ms a chunk) after {loop_start:.1f} s of starting"
            print(f"turn {turn + 1}: {loop}; Ray {ray_steady:.1f} s after {ray_start:.1f} s; ratio {ratios[-1]:.3f}", flush=True)
    print(f"Ray against the plain loop, {CHUNKS} chunks of {BATCH}: {median(ratios):.3f} (target at most 1.10)")


def timed(work) -> tuple[float, float]:
    """Seconds until the first chunk's drawing began, and from there until the last chunk was stored."""
    started, begun = time.time(), []
    work(lambda chunk_id, candidates, times: begun.append(times["began"]))
    return min(begun) - started, time.time() - min(begun)


if __name__ == "__main__":
    main()
