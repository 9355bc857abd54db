"""The closing line of a check, which says how much failed and names the first."""

import pytest

from pipeline.check.text import closing


@pytest.mark.parametrize(
    ("complaints", "checked", "said"),
    [
        (["a: no mask"], None, "a: no mask"),
        (["a", "b"], None, "2 mistakes: a; b"),
        (["a", "b"], 5, "2 of 5 fail: a; b"),
        (["a", "b", "c", "d", "e"], 9, "5 of 9 fail: a; b; c; and 2 more"),
    ],
)
def test_one_line_counts_all_and_names_three(complaints, checked, said):
    assert closing(complaints, checked) == said
