"""The summary of a preparation in lines for the terminal: counts that add up, skipped files with reasons, photos to look at."""

from pipeline.prepare.contact_sheet import PAGE
from pipeline.prepare.photos import PreparedPhoto
from pipeline.prepare.prepare import PREVIEW, Prepared
from pipeline.settings.subjects_file import FILE_NAME


def summary(prepared: Prepared) -> list[str]:
    """Counts that add up, skipped files and why, photos to look at, and the paths of the results."""
    photos, scan, notes = prepared.photos, prepared.scan, prepared.notes
    lines = []
    for key, found in scan.found.items() if scan else ():
        own = [photo for photo in scan.photos if photo.subject == key]
        skipped = [row for row in scan.skipped if row.subject == key]
        masks = sum(photo.mask is not None for photo in own)
        known = f", {scan.known[key]} prepared before" if scan.known[key] else ""
        lines.append(f"{key}: {found} files = {len(own)} photos + {masks} masks + {len(skipped)} skipped{known}")
        lines += [f"  skipped {row.file}: {row.reason}" for row in skipped]
        lines += [f"  {photo.path.name} saved anew: {photo.repair}" for photo in own if photo.repair]
    lines += [f"not used: {name}, taken out of {FILE_NAME}" for name in prepared.removed]
    lines += [_unused_hint(photo) for photo in photos if photo.entry.hinted and photo.given_mask]
    looks = [photo for photo in photos if photo.doubts]
    if looks or notes:
        lines.append(f"needs a look ({len(looks) + len(notes)}):")
    for photo in looks:
        unused = " (left out until it has a mask)" if photo.mask is None else ""
        lines.append(f"  {photo.name}: {'; '.join(photo.doubts)}{unused}")
    lines += [f"  {note}" for note in notes]
    masked = sum(photo.mask is not None for photo in photos)
    lines.append(
        f"{prepared.out.name}: {len(photos)} photos of {len(prepared.file.subjects)} subjects, {masked} with a mask; "
        f"the models were asked for {prepared.renewed}"
    )
    lines.append(f"words   {prepared.out / FILE_NAME}")
    lines.append(f"sheet   {prepared.out / PAGE}")
    if (prepared.out / PREVIEW).is_file():
        lines.append(f"layouts {prepared.out / PREVIEW}")
    lines.append(f"Correct either the words or a mask, then start again: mudi prepare --out {prepared.out}")
    return lines


def _unused_hint(photo: PreparedPhoto) -> str:
    """The line on a box or points that change nothing, because a person made the photo's mask."""
    hints = " and ".join(name for name, given in (("box", photo.entry.box is not None), ("points", bool(photo.entry.points))) if given)
    whence = "was painted by hand" if photo.record.mask.origin == "hand" else "came with the photo"
    return f"not used: {hints} of {photo.name}, whose mask {whence}; delete {photo.mask_name} and start again to have one made"
