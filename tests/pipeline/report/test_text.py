"""Tables as text: whatever the width and the names, every number is there once."""

import io

import pytest
from reported_benchmark import cell, result, table
from rich.console import Console

from pipeline.report.text import markdown, print_tables

METRICS = [f"metric_number_{i}" for i in range(9)]


@pytest.fixture(scope="module")
def wide():
    """One arm with a name of Markdown, and nine scores 0.100 to 0.900."""
    return result(tables=(table([cell("a|b", metric, (i + 1) / 10) for i, metric in enumerate(METRICS)]),), claims=(), costs=())


@pytest.mark.parametrize("width", [60, 120, 400])
def test_every_number_is_printed_once_at_any_width(wide, width):
    output = io.StringIO()
    print_tables(wide, Console(file=output, width=width))
    text = output.getvalue()
    assert [text.count(f" 0.{i}00 [") for i in range(1, 10)] == [1] * 9
    assert max(map(len, text.splitlines())) <= width
    assert "a|b" in text


def test_every_line_of_a_markdown_table_has_a_cell_for_each_heading(wide):
    rows = [line.replace("\\|", "") for line in markdown(wide).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows[:3]} == {1 + 1 + len(METRICS)}
