"""The page of a benchmark: it shows the numbers that the tables hold, names what is missing, and needs nothing from outside."""

import re

import pytest
from reported_benchmark import COMBINATIONS, METHODS, Page, cell, claim, estimate, result, run_folder, table

from pipeline.report.benchmark_page import benchmark_page, decimals, write_benchmark_report
from pipeline.report.pictures import picture_grids
from pipeline.report.records import Claim, Cost, Validity
from pipeline.report.tables import benchmark


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("benchmark"))


def test_the_numbers_shown_are_those_of_the_tables(folder):
    """Every cell of every table, digit by digit, from the run's own tables; the whole file is below its budget."""
    path = write_benchmark_report(folder, benchmark(folder))
    rows = {row[0]: row for row in reversed(Page(path.read_text()).rows) if row}
    (main,) = benchmark(folder).tables
    assert path.stat().st_size < 30_000_000
    for method in main.methods:
        shown = [entry for entry in rows[method][1:] if entry and "." in entry]
        cells = {cell.metric: cell.estimate for cell in main.cells if cell.method == method}
        for metric in main.metrics:
            value = cells[metric]
            text = f"{value.mean:.3f} {value.low:.3f} – {value.high:.3f}".replace("-", "−")
            assert text in shown, (method, metric, shown)


def test_the_best_is_bold_and_the_papers_number_stands_apart(folder):
    """0.459 leads; the paper's .123 has its own column, so each row reads method, ours, paper."""
    text = benchmark_page(folder, result())
    page = Page(text)
    assert page.bold == ["0.459"]
    assert ["mudi", "0.459 0.409 – 0.509", "0.123"] in page.rows
    assert '<td class="paper">0.123</td>' in text
    assert "The paper's numbers are of SDXL and other judges; compare directions, never values" in page.text


def test_where_lower_is_better_the_lowest_is_bold_and_small_numbers_keep_their_digits(folder):
    """Of 0.00412 and 0.00071 the largest needs 5 decimals for three digits; drift is better when lower."""
    assert (decimals([0.00412, 0.00071]), decimals([0.41, 0.002]), decimals([]), decimals([0.0])) == (5, 3, 3, 3)
    cells = [cell("dreambooth", "drift", 0.00412), cell("mudi", "drift", 0.00071)]
    assert Page(benchmark_page(folder, result(tables=(table(cells),)))).bold == ["0.00071"]


def test_what_is_missing_is_named_and_no_best_is_marked_beside_a_gap(folder):
    """A method without a value may have been the best; a value over fewer images says how many fewer."""
    lines = tuple(f"dreambooth / two_dogs / fit 1: {i} of 50 images missing" for i in range(1, 12))
    cells = [cell("dreambooth", "image_reward", None, missing=9), cell("mudi", "image_reward", 0.4, missing=3)]
    page = Page(benchmark_page(folder, result(missing=lines, tables=(table(cells),))))
    assert "Not complete: 11 gaps" in page.text
    assert all(line in page.text for line in lines)
    assert ["dreambooth", "– 9 missing"] in page.rows
    assert ["mudi", "0.400 0.350 – 0.450 3 missing"] in page.rows
    assert page.bold == []
    assert "Not complete" not in Page(benchmark_page(folder, result())).text


def test_every_verdict_is_shown_as_plainly_as_any_other(folder):
    claims = (
        claim("holds", 0.141),
        claim("fails", -0.152, "Initialization helps"),
        claim("undecided", 0.01),
        claim("missing", None, "Nobody drew it"),
    )
    text = benchmark_page(folder, result(claims=claims))
    page = Page(text)
    for verdict in ("✓ holds", "✗ fails", "? undecided", "– missing"):
        assert f'<span class="verdict">{verdict}</span>' in text
    assert "Initialization helps" in page.text
    assert "−0.152 [−0.202, −0.102]" in page.text
    assert "no image in common" in page.text
    assert all(f"1 {verdict}" in page.text for verdict in ("holds", "fails", "undecided", "missing"))


def test_a_claim_over_part_of_the_combinations_says_so(folder):
    partial = Claim(**{**vars(claim("holds", 0.141)), "per_combination": {"two_dogs": 0.16}})
    assert "over 1 of 2 combinations;" in Page(benchmark_page(folder, result(claims=(partial,)))).text
    unfinished = Claim(**{**vars(claim("missing", None)), "per_combination": {"two_dogs": 0.16}})
    assert "in 1 of 2 combinations only" in Page(benchmark_page(folder, result(claims=(unfinished,)))).text


def test_judges_stand_by_their_auroc_beside_the_papers(folder):
    rows = tuple(
        Validity(
            metric=metric,
            images=80,
            spearman=estimate(auroc - 0.3),
            auroc=estimate(auroc),
            published_spearman=published,
            published_auroc=published,
        )
        for metric, auroc, published in (
            ("image_reward", 0.612, None),
            ("dnc_linear_dreamsim", 0.834, 0.764),
        )
    )
    page = Page(benchmark_page(folder, result(validity=rows)))
    judges = [row for row in page.rows if len(row) > 2 and row[1] == "80"]
    assert [row[0] for row in judges] == ["D&C, DreamSim", "ImageReward"]
    assert judges[0][1:] == ["80", "0.534 0.484 – 0.584", "0.764", "0.834 0.784 – 0.884", "0.764"]
    assert "not known from this run" in Page(benchmark_page(folder, result())).text


