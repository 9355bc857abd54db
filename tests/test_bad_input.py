"""Every kind of bad input gets one clear line, exit status 2 and nothing written, or the note that is stated."""

import pytest
from bad_input_cases import PAGE, SECTIONS, answer, answers, page

CASES = [case for cases in SECTIONS.values() for case in cases]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_a_kind_of_bad_input_gets_its_line(case):
    """The status, the single line and the unchanged files are asserted where the answer is made."""
    assert all(word in answer(case) for word in case.words), answer(case)


def test_the_page_says_what_the_program_says():
    """docs/bad_input.md is the answers above; `PYTHONPATH=. python tests/bad_input_cases.py` writes it again."""
    assert PAGE.read_text(encoding="utf-8") == page(answers())
