"""Self-training as a list of phases: class priors, first fits, then for each round draw, choose and refit; resumable at each.

The one backward arrow of the project is in `phases`: the adapters that a round's kept candidates train draw the next
round. Every phase looks at the run folder and does only the work that is missing there, so a killed run is continued by
starting it again.
"""

from pathlib import Path

from mudi.records import Adapter
from mudi.selection import rewards, select
from mudi.text.prompts import WATCHED
from pipeline import assignments
from pipeline.phases import Choice, Chosen, Draws, Fits, Fitted, Judgements, Phases, Priors
from pipeline.ready import Ready, further_metrics
from pipeline.tables import journal, store
from pipeline.workers.fit_job import subject_fits

Kept = dict[str, Chosen]


def phases(ready: Ready) -> Phases:
    """The phases of a self-training run.

    Round r draws and scores with the adapter of round r; its kept candidates train the adapter of round
    r + 1. The last round is drawn, scored and ranked but trains nothing, so that every refit is judged on
    candidates with fresh seeds. A combination of which no candidate scored above zero keeps its adapter for
    the next round; the table shows that it kept none.
    """
    config, run_dir, combinations = ready.config, ready.run_dir, ready.combinations
    jobs = yield Priors(jobs=tuple(assignments.first_fits(config, run_dir, combinations)))
    seconds = (yield Fits(name="fit", jobs=subject_fits(jobs))).seconds
    fitted: Fitted = yield Fits(name="fit", jobs=jobs)
    metrics = further_metrics(config)
    named = {combination.key: combination for combination in combinations}
    adapters, seconds = list(fitted.adapters), seconds + fitted.seconds
    for round in range(config.rounds + 1):
        chunks = tuple(assignments.plan_round(config, combinations, adapters, round))
        final = journal.read_marker(run_dir, round, "publish") is not None
        settings = assignments.draw_settings(config, run_dir, combinations, ready.methods, ready.pool)
        busy = yield Draws(name=f"round {round} sweep", run_dir=run_dir, chunks=chunks, settings=settings, final=final)
        if metrics:
            yield Judgements(name=f"round {round} metrics", run_dir=run_dir, chunks=chunks, metrics=metrics, combinations=named)
        kept: Kept = yield _choice(ready, round, adapters, {"fit": seconds, **busy}, final)
        if round == config.rounds:
            return
        jobs = tuple(assignments.refits(config, run_dir, combinations, adapters, kept, round))
        refitted: Fitted = yield Fits(name=f"round {round} refit", jobs=jobs)
        made = {adapter.combination: adapter for adapter in refitted.adapters}
        adapters, seconds = [made.get(adapter.combination, adapter) for adapter in adapters], refitted.seconds


def _choice(ready: Ready, round: int, adapters: list[Adapter], seconds: dict, final: bool) -> Choice:
    """Rank a round's candidates and publish it; a published round is final: its kept candidates have trained the next adapter."""
    run_dir, combinations = ready.run_dir, ready.combinations
    keys = [combination.key for combination in combinations]
    if final:
        kept = _published(run_dir, keys, round)
        return Choice(name=f"round {round} selection", choose=lambda: kept, expected=kept)

    def choose() -> Kept:
        kept = _select(ready, round)
        payload = {"adapters": {a.combination: a.sha256 for a in adapters}, "kept": sum(map(len, kept.values())), "seconds": seconds}
        journal.write_marker(run_dir, round, "publish", payload)
        journal.append_event(run_dir, event="published", round=round, **payload)
        for key in [key for key, chosen in kept.items() if not chosen]:
            journal.append_event(run_dir, event="nothing kept", round=round, combination=key)
        return kept

    expected = dict.fromkeys(keys, (("id", "prompt", 0.0),) * ready.config.keep)
    return Choice(name=f"round {round} selection", choose=choose, expected=expected)


def _select(ready: Ready, round: int) -> Kept:
    """Rank the round's candidates by `score.select_by`, store those that train the next adapter, and return them."""
    config, run_dir = ready.config, ready.run_dir
    scores = store.read(run_dir, "scores", round, ["candidate_id", "metric", "value"]).to_pylist()
    values = rewards(scores, config.score.weights)
    candidates = store.read(run_dir, "candidates", round, ["candidate_id", "combination", "prompt_id", "prompt"]).to_pylist()
    kept: Kept = {}
    ranked = []
    for combination in ready.combinations:
        mine = [c for c in candidates if c["combination"] == combination.key and not c["prompt_id"].startswith(WATCHED)]
        scored = [(c["candidate_id"], c["prompt"], values.get(c["candidate_id"])) for c in mine]
        kept[combination.key] = select(
            scored, config.keep, everything=config.retrain.learns_from_all, per_prompt=config.score.per_prompt,
            margin=config.retrain.pair_margin, zero_fails=config.score.zero_fails,
        )  # fmt: skip
        ranked += [(candidate_id, rank, value) for rank, (candidate_id, _, value) in enumerate(kept[combination.key], start=1)]
    store.write_selection(run_dir, round, ranked)
    return kept


def _published(run_dir: Path, keys: list[str], round: int) -> Kept:
    """The kept candidates of a published round, as they are stored."""
    ranked = {row["candidate_id"]: row for row in store.read(run_dir, "selections", round).to_pylist()}
    rows = store.read(run_dir, "candidates", round, ["candidate_id", "combination", "prompt"]).to_pylist()
    chosen = sorted((row for row in rows if row["candidate_id"] in ranked), key=lambda row: ranked[row["candidate_id"]]["rank"])
    told = [(row["combination"], (row["candidate_id"], row["prompt"], ranked[row["candidate_id"]]["value"])) for row in chosen]
    return {key: tuple(candidate for combination, candidate in told if combination == key) for key in keys}
