"""`python -m bench.ray_against_in_process`: the same chunks by one Ray worker and by the twin in this process, as a ratio.

Both draw, detect, compare and store the same candidates with one thread. Starting, importing and loading come before the
clock starts and are printed beside the ratio; a run pays them once. The two are timed in turns, the ratio is the median.
"""

import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from jobs.driver import say
from jobs.entry import prepare_environment

CHUNKS, BATCH, STEPS, TURNS = 6, 8, 8, 8


def main() -> None:
    prepare_environment()
    from pipeline.settings.config import load_run

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sizes = [f"candidates={CHUNKS * BATCH}", f"sampling.batch={BATCH}", f"sampling.steps={STEPS}", "keep=1", "watched_prompts=[]"]
        quick = ["method.steps=2", "method.batch=1", "rounds=0", "cluster.workers.count=1", f"runs={folder}"]
        config = load_run(Path("jobs/configs/miniature.yaml"), [*sizes, *quick])
        works = {name: Turns(stack, config, address) for name, address in (("in process", "none"), ("Ray", "local"))}
        ratios = []
        for turn in range(TURNS):
            seconds = {name: work.take(Path(folder) / f"{name} {turn}") for name, work in works.items()}
            ratios.append(seconds["Ray"] / seconds["in process"])
            told = "; ".join(f"{name} {value:.1f} s ({value / CHUNKS * 1000:.0f} ms a chunk)" for name, value in seconds.items())
            print(f"turn {turn + 1}: {told}; ratio {ratios[-1]:.3f}", flush=True)
        starts = "; ".join(f"{name} {work.start:.1f} s" for name, work in works.items())
    print(f"Ray with one worker against this process, {CHUNKS} chunks of {BATCH}: {median(ratios):.3f} (target at most 1.05)")
    print(f"starting, importing, loading and a first chunk: {starts}")


class Turns:
    """Workers that are started and warm, and the chunks that they draw again in each turn."""

    def __init__(self, stack: ExitStack, config, address: str) -> None:
        from jobs.driver import started
        from pipeline.carry_out import fit_all, phases_of
        from pipeline.phases import Draws, Fits, expected, follow
        from pipeline.ready import open_folder, ready

        began = time.perf_counter()
        cluster = config.cluster.model_copy(update={"address": address})
        run = ready(config.model_copy(update={"name": address, "cluster": cluster}))
        self.do, start = stack.enter_context(started(cluster))
        start()
        open_folder(run)
        draws: list[Draws] = []

        def answer(phase):
            if isinstance(phase, Fits):
                return fit_all(phase, self.do, lambda *_: None)
            draws.extend([phase] if isinstance(phase, Draws) else [])
            return expected(phase)

        follow(phases_of(run), answer)
        (self.phase,) = draws
        self.take(run.run_dir / "warm", 1)
        self.start = time.perf_counter() - began

    def take(self, folder: Path, chunks: int = CHUNKS) -> float:
        """Seconds in which so many chunks are drawn into an empty folder."""
        from pipeline.tables import store
        from pipeline.workers.draw import Draw

        store.create_tables(folder)
        settings = replace(self.phase.settings, run_dir=str(folder))
        began = time.perf_counter()
        failures = self.do([Draw(chunk=chunk, settings=settings) for chunk in self.phase.chunks[:chunks]], lambda *_: None)
        if failures:
            say(failures[0].reason)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
