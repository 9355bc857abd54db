"""Two runs, or two arms, side by side: paired differences of images that began with the same noise.

Benchmarks are compared arm by arm, self-training runs round by round. Runs of different prompts, combinations or
seeds are refused, since their differences would not come from the methods.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape

from mudi.text.prompts import WATCHED
from pipeline.report.scores import DRIFT, load_scores
from pipeline.report.statistics import KEYS, Estimate, difference, paired_bootstrap, show
from pipeline.report.text import bare_table, wide_console
from pipeline.tables import store
from pipeline.tables.run_folder import read_run


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The mean of B minus A of one arm (or a pair) and round in one score, on images that both have.

    unmatched_a, unmatched_b: images without a partner, which are left out. real: the 95 % interval excludes zero.
    """

    label: str
    round: int | None
    metric: str
    estimate: Estimate
    unmatched_a: int
    unmatched_b: int
    real: bool


def compare(
    run_a: Path, run_b: Path, metric: str | None = None, method_a: str | None = None, method_b: str | None = None
) -> tuple[Compared, ...]:
    """Paired differences B minus A of every arm whose label is in both runs, or of two named arms.

    Without `metric` every score of both runs is compared. Raises ValueError, which names the first difference, if
    the runs differ in combinations, prompts, numbers of images or seeds, and if they have no image in common.
    """
    if (method_a is None) != (method_b is None):
        raise ValueError("one arm is named; name both (--method-a and --method-b), or none to compare arms of equal labels")
    _check_asked_the_same(Path(run_a), Path(run_b))
    a, b = _load(Path(run_a)), _load(Path(run_b))
    common = [(label, label) for label in a["method"].unique() if label in set(b["method"])]
    pairs = [(method_a, method_b)] if method_a and method_b else common
    if not pairs:
        raise ValueError(
            f"no arm is in both: A has {_names(a, 'method')}; B has {_names(b, 'method')}; name two with --method-a and --method-b"
        )
    for side, frame, label in (("A", a, method_a), ("B", b, method_b)):
        if label and label not in set(frame["method"]):
            raise ValueError(f"{side} has no arm {label!r}; choose from {_names(frame, 'method')}")
    if metric and metric not in set(a["metric"]) & set(b["metric"]):
        side, frame = ("B", b) if metric in set(a["metric"]) else ("A", a)
        raise ValueError(f"{side} has no score {metric!r}; choose from {_names(frame, 'metric')}")
    found = tuple(result for pair in pairs for result in _compare_arms(a, b, *pair, metric))
    if not found:
        raise ValueError("no score of a common image is in both; let both runs draw and score more first")
    return found


def print_comparison(run_a: Path, run_b: Path, results: Sequence[Compared], console: Console | None = None) -> None:
    """Prints the results of `compare` as a table."""
    console = console or wide_console()
    table = bare_table(f"B minus A, mean and 95 % interval of pairs of one seed. A: {run_a}, B: {run_b}")
    rounds = any(result.round is not None for result in results)
    for heading in ("arm", *(["round"] if rounds else []), "score", "difference", "", "pairs", "only A", "only B"):
        table.add_column(heading, justify="left" if heading in ("arm", "score", "") else "right", overflow="fold")
    for r in results:
        numbers = [show(r.estimate, sign=True), "real" if r.real else "not shown", r.estimate.count, r.unmatched_a, r.unmatched_b]
        table.add_row(escape(r.label), *([str(r.round)] if rounds else []), escape(r.metric), *map(str, numbers))
    console.print(table)


