"""What a method answers that it costs: hand counts, and the UNet itself counting while it trains."""

from collections import Counter
from dataclasses import replace

import pytest
from quick_recipes import FIT, REFINE, quick

from mudi.methods import METHODS
from mudi.modular.self_generated import self_generated
from mudi.options import RetrainSettings
from mudi.passes import Once, Work, refit_work


def in_all(method, combination):
    """Rows forward and backward of everything that `train` does for the combination."""
    single, work = method.subject_method(combination), method.work(combination)
    subjects = [single.work(replace(combination, subjects=(s,))) for s in combination.subjects] if single else []
    once = len(combination.subjects) * sum(thing.forward for thing in work.once)
    return work.forward + once + sum(w.forward for w in subjects), work.backward + sum(w.backward for w in subjects)


def test_a_joint_fit_by_hand(two_dogs):
    """MuDI: 1200 steps of 2 micro-batches of a photo and its prior; with DCO no priors, and a row of the bare model for each."""
    told = "fit mudi rank=32 mix=0.3 rows=2 accumulation=2 references=0"
    assert METHODS["mudi"]().work(two_dogs) == Work(kind=told, steps=1200, accumulation=2, rows=2)
    dco = METHODS["mudi"](objective="dco").work(two_dogs)
    assert (dco.rows, dco.references, dco.forward, dco.backward) == (1, 1, 4800, 2400)
    assert METHODS["mudi"](prior_images=0).work(two_dogs).rows == 1
    assert METHODS["textual_inversion"]().work(two_dogs).kind == "fit textual_inversion rank=0 mix=0 rows=1 accumulation=4 references=0"
    assert METHODS["cones2"]().subject_method(two_dogs).work(two_dogs).kind.startswith("fit cones2 text_lora rank=32 mix=0 rows=1")


def test_subjects_fits_are_their_own_methods_work(two_dogs):
    """A method that fits each subject alone leaves their steps to the method that does."""
    for name, steps in (("concept_conductor", 1000), ("cones2", 4000), ("merged_loras", 1000), ("custom_diffusion_merged", 500)):
        method = METHODS[name]()
        assert (method.work(two_dogs).steps, method.subject_method(two_dogs).work(two_dogs).steps) == (0, steps)
        assert method.steps_in_all(2) == 2 * steps
    assert METHODS["mudi"]().subject_method(two_dogs) is None
    assert METHODS["mudi"]().steps_in_all(2) == 1200


def test_grams_and_pictures_are_made_once_beside_a_fit(two_dogs):
    """Grams: a sample of 20 steps and a reading of two prompts; of keys and values alone the reading. Pictures come in batches of
    eight: 12 are two, each 8 x 10 steps, twice with guidance. Other tokens and other steps are other things."""
    fused = quick(merge={"name": "fusion"}).work(two_dogs)
    assert fused.once == (Once(name="grams real", forward=22, gram=True),)
    assert quick(merge={"name": "fusion", "ridge": 0.5}).work(two_dogs).once == fused.once
    assert quick(merge={"name": "fusion", "positions": "concept"}).work(two_dogs).once != fused.once
    values = quick(single={"name": "custom_diffusion"}, merge={"name": "fusion"}).work(two_dogs)
    assert [thing.forward for thing in values.once] == [2]
    drawing = {**REFINE, "images": 12, "sample_steps": 10, "guidance_scale": 1.0}
    plain, guided = (quick(refine={**drawing, "guidance_scale": scale}).work(two_dogs).once for scale in (1.0, 2.0))
    assert [(thing.forward, thing.pictures) for thing in plain] == [(80, 8), (80, 8)]
    assert [thing.forward for thing in guided] == [160, 160]
    assert len({thing.name for thing in (*plain, *guided)}) == 4
    assert quick(refine={**drawing, "images": 5}).work(two_dogs).once == plain[:1]
    assert quick().work(two_dogs).once == ()


def test_a_refinement_by_hand(two_dogs):
    """9 steps of 1 x 6 rows, each past the merge as well, and drift: two adapters at ten times on ten photos."""
    work = quick(refine={"steps": 9, "batch": 6, "accumulation": 1}).work(two_dogs)
    assert (work.steps, work.backward, work.forward) == (9, 54, 108 + 20 * 10)
    assert work.kind == "refine dreambooth rank=4 rows=6 accumulation=1"
    assert quick(merge={"name": "svd", "rank": 3}, refine=REFINE).work(two_dogs).kind.startswith("refine dreambooth rank=3")


