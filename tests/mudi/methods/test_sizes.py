"""How many numbers a method's adapter holds and a fit trains, answered from settings alone, against what is stored."""

from dataclasses import replace

import pytest
from quick_recipes import FIT, REFINE, quick

from mudi.adapter_folder import MANIFEST, read_manifest
from mudi.adapter_size import gram_bytes, known_architecture, payload_bytes
from mudi.methods import METHODS

ONE = {**FIT, "steps": 1}
SVD = {"name": "svd", "rank": 3}
ROWS, VALUES, ED = ({"name": name} for name in ("textual_inversion", "custom_diffusion", "ed_lora"))
# A class row is not known before a tokenizer is.
ED |= {"class_row": False}
# A constrained merge is left out: its rank comes from its words.
SMALLEST = {
    "mudi": METHODS["mudi"](**ONE, rank=2, sampling=quick().sampling),
    "cut_mix": METHODS["cut_mix"](**ONE, rank=2),
    "textual_inversion": METHODS["textual_inversion"](**ONE),
    "custom_diffusion": METHODS["custom_diffusion"](**ONE, rank=2),
    "concept_conductor": METHODS["concept_conductor"](**ONE, rank=2),
    **{f"cones2 {tuning}": METHODS["cones2"](steps=1, rank=2, tuning=tuning) for tuning in ("text_lora", "text_full", "direct")},
    "sum": quick(single={"steps": 1}),
    "mix of show": quick("mix_of_show", single={"steps": 1, "class_row": False}),
    "svd": quick(merge=SVD),
    "union": quick(single=ROWS),
    "fusion of values": quick(single=VALUES, merge={"name": "fusion", "neutral_weight": 0.5}),
    "refined": quick(single=ED, merge=SVD, refine=REFINE),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_adapters_hold_as_many_numbers_as_answered(miniature, two_dogs, tmp_path, name):
    """Four bytes a number, of the adapter and of its subjects' own fits; the Grams beside them are as large as answered too, but for
    headers. Trained at once are the numbers of the manifest: of a subject's own fit, or of the refinement."""
    method = replace(SMALLEST[name], singles=str(tmp_path / "singles"), descriptive_class=False)
    architecture = known_architecture("miniature")
    alone = None if method.subject_method(two_dogs) is None else len(two_dogs.subjects)
    trained, size = method.adapter_numbers(architecture, two_dogs, alone)
    adapter = method.train(miniature, two_dogs, tmp_path / "a", 1)
    singles = [path.parent for path in (tmp_path / "singles").glob(f"*/{MANIFEST}")]
    assert len(singles) == (alone or 0)
    assert size == payload_bytes(adapter.path) + sum(map(payload_bytes, singles))
    fitted = [read_manifest(folder)["parameters"] for folder in singles] if alone and name != "refined" else []
    assert trained == max(fitted, default=read_manifest(adapter.path)["parameters"])
    grams = [path.stat().st_size for path in tmp_path.rglob("*.grams/*.safetensors")]
    assert len(grams) == len(singles) * sum(thing.gram for thing in method.work(two_dogs).once)
    assert 0 <= sum(grams) - sum(gram_bytes(architecture.unet, method.lora_targets) for _ in grams) <= 16_384 * len(grams)
