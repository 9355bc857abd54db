"""Things that are made once beside the fit of a single subject, by the first fit of a plan that asks for them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mudi.passes import Once, Work


def unplanned(places: Iterable[Path], planned: set[Path]) -> list[Path]:
    """Those of the places that are not `planned` yet, each once; they are then."""
    mine = [place for place in dict.fromkeys(places) if place not in planned]
    planned.update(mine)
    return mine


def made_once(work: Work, singles: Sequence[Path], planned: set[Path]) -> list[Once]:
    """What this work makes beside the fits in `singles` that no earlier fit of the plan did."""
    things = {single / thing.name: thing for single in singles for thing in work.once}
    return [things[place] for place in unplanned(things, planned)]
