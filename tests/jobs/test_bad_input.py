"""Every kind of bad input gets one clear line, exit status 2 and nothing written, or the note that is stated."""

import pytest
from bad_input_cases import PAGE, SECTIONS, answer, answers, page, ran, report
from bad_stores import score_file

from tests.pipeline.report.test_run_page import synthetic_run

CASES = [case for cases in SECTIONS.values() for case in cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_a_kind_of_bad_input_gets_its_line(case):
    """The status, the single line and the unchanged files are asserted where the answer is made."""
    assert all(word in answer(case) for word in case.words), answer(case)


def test_the_page_says_what_the_program_says():
    """docs/bad_input.md is the answers above; `PYTHONPATH=. python tests/fixtures/bad_input_cases.py` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == page(answers())


def test_a_part_of_a_table_that_another_program_left_is_not_read(tmp_path):
    """The report of a run with half a table beside the whole one is byte for byte that of the run without."""
    run_dir = synthetic_run(tmp_path, rounds=0, count=2)
    assert ran(report, run_dir).status == 0
    before = (run_dir / "report.html").read_bytes()
    path = score_file(run_dir)
    (path.parent / "b.parquet.tmp").write_bytes(path.read_bytes()[:100])
    assert ran(report, run_dir).status == 0
    assert (run_dir / "report.html").read_bytes() == before


def test_a_secret_is_not_repeated(tmp_path):
    """Neither from the file nor from the command line."""
    from bad_input_cases import check, run_file, selftrain
    from bad_photos import pair
    from bad_texts import RUN

    pair(tmp_path)
    secret = "hf_" + "Z" * 34
    path = run_file(tmp_path, RUN + f"models: {{backbone: {secret}}}\n")
    for outcome in (ran(check, path), ran(selftrain, path), ran(selftrain, run_file(tmp_path), "--set", f"models.backbone={secret}")):
        assert outcome.status == 2
        assert "looks like a secret" in outcome.error[0]
        assert secret not in "".join(outcome.error + outcome.out)