def test_costs_are_shown_and_shared_fits_say_whose_they_are(folder):
    costs = (
        *result().costs,
        Cost(
            method="cut_mix",
            fits=2,
            fit_seconds=30.5,
            images=40,
            seconds_per_image=0.42,
            parameters=1234567,
            payload_bytes=4938268,
            peak_bytes=1_500_000_000,
        ),
    )
    rows = Page(benchmark_page(folder, result(costs=costs))).rows
    assert ["mudi", "2", "31.2", "40", "0.42", "1,234,567", "4,938.3", "1.50"] in rows
    assert ["cut_mix", "2", "30.5 made for mudi", "40", "0.42", "1,234,567", "4,938.3", "1.50"] in rows


def test_a_row_holds_one_seed_of_fit_0_by_every_method(folder):
    """2 combinations x 2 prompts x 2 images x 3 methods of fit 0 are shown, half of what is stored; the white ones are of fit 1."""
    grids = picture_grids(folder, METHODS, COMBINATIONS, {}, "dnc_linear_dreamsim")
    rows = [row for of_combination in grids.rows.values() for row in of_combination]
    assert (grids.shown, grids.stored, len(rows)) == (24, 48, 8)
    assert all(set(row["pictures"]) == set(METHODS) for row in rows)
    assert all(len({picture.seed for picture in row["pictures"].values()}) == 1 for row in rows)
    sources = [picture.source for row in rows for picture in row["pictures"].values()]
    assert len(set(sources)) == 24
    text = benchmark_page(folder, result())
    assert [address for address in Page(text).addresses if address.startswith("data:")] == sources_in_page_order(rows)
    assert "24 of 48 images are shown" in Page(text).text


def sources_in_page_order(rows) -> list[str]:
    return [row["pictures"][method].source for row in rows for method in METHODS]


def test_a_smaller_budget_leaves_out_whole_seeds_for_every_method_alike(folder):
    """A prompt's step is 6 pictures (2 combinations x 3 methods) of some 3,200 bytes: 30 kB hold one step, 1 kB none."""
    one = picture_grids(folder, METHODS, COMBINATIONS, {}, "dnc_linear_dreamsim", budget=30_000)
    assert one.shown == 6
    assert all([(row["index"], set(row["pictures"])) for row in rows] == [(0, set(METHODS))] for rows in one.rows.values())
    assert picture_grids(folder, METHODS, COMBINATIONS, {}, "dnc_linear_dreamsim", budget=1_000).shown == 0


def test_a_cell_that_was_not_drawn_is_a_gap_in_its_row(tmp_path):
    text = benchmark_page(run_folder(tmp_path, absent=("cut_mix", "two_dogs")), result())
    assert Page(text).text.count("no image") == 4


def test_large_pictures_are_reduced_and_the_page_says_so(tmp_path):
    run_dir = run_folder(tmp_path, size=600, images=1, prompts={"p00": "a va dog and a vb cat"})
    text = benchmark_page(run_dir, result())
    assert "data:image/webp" in text
    assert 'class="tiny"' not in text
    assert "at most 512 pixels wide and high" in text


def test_the_page_needs_nothing_from_outside(folder):
    text = benchmark_page(folder, result())
    page = Page(text)
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"(src|href)\s*=\s*[\"']?https?:|url\(http", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


def test_hostile_names_and_prompts_are_shown_as_text(tmp_path):
    hostile = '{{ 7 * 7 }} $x^$ <script>alert(1)</script> "><img src=x onerror=alert(1)>'
    run_dir = run_folder(tmp_path, prompts={"p00": hostile}, methods=("dreambooth", hostile), images=1)
    cells = [cell("dreambooth", "image_reward", 0.1), cell(hostile, "image_reward", 0.2)]
    claims = (claim("fails", -0.1, hostile),)
    text = benchmark_page(run_dir, result(methods=("dreambooth", hostile), tables=(table(cells),), claims=claims, missing=(hostile,)))
    page = Page(text)
    assert "script" not in page.tags
    assert "x" not in page.addresses
    assert page.text.count(hostile) >= 4


def test_the_same_tables_give_the_same_bytes(folder):
    first = write_benchmark_report(folder, benchmark(folder)).read_bytes()
    assert write_benchmark_report(folder, benchmark(folder)).read_bytes() == first


def test_a_benchmark_that_has_drawn_nothing_says_so(tmp_path):
    run_dir = run_folder(tmp_path, images=0)
    cells = [cell(method, "image_reward", None, missing=8) for method in METHODS]
    empty = result(tables=(table(cells),), claims=(claim("missing", None),), costs=(), missing=("nothing drawn",))
    assert "No image is stored yet" in Page(benchmark_page(run_dir, empty)).text


def test_a_run_that_is_no_benchmark_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        benchmark(tmp_path)
    (tmp_path / "run.json").write_text('{"name": "other"}')
    with pytest.raises(ValueError, match="no benchmark"):
        benchmark(tmp_path)
