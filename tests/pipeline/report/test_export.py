"""A page holds the tables of several runs, each between marks of its own, and whatever people wrote around them."""

from pipeline.report.export import marks, with_tables


def test_a_run_replaces_its_own_tables_alone():
    """Text before, between and behind stays as it is; the tables of `a` become the new ones, those of `b` stay."""
    page = "# By hand\n\nwords\n"
    page = with_tables(page, "a", "| old a |")
    page = with_tables(page, "b", "| b |") + "\nlast words\n"
    again = with_tables(page, "a", "| new a |")
    assert again == page.replace("| old a |", "| new a |")
    assert again.startswith("# By hand\n\nwords\n")
    assert again.endswith("\nlast words\n")
    assert "| old a |" not in again


def test_writing_the_same_tables_twice_changes_nothing():
    page = with_tables(with_tables("", "a", "| a |"), "b", "| b |")
    assert with_tables(page, "a", "| a |") == page
    assert page.index(marks("a")[1]) < page.index("# Results of b") < page.index(marks("b")[0])
