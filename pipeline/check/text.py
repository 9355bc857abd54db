"""The report of a check as lines of text; names of files cannot break a line."""

from collections.abc import Iterator, Sequence

from pipeline.check.folder import FolderReport
from pipeline.prepare.record import printable

SHOWN_NAMES = 10
SHOWN_FOLDERS = 3


def folder_lines(report: FolderReport) -> Iterator[str]:
    """The report on one folder, most important lines first; every mistake has its line."""
    yield f"{printable(report.folder.name)}: {'a run cannot use it as it is' if report.mistakes else 'accepted'}"
    skipped = sum(map(len, report.skipped.values()))
    parts = [f"{report.photos} used as photo", f"{report.masks} as mask"]
    parts.append(f"{len(report.own)} known by name ({', '.join(report.own)})" if report.own else "0 known by name")
    yield f"  found {report.found} files = {' + '.join(parts)} + {skipped} skipped"
    for reason, names in report.skipped.items():
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        yield f"  skipped {len(names)}, {reason}: {', '.join(map(printable, names[:SHOWN_NAMES]))}{more}"
    for row in report.subjects:
        sizes = f"{_size(row.sizes[0])} to {_size(row.sizes[-1])}" if row.sizes else "none"
        found_by = f'detected as "{row.query}"' if row.query else "a style, which is not detected"
        yield f'  {row.key}  "{row.phrase}", {found_by}: {len(row.sizes)} photos, {sizes}'
    yield from (f"  note: {printable(note)}" for note in report.notes)
    yield from (f"  refused: {printable(mistake)}" for mistake in report.mistakes)


def verdict(report: FolderReport) -> str:
    """Why a run would not accept the folder, in one line."""
    name = printable(report.folder.name)
    if report.refused:
        lines = "its line" if report.refused == 1 else "their lines"
        return f"{name}: {report.refused} of {report.listed} listed photos cannot be used; correct or remove {lines}"
    return printable(f"{name}: {report.mistakes[0]}")


def closing(complaints: Sequence[str], checked: int | None = None) -> str:
    """The one line that a check ends with; `checked` is how many folders or files were looked at, None within one of them."""
    if len(complaints) == 1:
        return complaints[0]
    more = f"; and {len(complaints) - SHOWN_FOLDERS} more" if len(complaints) > SHOWN_FOLDERS else ""
    count = f"{len(complaints)} mistakes" if checked is None else f"{len(complaints)} of {checked} fail"
    return f"{count}: {'; '.join(complaints[:SHOWN_FOLDERS])}{more}"


def _size(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"
