"""Every kind of bad input through its real entry, and docs/bad_input.md, which is written from the answers.

`PYTHONPATH=. python tests/bad_input_cases.py` writes the page again.
"""

import contextlib
import hashlib
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import bad_stores
from bad_photos import MASKS, PHOTOS, REMARKS, pair
from bad_texts import FOLDERS, RUN, RUN_FILES, TEXTS

from jobs import entry
from jobs.check import check
from jobs.report import write as report
from jobs.selftrain import selftrain

PAGE = Path(__file__).parent.parent / "docs" / "bad_input.md"
# Gives the one line that answers a case, made in an empty folder; asserts all else that is promised.
Answer = Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Case:
    kind: str
    answer: Answer
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    status: int
    out: list[str]
    error: list[str]


def ran(verb: Callable, *arguments: object) -> Outcome:
    """One verb as a program, in this process."""
    out, error, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [verb.__name__, *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            entry.run(verb)
    except SystemExit as stopped:
        status = stopped.code
    finally:
        sys.argv = before
    return Outcome(status=status, out=out.getvalue().splitlines(), error=error.getvalue().splitlines())


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, by its bytes or what it is instead of a file."""
    found = {}
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
            found[os.fsdecode(os.path.relpath(path, folder))] = digest
    return found


def refusal(verb: Callable, place: Path, *arguments: object) -> Outcome:
    """What a verb says that refuses: status 2, one line on stderr, and nothing below `place` written."""
    before = contents(place)
    outcome = ran(verb, *arguments)
    assert outcome.status == 2, outcome
    assert len(outcome.error) == 1, outcome.error
    assert outcome.error[0].startswith("error: ")
    assert contents(place) == before
    return outcome


def checked_and_run(place: Path, given: Path, run_file: Path) -> str:
    """The line that `mudi check` of `given` and `mudi selftrain` of the run file both refuse with."""
    looked = refusal(check, place, given)
    (line,) = refusal(selftrain, place, run_file).error
    line = line.removeprefix("error: ")
    refused = [said.removeprefix("  refused: ") for said in looked.out if said.startswith("  refused: ")]
    assert refused == [line] or (not refused and looked.error == [f"error: {line}"]), looked
    return line


def run_file(place: Path, text: str | bytes = RUN) -> Path:
    """A run file on the folder "pair", with results that would go to "runs"."""
    encoded = text.encode() if isinstance(text, str) else text
    encoded = encoded.replace(b"PAIR", bytes(place / "pair")).replace(b"RUNS", bytes(place / "runs"))
    (place / "run.yaml").write_bytes(encoded)
    return place / "run.yaml"


def in_folder(damage: Callable[[Path], None]) -> Answer:
    def answer(place: Path) -> str:
        folder = pair(place)
        damage(folder)
        return checked_and_run(place, folder, run_file(place))

    return answer


def given(name: bytes, make: Callable[[Path], None]) -> Answer:
    """The line of `mudi check` alone: a run file is UTF-8 and cannot give every name."""

    def answer(place: Path) -> str:
        folder = place / os.fsdecode(name)
        make(folder)
        (line,) = [line for line in refusal(check, place, folder).out if line.startswith("  refused: ")]
        return line.removeprefix("  refused: ")

    return answer


def in_run_file(text: str | bytes) -> Answer:
    def answer(place: Path) -> str:
        pair(place)
        path = run_file(place, text)
        return checked_and_run(place, path, path)

    return answer


def remarked(damage: Callable[[Path], None]) -> Answer:
    """The note of `mudi check`, which accepts the folder."""

    def answer(place: Path) -> str:
        folder = pair(place)
        damage(folder)
        outcome = ran(check, folder)
        assert (outcome.status, outcome.error) == (0, []), outcome
        (line,) = [line for line in outcome.out if line.startswith("  note: ")]
        return line.removeprefix("  note: ")

    return answer


def replaced(name: str, make: Callable[[], bytes]) -> Answer:
    return in_folder(lambda folder: (folder / name).write_bytes(make()) and None)


def raised(call: Callable[[Path, bad_stores.Damage], None], damage: bad_stores.Damage) -> Answer:
    """The line of a ValueError of the library; a run turns it into its last line."""

    def answer(place: Path) -> str:
        try:
            call(place / "folder", damage)
        except ValueError as error:
            line = str(error)
        else:
            raise AssertionError("accepted")
        assert "\n" not in line
        return line

    return answer


def reported(damage: bad_stores.Damage) -> Answer:
    """The line that `mudi report` of a run with one damaged file refuses with."""

    def answer(place: Path) -> str:
        from test_report import synthetic_run

        run_dir = synthetic_run(place, rounds=0, count=2)
        damage(bad_stores.score_file(run_dir))
        (line,) = refusal(report, place, run_dir).error
        return line.removeprefix("error: ")

    return answer


def too_many_gpus(_place: Path) -> str:
    """The line of a run on a cluster of one machine with one GPU."""
    from pipeline.cluster import require
    from pipeline.config import Cluster, Pool

    try:
        require(Cluster(generate=Pool(gpus=8)), [{"CPU": 4.0, "GPU": 1.0}])
    except ValueError as error:
        return str(error)
    raise AssertionError("accepted")


SECTIONS: dict[str, tuple[Case, ...]] = {
    "Photos (`mudi check`, `mudi selftrain`)": tuple(
        Case(kind=kind, answer=replaced("b01.png", make), words=words) for kind, make, words in PHOTOS
    ),
    "Masks (`mudi check`, `mudi selftrain`)": tuple(
        Case(kind=kind, answer=replaced("mask_b01.png", make), words=words) for kind, make, words in MASKS
    ),
    "metadata.jsonl and captions (`mudi check`, `mudi selftrain`)": tuple(
        Case(kind=kind, answer=in_folder(damage), words=words) for kind, damage, words in TEXTS
    ),
    "Folders (`mudi check`)": tuple(Case(kind=kind, answer=given(name, make), words=words) for kind, name, make, words in FOLDERS),
    "Accepted with a note (`mudi check`)": tuple(Case(kind=kind, answer=remarked(damage), words=words) for kind, damage, words in REMARKS),
    "Run files (`mudi check`, `mudi selftrain`)": tuple(
        Case(kind=kind, answer=in_run_file(text), words=words) for kind, text, words in RUN_FILES
    ),
    "Cluster (`mudi selftrain`)": (
        Case(kind="8 GPUs a worker, one a machine", answer=too_many_gpus, words=("cluster.generate.gpus = 8", "1 GPUs and 4 CPUs")),
    ),
    "Weights (any model folder)": tuple(
        Case(kind=kind, answer=raised(bad_stores.read_model, damage), words=words) for kind, damage, words in bad_stores.WEIGHTS
    ),
    "Adapters (on being put on a model)": tuple(
        Case(kind=kind, answer=raised(bad_stores.put_on_adapter, damage), words=words) for kind, damage, words in bad_stores.ADAPTERS
    ),
    "Tables (`mudi report`)": tuple(Case(kind=kind, answer=reported(damage), words=words) for kind, damage, words in bad_stores.TABLES),
}
HEAD = """\
# Bad input

What was tried, and the line that answers it: exit status 2, one line on stderr, nothing written (but for notes). `mudi check` prints such a
line for every mistake in one run; a run stops at the first. Written by `PYTHONPATH=. python tests/bad_input_cases.py`
from the cases that `tests/test_bad_input.py` holds; the page is a test too. `...` stands for the folder, and for the middle of a long line.
"""
REPAIRS = """
## Accepted and repaired

| kind | what is done |
|---|---|
| EXIF orientation | photo and mask are turned upright together |
| transparency | composited, photos on white, masks on black, so that no hidden colour surfaces |
| 16-bit grey | value / 257, rounded; 16-bit colour: the high byte |
| Display P3 and other RGB profiles, grey and CMYK profiles | converted to sRGB; CMYK without a profile by formula |
| palette, 1-bit, grey, CMYK | converted to RGB |
| a phone's file with a preview (MPO) | its first picture is taken |
| byte order mark, blank lines, CRLF in metadata.jsonl | read over |
| `.jpeg`, `.JPG`, any name | the bytes decide |
| a file beside tables that is not named `*.parquet`, such as `b.parquet.tmp` | not read |
"""
SHOWN = 230


def page(lines: Iterator[tuple[str, Case, str]]) -> str:
    """docs/bad_input.md from (section, case, answer)."""
    text, current = HEAD, None
    for section, case, line in lines:
        if section != current:
            text += f"\n## {section}\n\n| kind | answer |\n|---|---|\n"
            current = section
        text += f"| {case.kind} | `{_short(line)}` |\n"
    return text + REPAIRS


def _short(line: str) -> str:
    line = line.replace("|", "\\|").replace("`", "'")
    return line if len(line) <= SHOWN else f"{line[: SHOWN // 2]} ... {line[-SHOWN // 2 :]}"


@cache
def answer(case: Case) -> str:
    """The line that answers a case, with the folder it was made in as "..."; made once a process."""
    with tempfile.TemporaryDirectory() as place:
        # The digits of a sha256 say nothing here, and follow from versions of libraries.
        return re.sub(r"[0-9a-f]{12}(?=\.\.\.)", "", case.answer(Path(place)).replace(place, "..."))


def answers() -> Iterator[tuple[str, Case, str]]:
    """Every case with its answer."""
    for section, cases in SECTIONS.items():
        for case in cases:
            yield section, case, answer(case)


if __name__ == "__main__":
    PAGE.write_text(page(answers()), encoding="utf-8")
