"""The rounds of a self-training run in numbers with intervals, read from its tables alone.

Images of one prompt resemble one another, so counting each as independent makes intervals far too narrow.
Intervals here come from a cluster bootstrap: prompts are drawn with replacement, then images within each
drawn prompt, and the 2.5 % and 97.5 % quantiles of the resampled means are reported.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from mudi.metrics import METRICS
from mudi.text.prompts import WATCHED
from pipeline.report.statistics import Estimate, show
from pipeline.report.text import bare_table, wide_console
from pipeline.tables import store
from pipeline.tables.journal import read_marker
from pipeline.tables.run_folder import read_run

COUNT = "count_correct"
RESAMPLES = 2000
CELL = ["combination", "prompt_id"]


@dataclass(frozen=True, kw_only=True)
class RoundRow:
    """One round of one combination, or of all (combination None). Watched prompts are left out.

    candidates: stored rows; missing: planned but not stored; invalid: no usable image (status "invalid" or
    "error"); unscored: an image without the metric; seconds: drawing time, summed over images.
    score and right_count are None while no image has them; a defined zero counts as zero.
    """

    combination: str | None
    round: int
    candidates: int
    missing: int
    invalid: int
    unscored: int
    kept: int
    score: Estimate | None
    kept_score: float | None
    right_count: Estimate | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Further:
    """A score of the run's further `metrics`, of watched images: its means in the first and the last round that drew them, and the change
    between these, paired by prompt and seed."""

    metric: str
    first: float
    last: float
    change: Estimate


@dataclass(frozen=True, kw_only=True)
class Summary:
    """`rounds` holds all combinations together first, then each one if there are several. watched: round -> the change of the watched
    images since the first round, paired by prompt and seed; further: of the other scores, from the first to the last. best: the round of
    the highest mean of watched images, of the score where none are watched, and the folders of its adapters; None before anything is
    scored."""

    name: str
    metric: str
    rounds: tuple[RoundRow, ...]
    watched: Mapping[int, Estimate]
    further: tuple[Further, ...]
    best: int | None
    adapters: tuple[Path, ...]

    @property
    def several(self) -> bool:
        """Whether single combinations have rows of their own."""
        return any(row.combination for row in self.rounds)


def summarise(run_dir: Path, metric: str | None = None) -> Summary:
    """The summary of a run by one metric, by default the one that selected its candidates, of several the heaviest.

    Works on a run in progress: rounds not yet begun have no row. Raises ValueError for a metric that the
    run has not computed.
    """
    facts = read_run(run_dir)
    config = facts["config"]
    ranked_by = config["score"]["select_by"]
    metric = metric or (ranked_by if isinstance(ranked_by, str) else max(ranked_by, key=ranked_by.get))
    frame = load_frame(run_dir, metric)
    drawn = frame[~frame["prompt_id"].str.startswith(WATCHED)]
    keys = [Path(folder).name for folder in config["combinations"]]
    groups = [(None, drawn), *((key, drawn[drawn["combination"] == key]) for key in keys if len(keys) > 1)]
    rounds = sorted(drawn["round"].unique())
    rows = []
    for key, group in groups:
        planned = config["candidates"] * (len(keys) if key is None else 1)
        rows += [_round_row(key, int(round), group[group["round"] == round], planned) for round in rounds]
    watched = frame[frame["prompt_id"].str.startswith(WATCHED)].dropna(subset=["value"])
    judged = watched if len(watched) else drawn.dropna(subset=["value"])
    best = int(judged.groupby("round")["value"].mean().idxmax()) if len(judged) else None
    adapters = () if best is None else tuple(_adapter(run_dir, key, best) for key in keys)
    return Summary(
        name=facts["name"], metric=metric, rounds=tuple(rows), watched=_changes(watched), further=_further(run_dir, config, metric),
        best=best, adapters=adapters,
    )  # fmt: skip


def load_frame(run_dir: Path, metric: str) -> pd.DataFrame:
    """One row a candidate: its columns, `value` and `details` of the metric, `right_count`, and `rank` if kept."""
    frame = store.read(run_dir, "candidates").to_pandas()
    scores = store.read(run_dir, "scores", columns=["candidate_id", "metric", "value", "details"]).to_pandas()
    known = sorted(scores["metric"].unique())
    if metric not in known and len(scores):
        raise ValueError(f"{run_dir}: metric {metric!r} was not computed; choose from {', '.join(known)}")
    chosen = scores[scores["metric"] == metric].drop(columns="metric")
    counts = scores[scores["metric"] == COUNT][["candidate_id", "value"]].rename(columns={"value": "right_count"})
    ranks = store.read(run_dir, "selections", columns=["candidate_id", "rank"]).to_pandas()
    for other in (chosen, counts, ranks):
        frame = frame.merge(other, on="candidate_id", how="left", validate="one_to_one")
    return frame


def cluster_bootstrap(values: Sequence[float], clusters: Iterable, seed: int = 0) -> Estimate:
    """The mean of values and its 95 % interval; `clusters` names the prompt of each value.

    With one cluster this is the ordinary bootstrap over images. The same input gives the same interval.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return Estimate(mean=float(values.mean()), low=None, high=None, count=len(values))
    groups = [group.to_numpy() for _, group in pd.Series(values).groupby(np.asarray(list(map(str, clusters))))]
    sizes = np.array([len(group) for group in groups])
    padded = np.zeros((len(groups), sizes.max()))
    for row, group in zip(padded, groups, strict=True):
        row[: len(group)] = group
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        prompts = rng.integers(len(groups), size=len(groups))
        images = rng.integers(sizes[prompts, None], size=(len(groups), sizes.max()))
        real = np.arange(sizes.max()) < sizes[prompts, None]
        means[i] = padded[prompts[:, None], images][real].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(mean=float(values.mean()), low=float(low), high=float(high), count=len(values))


