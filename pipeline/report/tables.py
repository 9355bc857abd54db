"""A benchmark's numbers, from the tables of its run folder alone: cells, claims with verdicts, validity, costs.

Scores are compared on images of one seed, and every interval draws combinations, fits and prompts anew
(`statistics.paired_bootstrap`). Gaps in the plan are named; a mean that lacks a whole combination is not given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.report import fitted
from pipeline.report.records import Benchmark, Cell, Claim, Cost, Table, Validity, Verdict
from pipeline.report.scores import DRIFT, Plan, expected, gaps, join_scores, load_fits, load_images, read_plan, settled, undefined
from pipeline.report.statistics import Estimate, difference, paired_bootstrap, validity, wilson
from pipeline.tables.run_folder import read_run

RATES = ("count_correct", "oracle_success", "oracle_place")
TRUTH = "oracle_success"
ORACLE = "oracle_"
# The paper's numbers (Jang et al., arXiv 2404.04243v1) stand beside ours and are never compared by value: they are of SDXL at 1024
# pixels, eight combinations of photos, 40 prompts that were not published, and judges of full size. Only which of two methods is
# ahead can be compared. Sources: Table 1 (D&C, ImageReward, CLIP score, people), Table 2 (the "max" form), the ablation table.
PAPER_SCORES = (
    "dnc_linear_dreamsim", "dnc_max_dreamsim", "dnc_linear_dinov2", "dnc_max_dinov2", "image_reward", "clip_text", "oracle_success",
)  # fmt: skip
# Arm -> its means. Under oracle_success stands the share that people called a success: where the paper asked people, a benchmark of
# rendered subjects asks the oracle.
PUBLISHED = {
    "textual_inversion": (0.021, 0.213, 0.019, 0.211, -0.149, 0.227, 0.003),
    "dreambooth": (0.147, 0.696, 0.105, 0.627, 0.579, 0.255, 0.095),
    "custom_diffusion": (0.105, None, 0.078, None, 0.144, 0.243, None),
    "cut_mix": (0.237, 0.800, 0.181, 0.703, -0.287, 0.225, 0.357),
    "mudi": (0.434, 0.998, 0.293, 0.857, 0.770, 0.263, 0.703),
    "mudi_without_seg_mix": (0.236, None, 0.133, None, None, None, None),
    "mudi_without_initialization": (0.291, None, 0.195, None, None, None, None),
    "mudi_without_descriptive_class": (0.378, None, 0.271, None, None, None, None),
}
# Score -> (Spearman, AUROC) against people's good or bad, Fig. 10.
PUBLISHED_VALIDITY = {
    "image_dreamsim": (0.179, 0.606),
    "image_dinov2": (0.099, 0.559),
    "dnc_linear_dreamsim": (0.455, 0.764),
    "dnc_linear_dinov2": (0.414, 0.741),
}


def benchmark(run_dir: Path) -> Benchmark:
    """The tables of a benchmark, finished or not. Raises ValueError if the folder holds no benchmark."""
    plan, facts = read_plan(run_dir), read_run(run_dir)
    config = facts["config"]
    fits = load_fits(run_dir)
    images = load_images(run_dir, fits)
    scores = join_scores(run_dir, images, fits)
    asked = {name for table in config["tables"] for name in table["metrics"]} | {claim["metric"] for claim in config["claims"]}
    drifts = DRIFT in asked or fits["started_from"].notna().any()
    metrics = {**facts["metrics"], **({DRIFT: False} if drifts else {})}
    cells = _cells(plan, scores, config["tables"])
    return Benchmark(
        name=facts["name"],
        created=facts["created"],
        metrics=metrics,
        methods=plan.methods,
        combinations=plan.combinations,
        tables=tuple(_table(settings, cells) for settings in config["tables"]),
        claims=tuple(_claim(plan, scores, settings, metrics.get(settings["metric"], True)) for settings in config["claims"]),
        validity=tuple(_validity(scores, facts["metrics"])),
        costs=tuple(_cost(method, fits, images) for method in plan.methods),
        missing=tuple(gaps(plan, images, fits, scores, metrics)),
    )


def verdict(estimate: Estimate, margin: float = 0.0) -> Verdict:
    """The verdict on the claim that better minus worse, of which `estimate` is given, exceeds -margin."""
    if estimate.low is None or estimate.high is None:
        return "undecided"
    if estimate.low > -margin:
        return "holds"
    return "fails" if estimate.high < -margin else "undecided"


def _cells(plan: Plan, scores: pd.DataFrame, tables: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Cell]:
    skipped = undefined(scores)
    groups = dict(tuple(settled(scores).groupby(["method", "metric"])))
    names = dict.fromkeys((method, metric) for table in tables for method in table["methods"] for metric in table["metrics"])
    return {name: _cell(plan, *name, groups.get(name, scores.iloc[:0]), skipped) for name in names}


def _cell(plan: Plan, method: str, metric: str, rows: pd.DataFrame, skipped: set[tuple[str, str, str]]) -> Cell:
    wanted = {combination: expected(plan, metric, combination, skipped) for combination in plan.combinations}
    there = rows[rows["combination"].isin([combination for combination, count in wanted.items() if count])]
    groups = dict(tuple(there.dropna(subset=["value"]).groupby("combination")))
    whole = bool(groups) and all(combination in groups for combination, count in wanted.items() if count)
    rates = {key: wilson(int(group["value"].sum()), len(group)) for key, group in groups.items()} if metric in RATES else {}
    return Cell(
        method=method,
        metric=metric,
        estimate=paired_bootstrap(pd.concat(groups.values())) if whole else None,
        per_combination=_per_combination(plan, groups),
        missing=sum(wanted.values()) - len(there),
        published=dict(zip(PAPER_SCORES, PUBLISHED.get(method, ()))).get(metric),
        rates={key: rates[key] for key in plan.combinations if key in rates},
    )


def _per_combination(plan: Plan, groups: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Each combination's mean, its cells weighing equally, in the order planned."""
    means = {key: float(group.groupby(["fit", "prompt_id"])["value"].mean().mean()) for key, group in groups.items()}
    return {key: means[key] for key in plan.combinations if key in means}


