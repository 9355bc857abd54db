"""Rounds of self-training on top of arms: a pool drawn by the adapter of the round before, a choice of it, a refit on that.

Rounds count from 0 here, as the tables of the pools do. Nothing is drawn or fitted twice: arms with the same settings share their
rounds, also where one goes on for longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from mudi.metrics import METRICS
from mudi.records import Adapter
from mudi.selection import rewards, select
from mudi.text import prompts
from pipeline import arms as planning
from pipeline.arms import ResolvedArm
from pipeline.assignments import draw_settings, fit_seed, located
from pipeline.phases import Choice, Chosen, Draws, Judgements, undrawn
from pipeline.plan import Chunk
from pipeline.ready import Ready, further_metrics
from pipeline.settings.benchmark_config import Refit
from pipeline.settings.config import Scoring
from pipeline.settings.prompt_file import training_prompts
from pipeline.tables import journal, store
from pipeline.workers.fit_job import FitJob

# (arm, combination, fit)
Cell = tuple[str, str, int]
# The adapters that a cell's fits made, in their order: one of the arm's own, or one of each refit that found something to train on.
Made = Mapping[Cell, tuple[Adapter, ...]]
# Pools are drawn with seeds of their own, or a pool's noise would come back in the evaluation.
POOL_SEED = 1


def pool_dir(run_dir: Path) -> Path:
    """The tables of the candidates that refits choose from, apart from the pictures that are reported."""
    return run_dir / "pool"


def most_rounds(arms: Mapping[str, ResolvedArm]) -> int:
    """How many rounds the longest refit has, 0 where there is none."""
    return max((arm.refit.rounds for arm in arms.values() if arm.refit), default=0)


def name_in(round: int, phase: str) -> str:
    """How a phase of a round is called; those of the first go without its number."""
    return f"round {round + 1} {phase}" if round else phase


def starts(ready: Ready, made: Made, round: int) -> dict[Cell, Adapter]:
    """The adapters that draw a round's pools and that its refits start from, of every cell that has such a round: that of the cell's
    last refit, or while it has none that of the arm below."""
    return {
        cell: (made.get(cell) or made[arm.refit.of, combination.key, fit])[-1]
        for arm, combination, fit in product(ready.arms.values(), ready.combinations, range(ready.config.fits))
        if arm.refit and arm.refit.rounds > round
        for cell in [(arm.label, combination.key, fit)]
    }


def folder_after(ready: Ready, cell: Cell, round: int) -> Path:
    """Where a cell's adapter lies that the refit of a round makes."""
    label, combination, fit = cell
    return planning.adapter_folder(ready.run_dir, ready.config, ready.arms, ready.arms[label], combination, fit, round + 1)


def pool(ready: Ready, before: Mapping[Cell, Adapter], round: int) -> Draws:
    """A round's pools, one for each adapter `before` it and way of drawing."""
    tables = pool_dir(ready.run_dir)
    settings = draw_settings(ready.config, tables, ready.combinations, ready.methods)
    return Draws(name=name_in(round, "pool"), run_dir=tables, chunks=tuple(_chunks(ready, before, round)), settings=settings)


def _chunks(ready: Ready, before: Mapping[Cell, Adapter], round: int) -> list[Chunk]:
    config, arms, chunks = ready.config, ready.arms, []
    pools = {arms[label].pool.label: arms[label] for label, _, _ in before}
    for (pool, arm), combination in product(pools.items(), ready.combinations):
        bare = replace(arm.pool.method.view(combination), prompts=())
        named = prompts.fill_prompts(bare, training_prompts(config, combination.key))
        adapters = [found for (label, key, _), found in before.items() if (arms[label].pool.label, key) == (pool, combination.key)]
        chunks += planning.chunks_of(config, pool, named, adapters, config.seed + POOL_SEED, arm.refit.pool, round)
    return chunks


