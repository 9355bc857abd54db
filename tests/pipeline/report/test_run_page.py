"""The report: one offline file that shows the stored candidates, whatever their prompts contain."""

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline.report.run_page import write_report
from pipeline.settings.config import load_run
from pipeline.tables import store
from pipeline.tables.run_folder import open_run

COLORS = {"a": (214, 138, 66), "b": (92, 118, 196)}


def draw(rng: np.random.Generator, size: int, count: int) -> tuple[np.ndarray, list[list[float]]]:
    """A picture of `count` rectangles on a soft background, and their boxes."""
    image = np.full((size, size, 3), rng.integers(150, 235, 3), dtype=np.uint8)
    image[size * 2 // 3 :] = rng.integers(90, 170, 3)
    boxes = []
    for i in range(count):
        width, height = rng.integers(size // 5, size // 3, 2)
        x, y = i * size // count + rng.integers(0, max(1, size // count - width)), rng.integers(size // 4, size - height)
        image[y : y + height, x : x + width] = list(COLORS.values())[i % 2]
        boxes.append([float(x), float(y), float(x + width), float(y + height)])
    return image, boxes


def synthetic_round(
    run_dir: Path, combination: str, round: int, prompt_id: str, prompt: str, count: int, size: int
) -> list[tuple[str, float]]:
    """Stores drawn candidates whose scores grow with the round; returns (candidate_id, value) of the scored ones."""
    items, values = [], []
    for index in range(count):
        rng = np.random.default_rng([index, len(prompt_id), sum(map(ord, combination + prompt_id))])
        key = CandidateKey(
            run="r", method="mudi", combination=combination, prompt_id=prompt_id, index=index, round=round, adapter_sha256=f"{round}"
        )
        boxes_drawn = 2 if rng.random() < 0.6 + 0.15 * round else int(rng.choice([1, 3]))
        image, boxes = draw(rng, size, boxes_drawn)
        own, other = 0.55 + 0.1 * round + 0.1 * rng.random(), 0.35 * rng.random()
        similarity = [[own, other] if i % 2 == 0 else [other * 0.9, own * 0.95] for i in range(boxes_drawn)]
        value = own * 1.95 - other * 1.9 if boxes_drawn == 2 else 0.0
        details = {"boxes": boxes, "similarity": similarity}
        if boxes_drawn != 2:
            details["reason"] = f"{boxes_drawn} boxes for 2 subjects"
        scores = (
            Score(metric="count_correct", value=float(boxes_drawn == 2), scorer="tiny"),
            Score(metric="dnc_linear_dreamsim", value=value, scorer="tiny", details=details),
        )
        candidate = Candidate(key=key, prompt=prompt, seed=index + 1000, image=image, status="ok", error=None, seconds=0.5)
        items.append(ScoredCandidate(candidate=candidate, detections=(), scores=scores))
        values.append((key.candidate_id, value))
    store.write_chunk(run_dir, f"{combination}-{prompt_id}", round, items, device="cpu", dtype="float32", batch=count)
    return values


def synthetic_run(
    tmp_path: Path,
    *,
    combinations: Sequence[str] = ("toys",),
    rounds: int = 2,
    size: int = 48,
    count: int = 6,
    prompt: str = "a va dog and a vb cat",
) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"name: synthetic\nruns: {tmp_path}\ncombinations: [{', '.join(combinations)}]\nrounds: {rounds}\ncandidates: {2 * count}\n"
        "keep: 4\nprompts: ['{subjects}', '{subjects} on a hill']\nwatched_prompts: ['{subjects} by a lake']\n"
    )
    run_dir = open_run(load_run(path), subjects={key: ["va dog", "vb cat"] for key in combinations})
    for round in range(rounds + 1):
        ranked = []
        for combination in combinations:
            values = synthetic_round(run_dir, combination, round, "p00", prompt, count, size)
            values += synthetic_round(run_dir, combination, round, "p01", f"{prompt} on a hill", count, size)
            synthetic_round(run_dir, combination, round, "watch-00", f"{prompt} by a lake", 2, size)
            best = sorted(values, key=lambda item: -item[1])[:4]
            ranked += [(candidate_id, rank, value) for rank, (candidate_id, value) in enumerate(best, start=1)]
        store.write_selection(run_dir, round, ranked)
    return run_dir


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_from_outside(tmp_path):
    text = write_report(synthetic_run(tmp_path)).read_text()
    page = Page(text)
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "url(http" not in text
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


def test_hostile_prompts_are_shown_as_text(tmp_path):
    prompt = '{{ 7 * 7 }} <script>alert(1)</script> "><img src=x onerror=alert(1)>'
    text = write_report(synthetic_run(tmp_path, rounds=0, prompt=prompt)).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "x" not in page.addresses
    assert prompt in page.text


def test_rounds_pictures_and_boxes_are_all_there(tmp_path):
    """3 rounds: 2 watched images each; 3 examples and 8 + 4 kept or rejected of 12 candidates each."""
    run_dir = synthetic_run(tmp_path)
    text = write_report(run_dir).read_text()
    page = Page(text)
    assert page.tags.count("img") == 3 * (2 + 3 + 12)
    assert page.tags.count("rect") >= 3 * (2 + 3)
    assert len(re.findall(r"<img[^>]*class=\"tiny\"", text)) == page.tags.count("img")
    assert "Watched images, round 2 − round 0:" in page.text
    assert "rank 1" in page.text
    assert "va dog" in page.text


def test_large_images_are_shrunk_and_smooth(tmp_path):
    text = write_report(synthetic_run(tmp_path, rounds=0, size=600, count=2)).read_text()
    assert 'class="tiny"' not in text
    assert "data:image/webp" in text
    assert 'width="600" height="600"' in text


def test_the_same_tables_give_the_same_bytes(tmp_path):
    run_dir = synthetic_run(tmp_path, rounds=0)
    first = write_report(run_dir).read_bytes()
    assert write_report(run_dir).read_bytes() == first


def test_a_run_that_has_drawn_nothing_says_so(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"name: empty\nruns: {tmp_path}\ncombinations: [toys]\ncandidates: 2\nkeep: 1\nprompts: ['{{subjects}}']\n")
    assert "No candidate has been drawn yet" in write_report(open_run(load_run(path))).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        write_report(tmp_path)
