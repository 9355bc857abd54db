"""A benchmark's run folder without models: its images, scores and fits are those that a test asks for."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline import store
from pipeline.journal import publish
from pipeline.plan import candidate_seed

DNC = "dnc_linear_dreamsim"
Scores = Mapping[str, float | None]
Judge = Callable[[str, str, int, str, int], Scores | None]


def constant(**means: float) -> Judge:
    """Scores every image of an arm with its number."""
    return lambda method, *_: {DNC: means[method]}


def benchmark_run(
    run_dir: Path,
    judge: Judge,
    *,
    methods: Sequence[str] = ("dreambooth", "mudi"),
    combinations: Sequence[str] = ("x", "y"),
    fits: int = 2,
    images: int = 2,
    metrics: Mapping[str, bool] | None = None,
    claims: Sequence[tuple[str, str, str, float]] = (),
    fit_row: Callable[[str, str, int], dict] = lambda *_: {},
    seed: int = 0,
    prompts: Mapping[str, str] | None = None,
) -> Path:
    """A stored benchmark of prompts p00 and p01; judge(method, combination, fit, prompt_id, index) gives an image's scores,
    None for an image that is not there. `fit_row` changes columns of a fit; a claim is (better, worse, metric, margin)."""
    metrics, prompts = dict(metrics or {DNC: True}), dict(prompts or {"p00": "a dog", "p01": "a cat"})
    store.create_tables(run_dir)
    for method in methods:
        for combination in combinations:
            for fit in range(fits):
                row = {
                    "run": "b", "method": method, "combination": combination, "fit": fit, "seed": fit, "adapter_sha256": f"{method}{fit}",
                    "steps": 10, "parameters": 99, "seconds": 3.0 + fit, "device": "cpu", **fit_row(method, combination, fit),
                }  # fmt: skip
                store.write_fits(run_dir, f"{method}-{combination}-{fit}", [row])
                for prompt_id in prompts:
                    items = []
                    for index in range(images):
                        scores = judge(method, combination, fit, prompt_id, index)
                        if scores is None:
                            continue
                        key = CandidateKey(
                            run="b", method=method, combination=combination, prompt_id=prompt_id, index=index, round=0,
                            adapter_sha256=row["adapter_sha256"],
                        )  # fmt: skip
                        candidate = Candidate(
                            key=key, prompt=prompts[prompt_id], seed=candidate_seed(seed, combination, prompt_id, 0, index),
                            image=np.full((4, 4, 3), index, np.uint8), status="ok", error=None, seconds=0.5,
                        )  # fmt: skip
                        named = tuple(Score(metric=name, value=value, scorer="tiny") for name, value in scores.items())
                        items.append(ScoredCandidate(candidate=candidate, detections=(), scores=named))
                    chunk_id = f"{method}-{combination}-{fit}-{prompt_id}"
                    store.write_chunk(run_dir, chunk_id, 0, items, device="cpu", dtype="float32", batch=images)
    config = {
        "methods": {method: {} for method in methods},
        "combinations": [f"some/where/{key}" for key in combinations],
        "fits": fits,
        "images": images,
        "tables": [{"name": "main", "title": "Main", "methods": list(methods), "metrics": list(metrics)}],
        "claims": [
            {"text": f"{better} beats {worse}", "better": better, "worse": worse, "metric": metric, "margin": margin}
            for better, worse, metric, margin in claims
        ],
    }
    facts = {
        "kind": "benchmark", "name": "b", "created": "2024-01-01", "config": config, "metrics": metrics, "seed": seed,
        "subjects": {key: ["va dog", "vb dog"] for key in combinations}, "prompts": dict.fromkeys(combinations, prompts),
    }  # fmt: skip
    publish(run_dir, "run.json", json.dumps(facts).encode())
    return run_dir
