"""The plan: seeds that pair methods and rounds, chunks that depend on nothing but the run file."""

from dataclasses import replace
from pathlib import Path

import pytest

from mudi.records import Adapter, Combination, Subject
from mudi.text.prompts import fill_prompts
from pipeline import plan

ADAPTER = Adapter(method="mudi", combination="toys", round=0, path=Path("adapters/toys"), sha256="5e" * 32)


def toys(*nouns: str) -> Combination:
    keys = "abcdefgh"[: len(nouns)]
    subjects = [Subject(key=k, identifier=f"v{k}", class_noun=noun, detection_query=noun, references=()) for k, noun in zip(keys, nouns)]
    return Combination(key="toys", subjects=tuple(subjects))


def planned(combination: Combination, **changes) -> list[plan.Chunk]:
    asked = {"run": "run", "run_seed": 0, "method": "mudi", "adapter": ADAPTER, "round": 0}
    asked |= {"candidates": 7, "watched_images": 2, "batch": 2}
    return plan.plan_round(combination=combination, **{**asked, **changes})


def test_placeholders_become_phrases():
    two, three = toys("corgi", "chow chow"), toys("cat", "dog", "red can")
    assert fill_prompts(two, ["{subjects} on a hill"]).prompts[0].text == "a va corgi and a vb chow chow on a hill"
    assert fill_prompts(three, ["{subjects}"]).prompts[0].text == "a va cat, a vb dog and a vc red can"
    assert fill_prompts(two, ["the {b} left of the {a}"]).prompts[0].text == "the vb chow chow left of the va corgi"


def nameless(*nouns):
    """Subjects as Cones 2 names them, by their nouns alone."""
    named = toys(*nouns)
    return replace(named, subjects=tuple(replace(subject, identifier="") for subject in named.subjects))


@pytest.mark.parametrize("template", ["{b} behind {a}", "{b} on a hill", "{a} beside {a} and {b}", "{c} and {b} and {a}"])
def test_subjects_of_one_phrase_are_named_in_their_order(template):
    """Two dogs and a cat: which "dog" is whose only the order says, so b before a would swap the two."""
    with pytest.raises(ValueError, match="only their order tells apart; name them as a, b"):
        fill_prompts(nameless("dog", "dog", "cat"), [template])


def test_subjects_of_one_phrase_may_stand_anywhere_among_others():
    texts = ["{c} behind {a} and {b}", "{a}", "{subjects}, {b} and {a} again"]
    written = [prompt.text for prompt in fill_prompts(nameless("dog", "dog", "cat"), texts).prompts]
    assert written == ["cat behind dog and dog", "dog", "a dog, a dog and a cat, dog and dog again"]


def test_prompts_are_numbered_and_watched_ones_marked():
    prompts = fill_prompts(toys("cat", "dog"), ["{a}", "{b}"], ["{subjects}"]).prompts
    assert [(p.prompt_id, p.watched) for p in prompts] == [("p00", False), ("p01", False), ("watch-00", True)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [("{c} on a hill", "unknown placeholder {c}"), ("a hill", "names no subject"), ("{a} {", "unbalanced"), ("{{a}}", "unbalanced")],
)
def test_a_wrong_template_is_quoted_with_what_is_allowed(template, expected):
    with pytest.raises(ValueError, match=r"^prompt ") as caught:
        fill_prompts(toys("cat", "dog"), [template])
    assert repr(template) in str(caught.value)
    assert expected in str(caught.value)
    assert "{subjects}, {a}, {b}" in str(caught.value)


def test_a_seed_is_63_bits_of_the_documented_hash():
    """The first 8 bytes of sha256('[0, "toys", "p00", 0, 0]'), shifted right once: computed with sha256sum."""
    assert plan.candidate_seed(0, "toys", "p00", 0, 0) == 0xC12D608B31769724 >> 1


def test_every_part_of_a_candidate_but_the_method_changes_its_seed():
    base = (0, "a", "p", 0, 0)
    changed = (1, "b", "q", 1, 1)
    seeds = {plan.candidate_seed(*base)} | {plan.candidate_seed(*base[:i], changed[i], *base[i + 1 :]) for i in range(5)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**63 for seed in seeds)
    combination = fill_prompts(toys("cat", "dog"), ["{a}"])
    assert [c.seeds for c in planned(combination, method="dreambooth")] == [c.seeds for c in planned(combination)]
    assert {c.chunk_id for c in planned(combination, method="dreambooth")}.isdisjoint(c.chunk_id for c in planned(combination))


def test_candidates_spread_evenly_and_fill_fixed_batches():
    """7 over 3 prompts is 3, 2, 2; in batches of 2 that is 2 + 1, 2, 2."""
    chunks = planned(fill_prompts(toys("cat", "dog"), ["{a}", "{b}", "{subjects}"]))
    assert [(c.prompt_id, [k.index for k in c.keys]) for c in chunks] == [("p00", [0, 1]), ("p00", [2]), ("p01", [0, 1]), ("p02", [0, 1])]


def test_fewer_candidates_than_prompts_use_the_first_prompts():
    chunks = planned(fill_prompts(toys("cat", "dog"), ["{a}", "{b}", "{subjects}"]), candidates=2)
    assert [c.prompt_id for c in chunks] == ["p00", "p01"]


def test_watched_prompts_repeat_their_seeds_each_round_and_others_do_not():
    combination = fill_prompts(toys("cat", "dog"), ["{a}"], ["{b}"])
    first, second = planned(combination, round=0, candidates=1), planned(combination, round=1, candidates=1)
    assert [c.prompt_id for c in first] == ["p00", "watch-00"]
    assert first[0].seeds != second[0].seeds
    assert first[1].seeds == second[1].seeds
    assert first[1].keys != second[1].keys


def test_a_restart_draws_whole_chunks_and_only_unfinished_ones():
    chunks = planned(fill_prompts(toys("cat", "dog"), ["{a}"]), candidates=6)
    ids = [[key.candidate_id for key in chunk.keys] for chunk in chunks]
    assert plan.remaining(chunks, {*ids[0], ids[1][0]}) == chunks[1:]
    assert plan.remaining(chunks, {i for chunk_ids in ids for i in chunk_ids}) == []