def print_summary(run_dir: Path, metric: str | None = None, console: Console | None = None) -> None:
    """Prints the rounds of a run as a table, then the change of the watched images."""
    summary = summarise(run_dir, metric)
    console = console or wide_console()
    table = bare_table(f"{summary.name}: {summary.metric}, mean and 95 % interval")
    if summary.several:
        table.add_column("combination", overflow="fold", min_width=11)
    for heading in ("round", "score", "right count", "drawn", "kept", "missing", "invalid", "unscored", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in summary.rounds:
        right = "-" if row.right_count is None else f"{row.right_count.mean:.0%}"
        kept = f"{row.kept} at {show(row.kept_score)}" if row.kept else "0"
        cells = [row.round, show(row.score), right, row.candidates, kept, row.missing, row.invalid, row.unscored, f"{row.seconds:.0f}"]
        table.add_row(*([row.combination or "all"] if summary.several else []), *map(str, cells))
    console.print(table)
    for round, change in summary.watched.items():
        pairs = f"{show(change, sign=True)} ({change.count} pairs)"
        console.print(f"watched images, round {round} minus round {summary.rounds[0].round}: {pairs}")
    for further in summary.further:
        console.print(f"watched images, {further.metric}: {show(further.first)} to {show(further.last)}, {show(further.change, sign=True)}")
    if summary.best is not None:
        by = "watched images" if summary.watched else "the score"
        console.print(f"best by {by}: round {summary.best}, drawn with {', '.join(map(str, summary.adapters))}", soft_wrap=True)


def print_stages(run_dir: Path) -> None:
    """Prints the seconds of each published round by stage.

    fit and sweep are wall time; the sweep includes the start of Ray workers and the loading of models. generate,
    detect and compare are busy times and overlap. A resumed round shows its last start.
    """
    table = bare_table("seconds")
    for heading in ("round", "fit", "sweep", "of which busy: generate", "detect", "compare"):
        table.add_column(heading, justify="right", no_wrap=True)
    for round in range(read_run(run_dir)["config"]["rounds"] + 1):
        published = read_marker(run_dir, round, "publish")
        if published is not None:
            seconds = published["seconds"]
            table.add_row(str(round), *(f"{seconds[stage]:.1f}" for stage in ("fit", "sweep", "generate", "detect", "compare")))
    wide_console().print(table)


def _round_row(combination: str | None, round: int, frame: pd.DataFrame, planned: int) -> RoundRow:
    usable = frame[frame["status"] == "ok"]
    kept = frame[frame["rank"].notna()]
    return RoundRow(
        combination=combination,
        round=round,
        candidates=len(frame),
        missing=planned - len(frame),
        invalid=len(frame) - len(usable),
        unscored=int(usable["value"].isna().sum()),
        kept=len(kept),
        score=_estimate(usable, "value"),
        kept_score=float(kept["value"].mean()) if len(kept) else None,
        right_count=_estimate(usable, "right_count"),
        seconds=float(frame["seconds"].sum()),
    )


def _estimate(frame: pd.DataFrame, column: str) -> Estimate | None:
    present = frame.dropna(subset=[column])
    return cluster_bootstrap(present[column], present[CELL].itertuples(index=False)) if len(present) else None


def _adapter(run_dir: Path, combination: str, round: int) -> Path:
    """The folder of the adapter that drew a round: the newest up to then, since a round that kept nothing trains none."""
    folders = [run_dir / "adapters" / combination / f"round={number}" for number in range(round, -1, -1)]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _further(run_dir: Path, config: Mapping, shown: str) -> tuple[Further, ...]:
    """The scores of the run's further metrics, but the one that is `shown` in full, as far as watched images have them in two rounds."""
    names = [score for name in config.get("metrics", ()) for score in METRICS[name].NAMES if score != shown]
    stored = set(store.read(run_dir, "scores", columns=["metric"])["metric"].unique().to_pylist()) if names else set()
    found = []
    for name in [name for name in names if name in stored]:
        frame = load_frame(run_dir, name)
        watched = frame[frame["prompt_id"].str.startswith(WATCHED)].dropna(subset=["value"])
        means = watched.groupby("round")["value"].mean()
        if changes := _changes(watched):
            found.append(Further(metric=name, first=means.iloc[0], last=means.iloc[-1], change=changes[max(changes)]))
    return tuple(found)


def _changes(watched: pd.DataFrame) -> dict[int, Estimate]:
    changes = {}
    rounds = sorted(watched["round"].unique())
    for round in rounds[1:]:
        before, after = (watched[watched["round"] == r].set_index([*CELL, "index"])["value"] for r in (rounds[0], round))
        paired = (after - before).dropna().reset_index()
        if len(paired):
            changes[int(round)] = _estimate(paired, "value")
    return changes
