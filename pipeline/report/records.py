"""The nouns of a benchmark's tables: cells, claims, validity, costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.report.statistics import Estimate

Verdict = Literal["holds", "fails", "undecided", "missing"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm by one score.

    per_combination: combination -> its mean, where it has values; rates: the same with Wilson's interval, for
    scores that are 0 or 1. missing: planned images (for drift: fits) without the score. estimate is None if a
    whole combination has no value, so that no partial mean stands for the whole. published: the paper's number,
    of other models.
    """

    method: str
    metric: str
    estimate: Estimate | None
    per_combination: Mapping[str, float]
    missing: int
    published: float | None
    rates: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A named choice of arms and scores; `cells` are row by row, an arm a row, in the order of `metrics`."""

    name: str
    title: str
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The arm `better` is ahead of `worse` in a score or, with margin > 0, behind by less than the margin.

    estimate and per_combination are of better minus worse on common images, the sign turned where lower is
    better, so that a positive number always speaks for `better`. The verdict is "holds" if the whole interval
    lies above -margin, "fails" if below, "undecided" if it reaches to both sides or there is none, "missing" if
    a combination has no common images.
    """

    text: str
    better: str
    worse: str
    metric: str
    margin: float
    estimate: Estimate | None
    per_combination: Mapping[str, float]
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Validity:
    """How well a score tells successful pictures from others, over all images that have the score and the oracle's verdict.

    The sign is turned where lower is better. published_*: the paper's numbers, against people.
    """

    metric: str
    images: int
    spearman: Estimate | None
    auroc: Estimate | None
    published_spearman: float | None
    published_auroc: float | None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The costs of an arm; a number is None if nothing is stored.

    fits and images: how many are stored. fit_seconds: mean of a fit; an adapter of another arm counts with that
    arm's fit, and a fit that began with another adapter counts without the fits before it. seconds_per_image:
    mean drawing time in its batch; parameters: trained numbers, the most of any fit; payload_bytes: a stored
    adapter's numbers for one subject, mean over fits; peak_bytes: the most memory a fit took.
    """

    method: str
    fits: int
    fit_seconds: float | None
    images: int
    seconds_per_image: float | None
    parameters: int | None
    payload_bytes: int | None
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The content of a benchmark's report. metrics: score -> higher is better. missing: a line for each gap."""

    name: str
    created: str
    metrics: Mapping[str, bool]
    methods: tuple[str, ...]
    combinations: tuple[str, ...]
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    validity: tuple[Validity, ...]
    costs: tuple[Cost, ...]
    missing: tuple[str, ...]
