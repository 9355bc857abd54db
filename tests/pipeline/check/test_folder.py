"""`mudi check`: every file counted once, every mistake named in one run, and as few photos in memory as threads."""

import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_input_cases import ran, refusal, run_file
from bad_photos import HEADER, MASKS, PHOTOS, encoded, entry, mask, pair, photo, write
from bad_texts import RUN

from jobs.check import check
from mudi.user_files.metadata_file import METADATA
from pipeline.check.folder import OWN_FILES, check_folder, in_order
from pipeline.check.text import folder_lines, printable

ROOT = Path(__file__).parents[3]
BENCHMARK = ROOT.parent / "shared" / "mudi-benchmark"


def one_of_every_kind(parent: Path) -> tuple[Path, list[dict]]:
    """A sound pair and, for "b", a line for each kind of bad photo and mask."""
    folder = pair(parent)
    (folder / "b01.png").unlink()
    lines = []
    for number, (_, make, _) in enumerate((*PHOTOS, *MASKS), start=2):
        line = entry("b", number)
        bad, good = ("file_name", "mask_path") if number < 2 + len(PHOTOS) else ("mask_path", "file_name")
        (folder / line[bad]).write_bytes(make())
        (folder / line[good]).write_bytes(encoded(mask() if good == "mask_path" else photo(number), "PNG"))
        lines.append(line)
    # The mask that is its photo and the photo that is another's copy are so only beside those.
    (folder / lines[-1]["file_name"]).write_bytes((folder / lines[-1]["mask_path"]).read_bytes())
    write(folder, HEADER, entry("a", 0), entry("a", 1), entry("b", 0), *lines, "{torn", entry("b", 99, id="c"))
    return folder, lines


def counted(report) -> int:
    return report.photos + report.masks + len(report.own) + sum(map(len, report.skipped.values()))


def test_every_mistake_is_named_in_one_run_and_the_good_photos_count(tmp_path):
    folder, lines = one_of_every_kind(tmp_path)
    for name in ("contact_sheet.html", "notes.txt", "caf\udce9.png", "a\nb.png"):
        (folder / name).write_bytes(b"x")
    (folder / "copy.png").write_bytes((folder / "a00.png").read_bytes())
    (folder / "inner").mkdir()
    (folder / "inner" / "c.png").write_bytes(b"y")
    report = check_folder(folder)
    assert (report.photos, report.masks) == (3, 3)
    assert report.own == ("contact_sheet.html", METADATA)
    assert (report.listed, report.refused) == (3 + len(lines) + 2, len(lines) + 2)
    assert len(report.mistakes) == len(lines) + 2
    for line, (kind, _, words) in zip(lines, (*PHOTOS, *MASKS), strict=True):
        bad = line["file_name"] if kind in {kind for kind, _, _ in PHOTOS} else line["mask_path"]
        (mistake,) = [mistake for mistake in report.mistakes if mistake.startswith(f"{folder / bad}: ")]
        assert all(word in mistake for word in words), mistake
    assert report.found == counted(report) == sum(len(names) for _, _, names in os.walk(folder))
    assert report.skipped["the same bytes as a00.png"] == ("copy.png",)
    assert {"notes.txt", "caf\udce9.png", "a\nb.png", os.path.join("inner", "c.png")} <= set(report.skipped["not listed in metadata.jsonl"])
    outcome = refusal(check, tmp_path, folder)
    closing = f"error: pair: {report.refused} of {report.listed} listed photos cannot be used; correct or remove their lines"
    assert outcome.error == [closing]
    printed = [line.removeprefix("  refused: ") for line in outcome.out if line.startswith("  refused: ")]
    assert printed == list(map(printable, report.mistakes))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_report_is_the_same_in_any_number_of_threads(tmp_path, threads):
    folder, _ = one_of_every_kind(tmp_path)
    with ThreadPoolExecutor(threads) as executor:
        assert list(folder_lines(check_folder(folder, each=in_order(executor, 2 * threads)))) == list(folder_lines(check_folder(folder)))


def test_a_file_is_counted_once_whatever_it_is_used_for(tmp_path):
    """One photo and one mask for both subjects, a mask that is another line's photo, a link to a folder, and a file of each known name."""
    folder = pair(tmp_path)
    write(folder, HEADER, entry("a", 0), entry("b", 0, file_name="a00.png", mask_path="mask_a00.png"), entry("a", 1), entry("b", 1))
    (folder / "elsewhere").symlink_to(tmp_path)
    for name in OWN_FILES:
        (folder / name).touch() if name != METADATA else None
    report = check_folder(folder)
    assert report.mistakes == ()
    assert (report.photos, report.masks, report.own) == (3, 3, tuple(sorted(OWN_FILES)))
    assert report.skipped == {
        "not listed in metadata.jsonl": ("b00.png", "mask_b00.png"),
        "links to a folder, which are not followed": ("elsewhere",),
    }
    assert report.found == counted(report)


