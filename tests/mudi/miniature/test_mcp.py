"""The rendered counterparts of the Multiple Concept Personalization report's subjects: sides asked for, and a style as a subject.

The report draws "A cat on the right and a dog on the left", whose sides are layout boxes here, and "A cat wearing wearable
glasses in a watercolor style", whose style is a concept beside objects. A style of this world is a picture in brown and cream.
"""

from pathlib import Path

import numpy as np
import pytest
from shipped_pairs import HELD_OUT_PAIRS

from mudi.dataset import load_combination
from mudi.layout import boxes_of
from mudi.miniature.references import write_combination
from mudi.miniature.render import pair_scene
from mudi.miniature.world import BACKGROUNDS, all_identities, parse_identity
from mudi.user_files.photos import read_image

SHIPPED = Path(__file__).parents[3] / "jobs" / "configs" / "miniature" / "mcp"
SEPIA = np.array([[70, 42, 20], [255, 236, 200]], np.float64)  # what black and white become


def sepia(image: np.ndarray) -> np.ndarray:
    """An image uint8 (H, W, 3) in shades between brown and cream, by its brightness (ITU-R BT.601 weights)."""
    brightness = (image @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    return (SEPIA[0] + brightness * (SEPIA[1] - SEPIA[0])).round().astype(np.uint8)


@pytest.mark.parametrize(("name", "pair", "objects"), [("cat_right_dog_left", "cat_and_dog", 2), ("cat_in_sepia", "two_cats_a", 1)])
def test_objects_are_those_of_a_held_out_pair(tmp_path, name, pair, objects):
    """The same words and pixels, whoever renders them: of the first subjects of the pair."""
    *words, seed = HELD_OUT_PAIRS[pair]
    write_combination(tmp_path / name, [parse_identity(of) for of in words[:objects]], seed)
    lines = [(folder / name / "metadata.jsonl").read_text().splitlines() for folder in (tmp_path, SHIPPED)]
    assert lines[0][1:] == lines[1][1 : 1 + 5 * objects]
    shipped = load_combination(SHIPPED / name)
    for reference in (r for subject in shipped.objects for r in subject.references):
        assert np.array_equal(read_image(tmp_path / name / reference.image_path.name), read_image(reference.image_path))


def test_a_style_is_scenes_of_two_strangers_in_sepia():
    """Five of them, as the photos of a subject without a query, captions that name both classes and the style."""
    rng, everyone = np.random.default_rng(HELD_OUT_PAIRS["two_cats_a"][2]), all_identities()
    style = load_combination(SHIPPED / "cat_in_sepia").subjects[1]
    assert (style.phrase, len(style.references)) == ("hta painting", 5)
    for reference in style.references:
        left, right = (everyone[i] for i in rng.choice(len(everyone), 2, replace=False))
        assert reference.caption == f"A {left.class_noun} and a {right.class_noun}, a hta painting."
        scene = pair_scene(rng, left, right, str(rng.choice(BACKGROUNDS)))
        assert np.array_equal(sepia(scene.image), read_image(reference.image_path))


def test_the_cat_has_the_right_box_and_the_style_none():
    """Subject a is the cat; its box lies wholly to the right of the dog's. The style has no query and no place."""
    ((cat, dog),) = boxes_of(load_combination(SHIPPED / "cat_right_dog_left"))
    assert cat[0] > dog[2]
    styled = load_combination(SHIPPED / "cat_in_sepia")
    assert [s.key for s in styled.objects] == ["a"]
    assert len(boxes_of(styled)[0]) == 1