def judgements(ready: Ready, pool: Draws, round: int) -> Judgements:
    """The metrics of a round's pools that `score.select_by` names and drawing does not give."""
    config = ready.config
    wanted = {name: w for name, w in further_metrics(config).items() if set(METRICS[name].NAMES) & set(config.score.weights)}
    named = {c.key: prompts.fill_prompts(replace(c, prompts=()), training_prompts(config, c.key)) for c in ready.combinations}
    return Judgements(
        name=name_in(round, "pool metrics"), run_dir=pool.run_dir, chunks=pool.chunks, metrics=wanted, combinations=named,
    )  # fmt: skip


def choice(ready: Ready, pool: Draws, before: Mapping[Cell, Adapter], round: int) -> Choice:
    """Select what trains a round's refits from its pools, if they are drawn; before that every refit is expected to find as many as it
    keeps."""

    def choose() -> dict[Cell, Chosen]:
        kept = _select(ready, before, round)
        for cell in [cell for cell, chosen in kept.items() if not chosen]:
            journal.append_event(ready.run_dir, event="nothing kept", round=round, cell=cell)
        return kept

    if pool.run_dir.is_dir() and not undrawn(pool):
        expected = _select(ready, before, round)
    else:
        expected = {cell: (("id", "prompt", 0.0),) * ready.arms[cell[0]].refit.keep for cell in before}
    return Choice(name=name_in(round, "selection"), choose=choose, expected=expected)


def _select(ready: Ready, before: Mapping[Cell, Adapter], round: int) -> dict[Cell, Chosen]:
    """Cell -> the candidates of its pool that train its refit."""
    config, tables = ready.config, pool_dir(ready.run_dir)
    scores = store.read(tables, "scores", round, ["candidate_id", "metric", "value"]).to_pylist()
    values = rewards(scores, config.score.weights)
    columns = ["candidate_id", "method", "combination", "adapter_sha256", "prompt"]
    rows = store.read(tables, "candidates", round, columns).to_pylist()
    kept = {}
    for (label, combination, fit), adapter in before.items():
        arm = ready.arms[label]
        mine = sorted(
            (row["candidate_id"], row["prompt"], values.get(row["candidate_id"]))
            for row in rows
            if (row["method"], row["combination"], row["adapter_sha256"]) == (arm.pool.label, combination, adapter.sha256)
        )
        # Numpy fills the numbers of a seed up with zeros, so a first round's are those of (seed, fit).
        rng = np.random.default_rng((config.seed, fit, round))
        kept[label, combination, fit] = choose(arm.refit, mine, rng, config.score)
    return kept


def choose(refit: Refit, candidates: Sequence[tuple[str, str, float | None]], rng: np.random.Generator, score: Scoring) -> Chosen:
    """Which candidates of a pool (id, prompt, value) train a refit: those that its objective wants, or `keep` of those that have a
    score, zeros included, at random."""
    if refit.select == "top":
        return select(
            candidates, refit.keep, everything=refit.learns_from_all, per_prompt=score.per_prompt, margin=refit.pair_margin,
            zero_fails=score.zero_fails,
        )  # fmt: skip
    scored = [candidate for candidate in candidates if candidate[2] is not None]
    return tuple(scored[i] for i in sorted(rng.permutation(len(scored))[: refit.keep]))


def jobs(ready: Ready, before: Mapping[Cell, Adapter], kept: Mapping[Cell, Chosen], round: int) -> tuple[FitJob, ...]:
    """One job for each refit of a round. Where nothing was kept there is none."""
    config, combinations = ready.config, {combination.key: combination for combination in ready.combinations}
    found: dict[Path, FitJob] = {}
    for cell, start in before.items():
        (label, combination, fit), arm, folder = cell, ready.arms[cell[0]], folder_after(ready, cell, round)
        if not kept[cell]:
            continue
        job = FitJob(
            label=f"{label} {combination} {fit}", combination=arm.options.view(combinations[combination]), method=arm.method,
            hyperparameters={},
            backbone=located(config.models.backbone), precision=config.precision, out_dir=str(folder),
            seed=fit_seed(config.seed, combination, fit, *([round] if round else [])), steps=arm.refit.steps, start=start,
            kept=kept[cell], round=round, retraining=arm.refit.retraining, run_dir=str(pool_dir(ready.run_dir)),
        )  # fmt: skip
        found.setdefault(folder, job)
    return tuple(found.values())