def _table(settings: Mapping[str, Any], cells: Mapping[tuple[str, str], Cell]) -> Table:
    methods, metrics = tuple(settings["methods"]), tuple(settings["metrics"])
    chosen = tuple(cells[method, metric] for method in methods for metric in metrics)
    if not settings.get("paper", True):
        chosen = tuple(replace(cell, published=None) for cell in chosen)
    return Table(name=settings["name"], title=settings["title"], methods=methods, metrics=metrics, cells=chosen)


def _claim(plan: Plan, scores: pd.DataFrame, settings: Mapping[str, Any], higher_is_better: bool) -> Claim:
    mine = scores[scores["metric"] == settings["metric"]]
    wanted = [key for key in plan.combinations if expected(plan, settings["metric"], key, undefined(mine))]
    arms = [mine[(mine["method"] == method) & mine["combination"].isin(wanted)] for method in (settings["better"], settings["worse"])]
    frame = difference(*arms).frame
    frame = frame.assign(value=frame["value"] if higher_is_better else -frame["value"])
    groups = dict(tuple(frame.groupby("combination")))
    estimate = paired_bootstrap(frame) if groups and set(groups) == set(wanted) else None
    answer = "missing" if estimate is None else verdict(estimate, settings["margin"])
    return Claim(**settings, estimate=estimate, per_combination=_per_combination(plan, groups), verdict=answer)


def _validity(scores: pd.DataFrame, metrics: Mapping[str, bool]) -> list[Validity]:
    """Each score against the oracle's success; the oracle's own scores are left out, since they would judge themselves."""
    known = scores.dropna(subset=["value"])
    truth = known[known["metric"] == TRUTH][["candidate_id", "combination", "value"]].rename(columns={"value": "truth"})
    found = []
    for metric, higher_is_better in metrics.items() if len(truth) else ():
        both = known[known["metric"] == metric].merge(truth.drop(columns="combination"), on="candidate_id")
        if metric.startswith(ORACLE) or not len(both):
            continue
        correlation, area = validity(both.assign(value=both["value"] if higher_is_better else -both["value"]))
        papers = dict(zip(("published_spearman", "published_auroc"), PUBLISHED_VALIDITY.get(metric, (None, None))))
        found.append(Validity(metric=metric, images=len(both), spearman=correlation, auroc=area, **papers))
    mine = known[known["metric"].isin([row.metric for row in found])]
    together = fitted.fitted(mine, truth) if len(found) > 1 else None
    if together is not None:
        correlation, area = validity(together)
        found.append(
            Validity(
                metric=fitted.NAME, images=len(together), spearman=correlation, auroc=area, published_spearman=None, published_auroc=None
            )
        )
    return found


def _cost(method: str, fits: pd.DataFrame, images: pd.DataFrame) -> Cost:
    mine, drawn = fits[fits["method"] == method], images[images["method"] == method]
    # The fit of a shared adapter counts for every arm that uses it.
    made = fits.dropna(subset=["seconds"]).set_index(["combination", "adapter_sha256"])["seconds"].to_dict()
    keys = mine[["combination", "adapter_sha256"]].itertuples(index=False, name=None)
    seconds = [made[key] for key in keys if key in made]
    return Cost(
        method=method,
        fits=len(mine),
        fit_seconds=sum(seconds) / len(seconds) if seconds else None,
        images=len(drawn),
        seconds_per_image=float(drawn["seconds"].mean()) if len(drawn) else None,
        parameters=int(mine["parameters"].max()) if len(mine) else None,
        payload_bytes=round(mine["payload_bytes"].mean()) if mine["payload_bytes"].notna().any() else None,
        peak_bytes=int(mine["peak_bytes"].max()) if mine["peak_bytes"].notna().any() else None,
    )
