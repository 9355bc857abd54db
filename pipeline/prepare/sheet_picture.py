"""Pictures with their captions in a grid, under headings, as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

COLUMNS, CELL, GAP = 5, 240, 16
TEXT_LINES = 4
INK, SOFT, ALARM, PAPER = (27, 36, 48), (92, 107, 122), (176, 32, 32), (255, 255, 255)
LINE = 17
LONGEST_TEXT = 400


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A line across the sheet, with small text under it."""

    text: str
    small: str = ""
    alarm: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A picture with its name, a text, and its alarm, "" if nothing is wrong with it."""

    picture: Image.Image
    name: str
    text: str
    alarm: str = ""


def sheet_picture(rows: Sequence[Heading | Sequence[Cell]]) -> Image.Image:
    """The sheet in 256 colours: a third of the bytes, and good enough to judge an outline."""
    width = COLUMNS * (CELL + GAP) + GAP
    strips: list[Image.Image] = []
    for row in rows:
        if isinstance(row, Heading):
            strips += _heading(row, width)
        else:
            strips += [_row(row[start : start + COLUMNS], width) for start in range(0, len(row), COLUMNS)]
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips) + GAP), PAPER)
    y = 0
    for strip in strips:
        sheet.paste(strip, (0, y))
        y += strip.height
    return sheet.quantize(256, dither=Image.Dither.NONE)


def _font(size: int) -> ImageFont.FreeTypeFont:
    # Pillow's own font knows Latin letters only; that of matplotlib also knows Greek, Cyrillic, Arabic and more.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _heading(heading: Heading, width: int) -> list[Image.Image]:
    lines = [(heading.text, _font(22), ALARM if heading.alarm else INK, 44)] if heading.text else []
    lines += [(line, _font(13), SOFT, LINE + 3) for line in _wrapped(heading.small, _font(13), width - 2 * GAP, 3)]
    strips = []
    for text, font, colour, height in lines:
        strip = Image.new("RGB", (width, height), PAPER)
        ImageDraw.Draw(strip).text((GAP, height - 4), text, font=font, fill=colour, anchor="ls")
        strips.append(strip)
    return strips


def _row(cells: Sequence[Cell], width: int) -> Image.Image:
    font = _font(13)
    pictures, texts = [], []
    for cell in cells:
        picture = cell.picture.copy()
        picture.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        pictures.append(picture)
        lines = [(cell.name, INK)] + [(line, ALARM) for line in _wrapped(cell.alarm, font, CELL, 6)]
        texts.append(lines + [(line, SOFT) for line in _wrapped(cell.text, font, CELL, TEXT_LINES)])
    top = max(picture.height for picture in pictures)
    strip = Image.new("RGB", (width, GAP + top + 8 + LINE * max(map(len, texts))), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, (cell, picture, lines) in enumerate(zip(cells, pictures, texts, strict=True)):
        x, y = GAP + column * (CELL + GAP), GAP
        strip.paste(picture, (x, y))
        if cell.alarm:
            draw.rectangle((x - 5, y - 5, x + picture.width + 4, y + picture.height + 4), outline=ALARM, width=5)
        for index, (line, colour) in enumerate(lines):
            draw.text((x, y + top + 8 + LINE * index), line, font=font, fill=colour)
    return strip


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """At most `most` lines that fit `width`; a word longer than a line is cut, and a cut text ends in "…"."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:LONGEST_TEXT]).split())
    lines: list[str] = []
    while text:
        end = len(text)
        while end > 1 and font.getlength(text[:end]) > width:
            end -= 1
        if end < len(text) and (space := text.rfind(" ", 1, end + 1)) > 0:
            end = space
        lines.append(text[:end])
        text = text[end:].lstrip()
    return [*lines[: most - 1], f"{lines[most - 1][:-1]}…"] if len(lines) > most else lines
