"""The scores of a benchmark so far, one row an image and score, and the gaps in its plan."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mudi.metrics import MAY_LACK
from pipeline.tables import store
from pipeline.tables.run_folder import read_run

DRIFT = "drift"
COLUMNS = ["method", "combination", "fit", "prompt_id", "index", "seed", "metric", "value", "candidate_id"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The images that a benchmark plans. prompts: combination -> prompt ids; images: number for one prompt and fit."""

    methods: tuple[str, ...]
    combinations: tuple[str, ...]
    prompts: Mapping[str, tuple[str, ...]]
    fits: int
    images: int

    def planned(self, combination: str) -> int:
        """Images of one arm and one fit of the combination."""
        return len(self.prompts[combination]) * self.images


def read_plan(run_dir: Path) -> Plan:
    """The plan of a benchmark's folder. Raises ValueError if the folder holds no benchmark."""
    facts = read_run(run_dir)
    if facts.get("kind") != "benchmark":
        raise ValueError(f"{run_dir}: no benchmark but a run of another kind; give the folder that `mudi benchmark` made")
    config = facts["config"]
    combinations = tuple(Path(folder).name for folder in config["combinations"])
    return Plan(
        methods=tuple(config["methods"]),
        combinations=combinations,
        prompts={key: tuple(facts["prompts"][key]) for key in combinations},
        fits=config["fits"],
        images=config["images"],
    )


def load_fits(run_dir: Path) -> pd.DataFrame:
    """The fits table. Raises ValueError if a fit is stored twice, or if two fits of an arm have one adapter, by which
    images are told apart."""
    fits = store.read(run_dir, "fits").to_pandas()
    for column in ("adapter_sha256", "fit"):
        if (twice := fits.duplicated(["method", "combination", column])).any():
            row = fits[twice].iloc[0]
            raise ValueError(f"{run_dir}: fits: {row.method} / {row.combination} has {column} {row[column]} twice; write each fit once")
    return fits


def load_images(run_dir: Path, fits: pd.DataFrame) -> pd.DataFrame:
    """One row a drawn image (status "ok") with its `fit`, null if no fit has its adapter."""
    candidates = store.read(run_dir, "candidates").to_pandas()
    keys = ["method", "combination", "adapter_sha256"]
    images = candidates[candidates["status"] == "ok"].merge(fits[[*keys, "fit"]], on=keys, how="left")
    cell = ["method", "combination", "fit", "prompt_id", "index"]
    if (twice := images["fit"].notna() & images.duplicated(cell)).any():
        raise ValueError(f"{run_dir}: stored twice: {images[twice].iloc[0][cell].to_dict()}; move the run folder away and start again")
    return images


def load_scores(run_dir: Path) -> pd.DataFrame:
    """One row an image and score: method, combination, fit, prompt_id, index, seed, metric, value, candidate_id.

    `value` is NaN where a score is stored as not computed; an image without the score has no row. A measured
    drift is a row of its fit, with prompt_id "", index 0, the fit's seed and candidate_id "". Images of adapters
    that are not in the fits table are left out.
    """
    fits = load_fits(run_dir)
    return join_scores(run_dir, load_images(run_dir, fits), fits)


def join_scores(run_dir: Path, images: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """`load_scores` of images and fits that are loaded already."""
    images = images[images["fit"].notna()].astype({"fit": int})
    scores = store.read(run_dir, "scores", columns=["candidate_id", "metric", "value"]).to_pandas()
    if (twice := scores.duplicated(["candidate_id", "metric"])).any():
        row = scores[twice].iloc[0]
        raise ValueError(f"{run_dir}: candidate {row.candidate_id} has {row.metric} twice; remove one of its files in scores/")
    drift = fits[fits["drift"].notna()].rename(columns={"drift": "value"})
    drift = drift.assign(prompt_id="", index=0, metric=DRIFT, candidate_id="")
    return pd.concat([images.merge(scores, on="candidate_id")[COLUMNS], drift[COLUMNS]], ignore_index=True)


def undefined(scores: pd.DataFrame) -> set[tuple[str, str, str]]:
    """(metric, combination, prompt_id) of each score that does not apply, such as a place where the prompt names none.

    Such a score is stored as not computed for every image of every arm there, and has values elsewhere.
    """
    computed = set(scores.loc[scores["value"].notna(), "metric"])
    elsewhere = scores[scores["metric"].isin(computed - MAY_LACK)]
    absent = elsewhere["value"].isna().groupby([elsewhere["metric"], elsewhere["combination"], elsewhere["prompt_id"]]).all()
    return set(absent[absent].index)


def settled(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scores` that leave nothing to compute: with a value, or without one where a picture may lack it."""
    return scores[scores["value"].notna() | scores["metric"].isin(MAY_LACK)]


def expected(plan: Plan, metric: str, combination: str, skipped: Collection[tuple[str, str, str]]) -> int:
    """How many values of a score an arm should have on a combination, over all fits."""
    if metric == DRIFT:
        return plan.fits
    prompts = [prompt for prompt in plan.prompts[combination] if (metric, combination, prompt) not in skipped]
    return plan.fits * len(prompts) * plan.images


def gaps(plan: Plan, images: pd.DataFrame, fits: pd.DataFrame, scores: pd.DataFrame, metrics: Collection[str]) -> Iterator[str]:
    """A line for each gap: the images that are missing, then the scores that stored images lack."""
    if strange := int(images["fit"].isna().sum()):
        yield f"{strange} images belong to adapters that are not in the fits table, and are left out"
    counts = images[images["fit"].notna()].groupby(["method", "combination", "fit"]).size().to_dict()
    skipped = undefined(scores)
    present = settled(scores).groupby(["method", "metric"]).size().to_dict()
    for method in plan.methods:
        yield from _image_gaps(plan, method, counts)
        mine = images[(images["method"] == method) & images["fit"].notna()]
        for metric in metrics:
            if metric == DRIFT:
                continue
            wanted = sum((metric, row.combination, row.prompt_id) not in skipped for row in mine.itertuples(index=False))
            yield from _score_gap(method, metric, wanted, present.get((method, metric), 0), "images")
    if DRIFT in metrics:
        refits = fits.dropna(subset=["started_from"]).groupby("method").size().to_dict()
        for method in plan.methods:
            yield from _score_gap(method, DRIFT, refits.get(method, 0), present.get((method, DRIFT), 0), "fits")


def _image_gaps(plan: Plan, method: str, counts: Mapping[tuple[Any, ...], int]) -> Iterator[str]:
    if not any(name == method for name, _, _ in counts):
        total = plan.fits * sum(plan.planned(combination) for combination in plan.combinations)
        yield f"{method}: no images ({total} planned)"
        return
    for combination in plan.combinations:
        for fit in range(plan.fits):
            lacking = plan.planned(combination) - counts.get((method, combination, fit), 0)
            if lacking > 0:
                yield f"{method} / {combination} / fit {fit}: {lacking} of {plan.planned(combination)} images missing"


def _score_gap(method: str, metric: str, wanted: int, present: int, unit: str) -> Iterator[str]:
    if wanted and not present:
        yield f"{method}: {metric} not computed"
    elif present < wanted:
        yield f"{method}: {metric} missing for {wanted - present} of {wanted} {unit}"
