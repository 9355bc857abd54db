"""Two runs side by side: pairs of one seed, and one line where they were not asked the same."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from stored_benchmark import DNC, benchmark_run, constant

from jobs import entry
from jobs.compare import compare as verb
from mudi.records import Candidate, CandidateKey, Score, ScoredCandidate
from pipeline.plan import candidate_seed
from pipeline.report.compare import compare, print_comparison
from pipeline.settings.config import load_run
from pipeline.tables import store
from pipeline.tables.run_folder import open_run

USUAL = constant(dreambooth=0.2, mudi=0.4)


def noisy(offset: float):
    """A score that differs from image to image, alike in every run, plus a constant."""
    return lambda method, combination, fit, prompt_id, index: {DNC: offset + 0.01 * hash_of(combination, fit, prompt_id, index)}


def hash_of(*place) -> int:
    return sum(map(ord, repr(place))) % 17


def test_a_run_differs_from_its_twin_by_exactly_nothing(tmp_path):
    twins = [benchmark_run(tmp_path / name, noisy(0.1)) for name in "ab"]
    results = compare(*twins)
    assert [result.label for result in results] == ["dreambooth", "mudi"]
    for result in results:
        assert (result.estimate.mean, result.estimate.low, result.estimate.high, result.estimate.count) == (0.0, 0.0, 0.0, 16)
        assert not result.real


def test_a_difference_of_every_pair_is_real(tmp_path):
    """B's images score 0.1 more than A's, whatever the image: B minus A is 0.1 without any spread."""
    a, b = (benchmark_run(tmp_path / name, noisy(offset)) for name, offset in (("a", 0.1), ("b", 0.2)))
    result = compare(a, b, DNC)[0]
    assert (result.estimate.mean, result.estimate.low, result.estimate.high) == pytest.approx((0.1,) * 3)
    assert result.real
    assert compare(b, a, DNC)[0].estimate.mean == pytest.approx(-0.1)


def test_named_arms_of_one_folder(tmp_path):
    run_dir = benchmark_run(tmp_path, USUAL)
    (result,) = compare(run_dir, run_dir, method_a="dreambooth", method_b="mudi")
    assert (result.label, result.real) == ("mudi minus dreambooth", True)
    assert result.estimate.mean == pytest.approx(0.2)


def test_images_without_a_partner_are_counted(tmp_path):
    a = benchmark_run(tmp_path / "a", USUAL)
    b = benchmark_run(tmp_path / "b", lambda *key: None if key[-1] == 1 and key[1] == "x" else USUAL(*key))
    result = compare(a, b)[0]
    assert (result.estimate.count, result.unmatched_a, result.unmatched_b) == (12, 4, 0)


def test_drift_is_paired_by_fit(tmp_path):
    def drifting(value):
        return lambda *key: {"started_from": "feed", "drift": value + key[2]}

    a, b = (benchmark_run(tmp_path / name, USUAL, fit_row=drifting(value)) for name, value in (("a", 0.5), ("b", 0.25)))
    result = compare(a, b, "drift")[0]
    assert (result.estimate.mean, result.estimate.high, result.estimate.count) == (-0.25, -0.25, 4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"combinations": ("x", "z")}, "combination 'y' is in A only"),
        ({"prompts": {"p00": "a dog", "p01": "a cow"}}, "prompt x / p01 differs: 'a cat' in A, 'a cow' in B"),
        ({"prompts": {"p00": "a dog"}}, "prompt x / p01 is in A only"),
        ({"images": 3}, "number of images differs: 2 in A, 3 in B"),
        ({"fits": 1}, "number of fits differs: 2 in A, 1 in B"),
        ({"seed": 1}, "seeds differ: x / fit 0 / p00 / image 0 has "),
        ({"methods": ("mudi",), "judge": constant(mudi=0.1)}, None),
        ({"methods": ("cut_mix",), "judge": constant(cut_mix=0.1)}, "no arm is in both: A has dreambooth, mudi; B has cut_mix"),
    ],
)
def test_runs_that_were_not_asked_the_same_are_refused_in_one_line(tmp_path, monkeypatch, capsys, change, named):
    a = benchmark_run(tmp_path / "a", USUAL)
    b = benchmark_run(tmp_path / "b", **{"judge": USUAL, **change})
    monkeypatch.setattr(sys, "argv", ["compare", str(a), str(b)])
    with pytest.raises(SystemExit) as stopped:
        entry.run(verb)
    shown = capsys.readouterr()
    if named is None:
        assert stopped.value.code == 0
        assert "mudi" in shown.out
    else:
        assert stopped.value.code == 2
        (line,) = shown.err.strip().splitlines()
        assert named in line


def test_wrong_names_list_the_right_ones(tmp_path):
    run_dir = benchmark_run(tmp_path, USUAL)
    with pytest.raises(ValueError, match=f"no score 'beauty'; choose from {DNC}"):
        compare(run_dir, run_dir, "beauty")
    with pytest.raises(ValueError, match="B has no arm 'modi'; choose from dreambooth, mudi"):
        compare(run_dir, run_dir, method_a="mudi", method_b="modi")
    with pytest.raises(ValueError, match="name both"):
        compare(run_dir, run_dir, method_a="mudi")
    with pytest.raises(ValueError, match="no run here"):
        compare(run_dir, tmp_path / "nowhere")


def selftrained(folder: Path, values: list[float], prompts: str = "['{subjects}']") -> Path:
    """A self-training run of combinations x and y, one prompt, two images a round; values[r] is every score of round r."""
    folder.mkdir()
    path = folder / "run.yaml"
    path.write_text(
        f"name: s\nruns: {folder}\ncombinations: [x, y]\nrounds: {len(values) - 1}\ncandidates: 2\nkeep: 1\nprompts: {prompts}\n"
    )
    run_dir = open_run(load_run(path))
    for round, value in enumerate(values):
        for combination in ("x", "y"):
            items = []
            for prompt_id, index in (("p00", 0), ("p00", 1), ("watch-00", 0)):
                key = CandidateKey(
                    run="s",
                    method="mudi",
                    combination=combination,
                    prompt_id=prompt_id,
                    index=index,
                    round=round,
                    adapter_sha256=f"{value}",
                )
                candidate = Candidate(
                    key=key, prompt="a toy", seed=candidate_seed(0, combination, prompt_id, round, index),
                    image=np.zeros((4, 4, 3), np.uint8), status="ok", error=None, seconds=1.0,
                )  # fmt: skip
                score = Score(metric=DNC, value=9.0 if prompt_id == "watch-00" else value, scorer="tiny")
                items.append(ScoredCandidate(candidate=candidate, detections=(), scores=(score,)))
            store.write_chunk(run_dir, f"{combination}-p00", round, items, device="cpu", dtype="float32", batch=3)
    return run_dir


def test_prompts_are_compared_for_each_combination_however_they_were_given(tmp_path):
    a = selftrained(tmp_path / "a", [0.5])
    b = selftrained(tmp_path / "b", [0.6], "{y: ['{subjects}'], x: ['{subjects}']}")
    c = selftrained(tmp_path / "c", [0.6], "{x: ['{subjects}'], y: ['{subjects} at sea']}")
    assert len(compare(a, b)) == 1
    with pytest.raises(ValueError, match=r"prompt y / p00 differs: '{subjects}' in A, '{subjects} at sea' in B"):
        compare(a, c)


def test_self_training_is_compared_round_by_round(tmp_path):
    """Rounds 0 and 1 are in both; B is 0.1 ahead in round 1. Watched images, scored 9 in both, count nowhere."""
    a, b = selftrained(tmp_path / "a", [0.5, 0.5, 0.7]), selftrained(tmp_path / "b", [0.5, 0.6])
    first, second = both = compare(a, b)
    assert [(r.round, r.estimate.count, r.real) for r in (first, second)] == [(0, 4, False), (1, 4, True)]
    assert (first.estimate.mean, second.estimate.mean) == pytest.approx((0.0, 0.1))
    output = io.StringIO()
    print_comparison(a, b, both, Console(file=output, width=160))
    lines = [line.split() for line in output.getvalue().splitlines()]
    assert ["mudi", "0", DNC, "+0.000", "[+0.000,", "+0.000]", "not", "shown", "4", "0", "0"] in lines
    assert ["mudi", "1", DNC, "+0.100", "[+0.100,", "+0.100]", "real", "4", "0", "0"] in lines


def test_self_training_and_a_benchmark_are_not_compared(tmp_path):
    with pytest.raises(ValueError, match="kind of run differs: 'self-training' in A, 'benchmark' in B"):
        compare(selftrained(tmp_path / "a", [0.5]), benchmark_run(tmp_path / "b", USUAL))
