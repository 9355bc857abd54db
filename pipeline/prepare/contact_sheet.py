"""The contact sheet, as one offline page and as one picture: every photo with its mask, doubtful ones first.

Captions and file names are a user's text: the page escapes all of it and forbids scripts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mudi.user_files.photos import read_both
from pipeline.prepare.mask_picture import Marks, mask_picture
from pipeline.prepare.photos import PreparedPhoto
from pipeline.prepare.record import Skipped
from pipeline.prepare.sheet_picture import Cell, Heading, sheet_picture
from pipeline.prepare.words import phrase_of
from pipeline.settings.subjects_file import SubjectsFile
from pipeline.templates.page import page, webp_address

PAGE, PICTURE = "contact_sheet.html", "contact_sheet.png"
SIDE, QUALITY = 420, 80
ORIGINS = {
    "hinted": "mask made from the box or points in subjects.yaml",
    "source": "mask from the source folder",
    "hand": "mask painted by hand",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A photo as the sheet shows it. source: a `data:` address; origin: a line on the mask's maker; from_file: its first name."""

    name: str
    subject: str
    source: str
    width: int
    height: int
    caption: str
    origin: str
    doubts: tuple[str, ...]
    usable: bool
    from_file: str
    repair: str | None


def write_sheets(
    folder: Path, title: str, file: SubjectsFile, photos: Sequence[PreparedPhoto], skipped: Sequence[Skipped],
    removed: Sequence[str],
) -> None:  # fmt: skip
    """Writes contact_sheet.html and contact_sheet.png into `folder`; a photo takes about 20 kB in each."""
    shown = [_drawn(photo) for photo in photos]
    cards = [card for card, _ in shown]
    content = {
        "title": title,
        "file": file,
        "looks": [card for card in cards if card.doubts],
        "cards": {key: [card for card in cards if card.subject == key] for key in file.subjects},
        "skipped": skipped,
        "removed": removed,
        "count": len(cards),
        "masked": sum(card.usable for card in cards),
    }
    (folder / PAGE).write_text(page("contact_sheet.html.j2", content), encoding="utf-8")
    sheet_picture(_rows(title, file, shown, skipped)).save(folder / PICTURE, format="PNG", optimize=True)


def _drawn(photo: PreparedPhoto) -> tuple[Card, Image.Image]:
    image, mask = read_both(photo.path, photo.mask)
    detected = () if photo.hinted or photo.given_mask else [found.box for found in photo.record.boxes]
    marks = Marks() if photo.given_mask else Marks(detected=detected, by_hand=photo.entry.box, points=photo.entry.points)
    picture = mask_picture(image, mask, marks, SIDE)
    card = Card(
        name=photo.name,
        subject=photo.subject,
        source=webp_address(picture, QUALITY),
        width=picture.width,
        height=picture.height,
        caption=photo.caption,
        origin="no mask yet" if mask is None else _origin(photo),
        doubts=photo.doubts,
        usable=mask is not None,
        from_file=photo.record.source,
        repair=photo.record.repair,
    )
    return card, picture


def _origin(photo: PreparedPhoto) -> str:
    if photo.given_mask:
        return ORIGINS[photo.record.mask.origin] + ("; box and points in subjects.yaml are not used" if photo.hinted else "")
    if photo.hinted:
        return ORIGINS["hinted"]
    return f"mask from the box found, confidence {photo.record.boxes[0].confidence:.2f}"


def _rows(
    title: str, file: SubjectsFile, shown: Sequence[tuple[Card, Image.Image]], skipped: Sequence[Skipped]
) -> list[Heading | list[Cell]]:  # fmt: skip
    """The picture's content from top to bottom: doubtful photos, then every subject, then skipped files."""

    def cell(card: Card, picture: Image.Image) -> Cell:
        reason = ("" if card.usable else "no mask: ") + "; ".join(card.doubts)
        return Cell(picture=picture, name=card.name, text=card.caption, alarm=reason)

    looks = [cell(card, picture) for card, picture in shown if card.doubts]
    counts = f"{len(shown)} photos, {sum(card.usable for card, _ in shown)} with a mask, {len(looks)} to look at, {len(skipped)} skipped"
    rows: list[Heading | list[Cell]] = [Heading(text=title, small=counts)]
    if looks:
        rows += [Heading(text="Needs a look", alarm=True), looks]
    for key, entry in file.subjects.items():
        rows.append(Heading(text=phrase_of(entry), small=f"{key}, detector asked for “{entry.query}”"))
        rows.append([cell(card, picture) for card, picture in shown if card.subject == key and not card.doubts])
    if skipped:
        rows.append(Heading(text="Skipped files"))
        rows += [Heading(text="", small=f"{row.subject}/{row.file}: {row.reason}") for row in skipped]
    return rows