def test_a_refit_by_hand(two_dogs):
    """1000 steps of 2 rows, as many of the reference, and drift on ten photos."""
    work = refit_work(RetrainSettings(), METHODS["mudi"]().described(), two_dogs)
    assert work.kind == "refit mudi rank=32 photos=0 rows=1 accumulation=2"
    assert (work.steps, work.backward, work.forward) == (1000, 2000, 4000 + 20 * 10)
    told = {name: METHODS[name]().described() for name in ("merged_loras", "mix_of_show", "mudi_modular")}
    assert told == {"merged_loras": "merged_loras rank=32", "mix_of_show": "mix_of_show rank=4", "mudi_modular": "mudi_modular rank=32"}
    assert METHODS["merged_loras"](single={"name": "ed_lora"}).described() == "merged_loras ed_lora rank=4"


@pytest.mark.parametrize(
    ("name", "values", "shorter"),
    [
        ("mudi", {}, {"steps": 2, "objective": "denoising", "batch": 2}),
        ("mudi", {"batch": 3}, {"steps": 2, "objective": "denoising", "batch": 6}),
        ("mudi", {"objective": "dco"}, {"steps": 2}),
        ("cones2", {}, {"steps": 2}),
        ("merged_loras", {}, {"single.steps": 2, "single.objective": "denoising", "single.batch": 2}),
        ("mudi_modular", {"single": {"objective": "dco"}}, {"single.steps": 2, "refine.steps": 2}),
    ],
)
def test_a_shorter_training_has_steps_of_the_same_kind(two_dogs, name, values, shorter):
    """Photos in the place of class priors are as many rows; a recipe without a refinement gets none."""
    method = METHODS[name](**values)
    assert method.shortened(2) == shorter
    nested = {}
    for key, value in shorter.items():
        place, _, part = key.rpartition(".")
        (nested.setdefault(place, dict(values.get(place, {}))) if place else nested)[part] = value
    short = METHODS[name](**{**values, **nested})
    assert short.work(two_dogs).kind == method.work(two_dogs).kind
    single = method.subject_method(two_dogs)
    assert single is None or short.subject_method(two_dogs).work(two_dogs).kind == single.work(two_dogs).kind
    assert short.steps_in_all(2) in (2, 4, 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("modular", {"refine": REFINE}),
        ("modular", {"merge": {"name": "fusion"}, "refine": REFINE}),
        ("modular", {"single": {"objective": "dco"}, "refine": REFINE}),
        ("modular", {}),
        ("modular", {"single": {"name": "ed_lora"}, "merge": {"name": "fusion"}, "refine": REFINE}),
        ("modular", {"single": {"name": "custom_diffusion"}, "merge": {"name": "constrained"}, "refine": REFINE}),
        ("modular", {"single": {"name": "custom_diffusion"}, "merge": {"name": "fusion", "neutral_weight": 1.0}}),
        ("modular", {"single": {"name": "textual_inversion"}}),
        ("concept_conductor", {"rank": 2, **FIT}),
        ("cones2", {"steps": 2, "tuning": "direct"}),
        ("cut_mix", {"rank": 2, **FIT, "objective": "dco"}),
    ],
)
def test_the_unet_counts_the_rows_that_a_method_answers(miniature, two_dogs, tmp_path, name, values):
    """Counted by a hook; the one picture of each subject is in the first batch of eight. Started again, nothing is drawn."""
    method = quick(name, **values) if name == "modular" else METHODS[name](**values)
    passed = Counter()
    handle = miniature.unet.register_forward_hook(lambda *call: passed.update({call[-1].sample.requires_grad: len(call[-1].sample)}))
    method.train(miniature, two_dogs, tmp_path / "a", 1)
    handle.remove()
    assert in_all(method, two_dogs) == (passed.total(), passed[True])


@pytest.mark.slow
def test_pictures_that_are_there_are_not_drawn_again(miniature, two_dogs, tmp_path):
    """Two subjects, a batch of eight each in eight guided steps; asked again, none."""
    method = quick(refine=REFINE, singles=str(tmp_path / "singles"))
    singles = method.fit_singles(miniature, two_dogs, tmp_path / "a")
    rows = []
    handle = miniature.unet.register_forward_hook(lambda *call: rows.append(len(call[-1].sample)))
    for expected in (2 * 8 * 8 * 2, 0):
        self_generated(miniature, singles, method.view(two_dogs), method.refine, 0, "miniature", "miniature")
        assert sum(rows) == expected
        rows.clear()
    handle.remove()
