"""docs/results.md says what the scores beside it say."""

import re
from pathlib import Path

import pandas as pd
import pytest

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.skipif(
    not (DOCS / "results.parquet").is_file(), reason="docs/results.parquet is not there: `make results` has not been run on this version"
)


@pytest.fixture(scope="module")
def scores():
    stored = pd.read_parquet(DOCS / "results.parquet").astype({"value": float})
    return stored[stored["run"] == "benchmark_miniature"]


@pytest.fixture(scope="module")
def page():
    return (DOCS / "results.md").read_text(encoding="utf-8")


def row(page: str, heading: str, first: str) -> list[str]:
    """The cells of the row that begins with `first` in the table under `heading`."""
    table = page.split(f"### {heading}")[1].split("###")[0]
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def column(page: str, heading: str, name: str) -> int:
    header = page.split(f"### {heading}")[1].strip().splitlines()[0]
    return [cell.strip().split(" ")[0] for cell in header.strip("|").split("|")].index(name)


@pytest.mark.parametrize(
    ("heading", "method", "metric"),
    [
        ("Cones 2, its improvements, merges, MuDI, mean and 95 % interval", "cones2_v1", "oracle_identity"),
        ("MuDI's adapter by guidance, padding and what places the subjects, mean and 95 % interval", "mudi_init_pp", "oracle_success"),
    ],
)
def test_a_cell_of_what_composes_is_the_mean_of_its_scores(page, heading, method, metric):
    """The same of the second run on the page."""
    stored = pd.read_parquet(DOCS / "results.parquet").astype({"value": float})
    mine = stored[(stored["run"] == "benchmark_composition") & (stored["method"] == method) & (stored["metric"] == metric)]
    assert row(page, heading, method)[column(page, heading, metric)].split(" ")[0] == f"{mean_by_hand(mine):.3f}"


def mean_by_hand(values: pd.DataFrame) -> float:
    """Images of a cell, then the cells of a combination, then combinations: each level a plain mean."""
    cells = values.groupby(["combination", "fit", "prompt_id"], observed=True)["value"].mean()
    return float(cells.groupby("combination", observed=True).mean().mean())


@pytest.mark.parametrize(
    ("method", "metric"), [("mudi", "oracle_success"), ("cut_mix", "image_reward"), ("dreambooth", "dnc_linear_dreamsim")]
)
def test_a_cell_of_the_table_is_the_mean_of_its_scores(scores, page, method, metric):
    mine = scores[(scores["method"] == method) & (scores["metric"] == metric)]
    heading = "Methods, mean and 95 % interval"
    shown = row(page, heading, method)[column(page, heading, metric)]
    assert shown.split(" ")[0] == f"{mean_by_hand(mine):.3f}"


def test_a_claim_s_difference_is_that_of_images_with_one_seed(scores, page):
    """The first claim, paired on combination, fit, prompt and index."""
    keys = ["combination", "fit", "prompt_id", "index"]
    text = page.split("### Claims")[1].strip().splitlines()[2]
    cells = [cell.strip() for cell in text.strip("|").split("|")]
    better, worse, metric = re.match(r"(\w+) - (\w+), (\w+)", cells[2]).groups()
    a, b = (scores[(scores["method"] == m) & (scores["metric"] == metric)].set_index(keys)["value"] for m in (better, worse))
    paired = (a - b).dropna().rename("value").reset_index()
    assert len(paired) == len(a) == len(b)
    assert cells[3].split(" ")[0] == f"{mean_by_hand(paired):+.3f}"


def test_the_page_covers_what_it_claims_to(scores):
    """At least six pairs, five prompts, five seeds and two fits for every arm."""
    for _, arm in scores[scores["metric"] == "oracle_success"].groupby("method", observed=True):
        assert arm["combination"].nunique() >= 6
        assert len(arm) == arm["combination"].nunique() * 2 * 5 * 5