def _compare_arms(a: pd.DataFrame, b: pd.DataFrame, method_a: str, method_b: str, metric: str | None) -> Iterator[Compared]:
    a, b = a[a["method"] == method_a], b[b["method"] == method_b]
    _check_seeds(a, b)
    label = method_a if method_a == method_b else f"{method_b} minus {method_a}"
    groups_a, groups_b = (dict(tuple(frame.groupby(["metric", "round"], sort=False))) for frame in (a, b))
    for name, round in [key for key in groups_a if key in groups_b and metric in (None, key[0])]:
        pairs = difference(groups_b[name, round], groups_a[name, round], (*KEYS, "seed"))
        if not len(pairs.frame):
            continue
        estimate = paired_bootstrap(pairs.frame)
        yield Compared(
            label=label,
            round=None if round < 0 else int(round),
            metric=name,
            estimate=estimate,
            unmatched_a=pairs.unmatched_b,
            unmatched_b=pairs.unmatched_a,
            real=estimate.low is not None and not estimate.low <= 0 <= estimate.high,
        )


def _load(run_dir: Path) -> pd.DataFrame:
    """The run's scores with `round`: -1 in a benchmark, which has none. Watched images of self-training are left out."""
    if read_run(run_dir).get("kind") == "benchmark":
        scores = load_scores(run_dir).dropna(subset=["value"])
        # A drift belongs to a fit, not to an image; arms may be fitted with seeds of their own.
        return scores.assign(round=-1, seed=scores["seed"].where(scores["metric"] != DRIFT, 0))
    candidates = store.read(run_dir, "candidates").to_pandas()
    drawn = candidates[(candidates["status"] == "ok") & ~candidates["prompt_id"].str.startswith(WATCHED)]
    scores = store.read(run_dir, "scores", columns=["candidate_id", "metric", "value"]).to_pandas()
    return drawn.merge(scores.dropna(subset=["value"]), on="candidate_id").assign(fit=0).sort_values(["metric", "round"])


def _check_asked_the_same(run_a: Path, run_b: Path) -> None:
    asked_a, asked_b = _asked(run_a), _asked(run_b)
    for name in {**asked_a, **asked_b}:
        if name not in asked_a or name not in asked_b:
            raise ValueError(f"{name} is in {'A' if name in asked_a else 'B'} only; compare runs of the same combinations and prompts")
        if asked_a[name] != asked_b[name]:
            raise ValueError(f"{name} differs: {asked_a[name]!r} in A, {asked_b[name]!r} in B; compare runs that were asked the same")


def _asked(run_dir: Path) -> dict[str, Any]:
    """The request of a run: name -> value, the differences that matter most first."""
    facts = read_run(run_dir)
    config, benchmark = facts["config"], facts.get("kind") == "benchmark"
    keys = sorted(Path(folder).name for folder in config["combinations"])
    asked: dict[str, Any] = {"kind of run": "benchmark" if benchmark else "self-training"}
    asked |= {f"combination {key!r}": True for key in keys}
    asked |= {f"subjects of {key!r}": facts["subjects"].get(key) for key in keys}
    if benchmark:
        texts: Mapping[str, str] = {f"{key} / {prompt_id}": text for key in keys for prompt_id, text in facts["prompts"][key].items()}
        numbers = {"number of images": config["images"], "number of fits": config["fits"]}
    else:
        prompts = config["prompts"]
        own = prompts if isinstance(prompts, dict) else dict.fromkeys(keys, prompts)
        texts = {f"{key} / p{number:02}": text for key in keys for number, text in enumerate(own[key])}
        numbers = {"number of images": config["candidates"]}
    return {**asked, **{f"prompt {name}": text for name, text in texts.items()}, **numbers}


def _check_seeds(a: pd.DataFrame, b: pd.DataFrame) -> None:
    places = ["round", *KEYS]
    drawn_a, drawn_b = (side[side["metric"] != DRIFT].drop_duplicates(places)[[*places, "seed"]] for side in (a, b))
    both = drawn_a.merge(drawn_b, on=places, suffixes=("_a", "_b")).sort_values(places)
    for row in both[both["seed_a"] != both["seed_b"]].itertuples(index=False):
        place = f"{row.combination} / fit {row.fit} / {row.prompt_id} / image {row.index}"
        raise ValueError(f"seeds differ: {place} has {row.seed_a} in A, {row.seed_b} in B; compare runs of one `seed`")


def _names(frame: pd.DataFrame, column: str) -> str:
    return ", ".join(map(str, frame[column].unique())) or "none yet"