def test_several_folders_are_checked_in_one_run(tmp_path):
    """Status 2 for the one that fails; those before and after it have their reports."""
    good, bad = pair(tmp_path), tmp_path / "other" / "pair"
    bad.parent.mkdir()
    pair(bad.parent)
    (bad / "a00.png").write_bytes(b"")
    outcome = ran(check, good, bad, good)
    assert outcome.status == 2
    assert sum(line == "pair: accepted" for line in outcome.out) == 2
    assert outcome.error == ["error: pair: 1 of 4 listed photos cannot be used; correct or remove its line"]


def test_a_run_file_is_checked_with_its_folders_in_one_run(tmp_path):
    """Two mistakes of settings and one photo: each has its line, and the last says how many there are."""
    folder = pair(tmp_path)
    (folder / "a00.png").write_bytes(b"")
    path = run_file(tmp_path, RUN + "models: {backbone: nowhere}\nqueries: {other: {a: dog}}\n")
    outcome = refusal(check, tmp_path, path)
    refused = [line for line in outcome.out if line.startswith("  refused: ")]
    for line, words in zip(refused, ("a00.png: cannot read", "model 'nowhere'", "queries.other"), strict=True):
        assert words in line
    assert outcome.error[0].startswith("error: 3 mistakes: model 'nowhere'")
    assert "; pair: 1 of 4 listed photos cannot be used" in outcome.error[0]


def test_a_benchmark_file_is_checked_with_its_folders(tmp_path):
    """Photos without masks are accepted of a folder, and refused by the arm that cuts subjects out."""
    folder = pair(tmp_path)
    write(folder, HEADER, *(entry(key, number, mask_path=None) for key in "ab" for number in range(2)))
    assert ran(check, folder).status == 0
    (tmp_path / "bench.yaml").write_text(
        f"name: b\nruns: {tmp_path / 'runs'}\ncombinations: [{folder}]\nprompts: ['a {{subjects}}']\n"
        "methods: {plain: {method: dreambooth}, ours: {method: mudi}}\n"
    )
    (line,) = refusal(check, tmp_path, tmp_path / "bench.yaml").error
    assert "has no mask (4 such photos in pair), and methods.ours cuts the subjects out" in line


def test_no_more_photos_are_in_memory_than_threads():
    """`in_order` never has more calls under way than its executor has threads, nor takes more items ahead than told."""
    alive, most, taken = 0, 0, []
    lock = threading.Lock()

    def call(item: int) -> int:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        result = sum(range(1000 * (item % 7))) * 0 + item
        with lock:
            alive -= 1
        return result

    def items():
        for item in range(200):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(2) as executor:
        for result in in_order(executor, 4)(call, items()):
            assert len(taken) <= result + 5
    assert most <= 2
    assert len(taken) == 200


def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    """Of a photo that was looked at no more than 20 kB stay; the mask's levels alone, 512 x 256, have 131."""
    peaks = {}
    for count in (6, 60):
        (tmp_path / str(count)).mkdir()
        folder = pair(tmp_path / str(count))
        whole = encoded(photo(0, 512, 256), "PNG", compress_level=1)
        (folder / "wide_mask.png").write_bytes(encoded(mask(512, 256), "PNG"))
        lines = []
        for number in range(2, count):
            # Bytes after a PNG's end are not read, so the files differ and the pixels do not.
            (folder / f"b{number:02}.png").write_bytes(whole + str(number).encode())
            lines.append(entry("b", number, mask_path="wide_mask.png"))
        write(folder, HEADER, entry("a", 0), entry("b", 0), *lines)
        tracemalloc.start()
        report = check_folder(folder)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (report.refused, report.photos) == (0, count)
    assert peaks[60] - peaks[6] < 54 * 20_000


def test_folders_are_checked_without_torch_and_ray(tmp_path):
    code = (
        "import sys; from jobs import entry; from jobs.check import check; sys.argv = ['check', sys.argv[1]]\n"
        "try: entry.run(check)\nfinally: assert not {'torch', 'ray', 'transformers', 'pyarrow'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(pair(tmp_path))], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, *_ = done.stdout.splitlines()
    assert first == "pair: accepted"
    assert second == "  found 9 files = 4 used as photo + 4 as mask + 1 known by name (metadata.jsonl) + 0 skipped"


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason=f"the published folders are not at {BENCHMARK}")
def test_the_published_folders_are_accepted(capsys):
    """208 pictures, half of them masks, all lossy; of the castle's folder one photo is neither there nor listed."""
    reports = [check_folder(folder) for folder in sorted(BENCHMARK.iterdir()) if folder.is_dir()]
    assert [report.mistakes for report in reports] == [()] * 9
    assert sum(report.photos for report in reports) == sum(report.masks for report in reports) == 104
    assert all(report.skipped == {} and report.found == counted(report) for report in reports)
    assert all("between black and white" in " ".join(report.notes) for report in reports)
