"""The contact sheet, as one offline page and as one picture: every photo with its mask, doubtful ones first.

Captions and file names are a user's text: the page escapes all of it and forbids scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mudi.user_files.photos import read_both
from pipeline.prepare.mask_picture import mask_picture
from pipeline.prepare.photos import PreparedPhoto
from pipeline.prepare.record import Skipped
from pipeline.prepare.sheet_picture import Cell, Heading, sheet_picture
from pipeline.prepare.words import phrase_of
from pipeline.settings.subjects_file import SubjectsFile
from pipeline.templates.page import page, picture_address

PAGE, PICTURE = "contact_sheet.html", "contact_sheet.png"
SIDE, QUALITY = 420, 80
ORIGINS = {
    "hinted": "mask made from the box or points in subjects.yaml",
    "source": "mask from the source folder",
    "hand": "mask painted by hand",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A photo as the sheet shows it. picture: drawn with its mask, and as the `data:` address `source`; origin: a line on the mask's
    maker."""

    photo: PreparedPhoto
    picture: Image.Image
    source: str
    origin: str


def write_sheets(
    folder: Path, title: str, file: SubjectsFile, photos: Sequence[PreparedPhoto], skipped: Sequence[Skipped],
    removed: Sequence[str],
) -> None:  # fmt: skip
    """Writes contact_sheet.html and contact_sheet.png into `folder`; a photo takes about 20 kB in each."""
    cards = [_card(photo) for photo in photos]
    content = {
        "title": title,
        "file": file,
        "looks": [card for card in cards if card.photo.doubts],
        "cards": {key: [card for card in cards if card.photo.subject == key] for key in file.subjects},
        "skipped": skipped,
        "removed": removed,
        "count": len(cards),
        "masked": sum(photo.mask is not None for photo in photos),
    }
    (folder / PAGE).write_text(page("contact_sheet.html.j2", content), encoding="utf-8")
    sheet_picture(_rows(title, file, cards, skipped)).save(folder / PICTURE, format="PNG", optimize=True)


def _card(photo: PreparedPhoto) -> Card:
    image, mask = read_both(photo.path, photo.mask)
    marks = {"by_hand": photo.entry.box, "points": photo.entry.points}
    if not photo.entry.hinted:
        marks = {"detected": [found.box for found in photo.record.boxes]}
    picture = mask_picture(image, mask, SIDE, **({} if photo.given_mask else marks))
    origin = "no mask yet" if mask is None else _origin(photo)
    return Card(photo=photo, picture=picture, source=picture_address(picture, "WEBP", QUALITY), origin=origin)


def _origin(photo: PreparedPhoto) -> str:
    if photo.given_mask:
        return ORIGINS[photo.record.mask.origin] + ("; box and points in subjects.yaml are not used" if photo.entry.hinted else "")
    if photo.entry.hinted:
        return ORIGINS["hinted"]
    return f"mask from the box found, confidence {photo.record.boxes[0].confidence:.2f}"


def _rows(title: str, file: SubjectsFile, cards: Sequence[Card], skipped: Sequence[Skipped]) -> list[Heading | list[Cell]]:
    """The picture's content from top to bottom: doubtful photos, then every subject, then skipped files."""

    def cell(card: Card) -> Cell:
        reason = ("" if card.photo.mask else "no mask: ") + "; ".join(card.photo.doubts)
        return Cell(picture=card.picture, name=card.photo.name, text=card.photo.entry.caption, alarm=reason)

    looks, masked = [cell(card) for card in cards if card.photo.doubts], sum(card.photo.mask is not None for card in cards)
    counts = f"{len(cards)} photos, {masked} with a mask, {len(looks)} to look at, {len(skipped)} skipped"
    rows: list[Heading | list[Cell]] = [Heading(text=title, small=counts)]
    if looks:
        rows += [Heading(text="Needs a look", alarm=True), looks]
    for key, entry in file.subjects.items():
        rows.append(Heading(text=phrase_of(entry), small=f"{key}, detector asked for “{entry.query}”"))
        rows.append([cell(card) for card in cards if card.photo.subject == key and not card.photo.doubts])
    if skipped:
        rows.append(Heading(text="Skipped files"))
        rows += [Heading(text="", small=f"{row.subject}/{row.file}: {row.reason}") for row in skipped]
    return rows
