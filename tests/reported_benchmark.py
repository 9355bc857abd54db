"""A small benchmark for its page: values by hand, a run folder with pictures, and a reader of the page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline import store
from pipeline.benchmark_records import Benchmark, Cell, Claim, Cost, Table
from pipeline.statistics import Estimate

METRICS = {"dnc_linear_dreamsim": True, "image_reward": True, "oracle_success": True}
METHODS = ("dreambooth", "cut_mix", "mudi")
COMBINATIONS = ("two_dogs", "cat_and_dog")


def estimate(mean: float, reach: float = 0.05, count: int = 40) -> Estimate:
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, count=count)


def cell(method: str, metric: str, mean: float | None, missing: int = 0, published: float | None = None) -> Cell:
    per_combination = {} if mean is None else {"two_dogs": mean + 0.1, "cat_and_dog": mean - 0.1}
    value = None if mean is None else estimate(mean)
    return Cell(method=method, metric=metric, estimate=value, per_combination=per_combination, missing=missing, published=published)


def table(cells: list[Cell]) -> Table:
    methods, metrics = dict.fromkeys(c.method for c in cells), dict.fromkeys(c.metric for c in cells)
    return Table(name="main", title="Main comparison", methods=tuple(methods), metrics=tuple(metrics), cells=tuple(cells))


def claim(verdict: str, mean: float | None, text: str = "Seg-Mix helps") -> Claim:
    return Claim(
        text=text,
        better="mudi",
        worse="cut_mix",
        metric="dnc_linear_dreamsim",
        margin=0.0,
        estimate=None if mean is None else estimate(mean),
        per_combination={} if mean is None else {"two_dogs": mean + 0.02, "cat_and_dog": mean - 0.02},
        verdict=verdict,
    )


def result(**changed) -> Benchmark:
    """A complete benchmark of three methods, one table and one claim, with some parts changed."""
    means = {"dreambooth": 0.217, "cut_mix": 0.318, "mudi": 0.459}
    values = {
        "name": "small",
        "created": "2031-02-03T04:05:06.000+00:00",
        "metrics": METRICS,
        "methods": METHODS,
        "combinations": COMBINATIONS,
        "tables": (table([cell(method, "dnc_linear_dreamsim", mean, published=0.123) for method, mean in means.items()]),),
        "claims": (claim("holds", 0.141),),
        "validity": (),
        "costs": (
            Cost(
                method="mudi",
                fits=2,
                fit_seconds=31.25,
                images=40,
                seconds_per_image=0.42,
                parameters=1234567,
                payload_bytes=4938268,
                peak_bytes=1_500_000_000,
            ),
        ),
        "missing": (),
    }
    return Benchmark(**{**values, **changed})


def run_folder(
    root: Path,
    *,
    images: int = 2,
    prompts: dict[str, str] | None = None,
    size: int = 48,
    methods: tuple[str, ...] = METHODS,
    combinations: tuple[str, ...] = COMBINATIONS,
    absent: tuple[str, str] | None = None,
    backbone: str = "miniature",
) -> Path:
    """A benchmark's folder with two fits; a picture is a flat colour. Nothing is drawn for the (method, combination) `absent`."""
    prompts = prompts or {"p00": "a va dog and a vb cat on the grass", "p01": "a va dog and a vb cat at night"}
    run_dir = root / "small"
    run_dir.mkdir()
    store.create_tables(run_dir)
    config = {
        "name": "small",
        "models": {"backbone": backbone},
        "methods": {method: {"name": method} for method in methods},
        "combinations": [f"folder/{key}" for key in combinations],
        "fits": 2,
        "images": images,
        "tables": [{"name": "main", "title": "Main comparison", "methods": list(methods), "metrics": list(METRICS)}],
        "claims": [{"text": "Seg-Mix helps", "better": methods[-1], "worse": methods[0], "metric": "dnc_linear_dreamsim", "margin": 0.0}],
    }
    facts = {
        "kind": "benchmark",
        "name": "small",
        "created": "2031-02-03T04:05:06.000+00:00",
        "config": config,
        "config_sha256": "0" * 64,
        "inputs": {},
        "subjects": {key: ["va dog", "vb cat"] for key in combinations},
        "prompts": dict.fromkeys(combinations, prompts),
        "metrics": METRICS,
        "seed": 7,
        "python": "3.12.0",
        "platform": "Linux",
        "packages": {"torch": "2.11.0", "ray": None},
    }
    (run_dir / "run.json").write_text(json.dumps(facts))
    cells = [(method, key) for method in methods for key in combinations if (method, key) != absent]
    fits = [fit_row(method, key, fit) for method, key in cells for fit in range(2)]
    store.write_fits(run_dir, "fits", fits)
    for row in fits:
        items = [drawn(row, prompt_id, text, index, size) for prompt_id, text in prompts.items() for index in range(images)]
        chunk = f"{row['method']}-{row['combination']}-{row['fit']}"
        store.write_chunk(run_dir, chunk, 0, items, device="cpu", dtype="float32", batch=images)
    return run_dir


def fit_row(method: str, combination: str, fit: int) -> dict:
    sha = f"{method}-{combination}-{fit}"
    fixed = {"run": "small", "started_from": None, "steps": 100, "parameters": 1234567, "kept": None, "drift": None, "device": "cpu"}
    shared = {"seconds": None, "shared_with": "mudi"} if method == "cut_mix" else {"seconds": 30.0 + fit, "shared_with": None}
    return {"method": method, "combination": combination, "fit": fit, "seed": fit, "adapter_sha256": sha, **fixed, **shared}


def drawn(fit: dict, prompt_id: str, prompt: str, index: int, size: int) -> ScoredCandidate:
    """A flat picture and its scores; the pictures of fit 1 are white, those of fit 0 darker."""
    sha, method, combination = fit["adapter_sha256"], fit["method"], fit["combination"]
    key = CandidateKey(run="small", method=method, combination=combination, prompt_id=prompt_id, index=index, round=0, adapter_sha256=sha)
    rng = np.random.default_rng([index, *map(ord, sha + prompt_id)])
    image = np.full((size, size, 3), 255 if fit["fit"] else rng.integers(40, 220, 3), dtype=np.uint8)
    value = float(rng.uniform(0, 1))
    details = {
        "boxes": [[2.0, 8.0, size / 2 - 2, size - 4.0], [size / 2, 6.0, size - 3.0, size - 5.0]],
        "similarity": [[0.8, 0.3], [0.25, 0.7]],
    }
    values = {"count_correct": 1.0, "dnc_linear_dreamsim": value, "image_reward": value - 0.5, "oracle_success": float(value > 0.5)}
    scores = tuple(
        Score(metric=metric, value=value, scorer="tiny", details=details if metric.startswith("dnc") else {})
        for metric, value in values.items()
    )
    candidate = Candidate(key=key, prompt=prompt, seed=1000 + index, image=image, status="ok", error=None, seconds=0.5)
    return ScoredCandidate(candidate=candidate, detections=(), scores=scores)


class Page(HTMLParser):
    """The page's tags, its addresses, its text, and the rows of its tables as lists of cells' texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.text, self.rows, self.bold = [], [], "", [], []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell, self._best = True, ("class", "best") in attrs
        if tag == "small" and self._cell:
            self.rows[-1][-1] += " "

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = False
            if self._best:
                self.bold.append(self.rows[-1][-1].split()[0])

    def handle_data(self, data):
        self.text += data
        if self._cell:
            self.rows[-1][-1] += data
