"""The sheet as one picture: five pictures a row, and no text that is longer than its place."""

import pytest
from PIL import Image

from pipeline.prepare.sheet_picture import COLUMNS, GAP, LINE, Cell, Heading, sheet_picture


def cell(**words) -> Cell:
    return Cell(**{"picture": Image.new("RGB", (240, 160), (9, 99, 9)), "name": "a.png", "text": "a cat", **words})


@pytest.mark.parametrize(("count", "rows"), [(0, 0), (1, 1), (COLUMNS, 1), (COLUMNS + 1, 2), (2 * COLUMNS, 2)])
def test_a_row_holds_five_pictures(count, rows):
    """A row is a gap, the pictures, 8 pixels, and a line each for name and text."""
    assert sheet_picture([[cell() for _ in range(count)]]).height == GAP + rows * (GAP + 160 + 8 + 2 * LINE)


@pytest.mark.parametrize("words", ["cat " * 1000, "c" * 4000, "\n\x1b[31m" * 500])
def test_no_text_takes_more_than_its_lines(words):
    """At most 6 lines of alarm and 4 of text beside the name, however long they are and whatever they hold."""
    assert sheet_picture([[cell(text=words, alarm=words)]]).height <= 2 * GAP + 160 + 8 + (1 + 6 + 4) * LINE


def test_the_sheet_has_the_colours_of_a_palette():
    sheet = sheet_picture([Heading(text="Cats", small="two", alarm=True), [cell(), cell()]])
    assert sheet.mode == "P"
    assert len(sheet.getcolors()) <= 256
