"""Compositions by given boxes: numbers derived by hand, laws of scale and depth, and what a folder's header may say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from places import DOGS

from mudi.augment import Segment, seg_mix, tight_box
from mudi.dataset import load_combination
from mudi.diffusion import encode, generators, standard_noise
from mudi.initialization import mean_shifted_noise
from mudi.layout import COLOURS, boxes_of, place, preview
from mudi.options import Sampling
from mudi.sampling import draw, shifted_noise, subject_segments
from pipeline import assignments
from pipeline.ready import ready
from pipeline.settings.benchmark_config import load_benchmark
from pipeline.settings.config import RunConfig, config_hash, load_run
from tests.mudi.test_augment import block

RED, GREEN = (200, 0, 0), (0, 200, 0)
LEFT, RIGHT = (64.0, 128.0, 480.0, 960.0), (544.0, 128.0, 960.0, 960.0)
LAYOUT = {"a": LEFT, "b": RIGHT}


@pytest.mark.parametrize(
    ("height", "width", "box", "expected"),
    [
        # 200 x 100 in the box that Figure 21 gives a toy: twice as large, 400 wide, standing on the lower edge.
        (100, 200, (300, 300, 700, 700), (300, 500, 700, 700)),
        # 100 x 200 there: twice as large, 400 high, 100 free on either side.
        (200, 100, (300, 300, 700, 700), (400, 300, 600, 700)),
        # Shrunk by half: 50 wide in the middle of 1000.
        (200, 100, (0, 0, 1000, 100), (475, 0, 525, 100)),
        # Proportions of the box: filled.
        (200, 100, (100, 200, 500, 1000), (100, 200, 500, 1000)),
    ],
)
def test_a_subject_is_as_large_as_fits_centred_and_stands_on_the_lower_edge(height, width, box, expected):
    composition = place([block(height, width)], [box])
    assert composition.boxes == (expected,)
    assert composition.mask.sum() == (expected[2] - expected[0]) * (expected[3] - expected[1])
    assert (composition.image[composition.mask] == RED).all()
    assert (composition.image[~composition.mask] == 255).all()


def test_subjects_in_their_own_tight_boxes_are_reproduced():
    """Discs cut out of one noise picture and put back where they were: every pixel of theirs as it was."""
    picture = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3), dtype=np.uint8)
    y, x = np.mgrid[:1024, :1024]
    masks = [(y - cy) ** 2 + (x - cx) ** 2 < r**2 for cy, cx, r in ((300, 251, 97), (700, 640, 211), (130, 900, 33))]
    composition = place([Segment(picture, mask) for mask in masks], [tight_box(mask) for mask in masks])
    assert np.array_equal(np.stack(composition.subject_masks), np.stack(masks))
    assert np.array_equal(composition.mask, np.any(masks, axis=0))
    assert np.array_equal(composition.image, np.where(composition.mask[..., None], picture, np.uint8(255)))


@pytest.mark.parametrize("size", [512, 256, 64])
def test_a_smaller_canvas_shows_the_same_composition(size):
    """Edges that are multiples of 16 of 1024 stay whole on all these canvases: the masks are every n-th pixel of the large one."""
    segments, boxes = [block(200, 100), block(100, 200, GREEN)], [(128, 64, 384, 576), (320, 256, 832, 512)]
    large, small = place(segments, boxes), place(segments, boxes, size)
    every = 1024 // size
    for ours, theirs in zip(small.subject_masks, large.subject_masks, strict=True):
        assert np.array_equal(ours, theirs[::every, ::every])
    assert np.array_equal(small.image, large.image[::every, ::every])


def test_a_later_subject_is_in_front():
    """Two 400 x 400 squares that share 100 columns: the second keeps all its 160,000 pixels, the first loses 40,000."""
    boxes = [(100, 100, 500, 500), (400, 100, 800, 500)]
    composition = place([block(50, 50, RED), block(50, 50, GREEN)], boxes)
    assert [int(mask.sum()) for mask in composition.subject_masks] == [120_000, 160_000]
    assert composition.boxes == ((100, 100, 400, 500), (400, 100, 800, 500))
    assert tuple(composition.image[300, 450]) == GREEN
    swapped = place([block(50, 50, GREEN), block(50, 50, RED)], boxes[::-1])
    assert tuple(swapped.image[300, 450]) == RED


@pytest.mark.parametrize(
    ("boxes", "size", "message"),
    [
        ([(0, 0, 500, 500), (0, 0, 500, 500)], 1024, "subject 1 is hidden"),
        ([(0, 0, 5, 500), (500, 0, 900, 500)], 64, r"box \[0, 0, 5, 500\]: is empty"),
        ([(0, 0, 500, 500), (600, 0, 1100, 500)], 1024, "off the canvas"),
        ([(0, 0, 500, 500)], 1024, "2 subjects and 1 boxes"),
    ],
)
def test_a_layout_that_cannot_be_drawn_is_refused(boxes, size, message):
    with pytest.raises(ValueError, match=message):
        place([block(50, 50), block(50, 50)], boxes, size)


def with_header(tmp_path, **changes):
    """The two dogs with another header."""
    folder = tmp_path / "two_dogs"
    shutil.copytree(DOGS, folder)
    header, *lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join([json.dumps(json.loads(header) | changes), *lines]))
    return folder


def test_a_header_gives_layouts_in_any_order_of_its_subjects(tmp_path):
    folder = with_header(tmp_path, layouts=[{"b": [500, 0, 1024, 1024], "a": [0, 10.5, 400, 1000]}, LAYOUT])
    combination = load_combination(folder)
    assert combination.layouts == ({"a": (0.0, 10.5, 400.0, 1000.0), "b": (500.0, 0.0, 1024.0, 1024.0)}, LAYOUT)
    assert boxes_of(combination) == [[(0.0, 10.5, 400.0, 1000.0), (500.0, 0.0, 1024.0, 1024.0)], [LEFT, RIGHT]]
    assert load_combination(with_header(tmp_path / "bare", layouts=[])).layouts == ()


GOOD_BOX = [0, 0, 10, 10]


@pytest.mark.parametrize(
    ("layouts", "parts"),
    [
        (LAYOUT, ['"layouts" is', "give a list"]),
        ([GOOD_BOX], ["give a list of objects"]),
        ([LAYOUT, {"a": GOOD_BOX}], ["layout 2", 'subject "b" has no box']),
        ([{**LAYOUT, "c": GOOD_BOX}], ["layout 1", 'unknown subject "c"', "a, b"]),
        ([{"a": GOOD_BOX, "b": [0, 0, 10]}], ['"b" is [0, 0, 10]', "[x0, y0, x1, y1]"]),
        ([{"a": GOOD_BOX, "b": [0, 0, 10, True]}], ['"b" is [0, 0, 10, true]']),
        ([{"a": GOOD_BOX, "b": [0, 0, 10, "20"]}], ['"b" is [0, 0, 10, "20"]']),
        ([{"a": GOOD_BOX, "b": [0, 0, 10, float("nan")]}], ['"b" is [0, 0, 10, NaN]']),
        ([{"a": GOOD_BOX, "b": [20, 0, 20, 10]}], ["x0 < x1"]),
        ([{"a": GOOD_BOX, "b": [0, 30, 20, 10]}], ["y0 < y1"]),
        ([{"a": GOOD_BOX, "b": [0, 0, 1025, 10]}], ["0 to 1024"]),
        ([{"a": GOOD_BOX, "b": [-1, 0, 10, 10]}], ["0 to 1024"]),
    ],
)
def test_a_wrong_layout_is_one_line_that_names_file_layout_and_subject(tmp_path, layouts, parts):
    with pytest.raises(ValueError, match=r"\A[^\n]+metadata.jsonl:1: [^\n]+\Z") as caught:
        load_combination(with_header(tmp_path, layouts=layouts))
    for part in parts:
        assert part in str(caught.value)


@pytest.fixture
def placed(two_dogs):
    return replace(two_dogs, layouts=(LAYOUT, {"a": RIGHT, "b": LEFT}))


def test_a_random_layout_is_drawn_as_before_there_were_given_ones(miniature, placed):
    """Written out once more: noise from the seed's torch generator; from its numpy generator a photo of each subject, then Seg-Mix."""
    segments, seeds = subject_segments(placed), [3, 2**40]
    noise, latents, masks = standard_noise(miniature, generators(seeds)), [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        chosen = [cut_outs[rng.integers(len(cut_outs))] for cut_outs in segments]
        composition = seg_mix(chosen, rng, size=miniature.resolution)
        latents.append(encode(miniature, [composition.image]))
        masks.append(torch.from_numpy(composition.mask)[None, None].float())
    small = torch.nn.functional.interpolate(torch.cat(masks), noise.shape[-2:], mode="area")
    expected = mean_shifted_noise(torch.cat(latents), small, noise, 1.0)
    assert torch.equal(shifted_noise(miniature, segments, seeds, Sampling(), boxes_of(placed)), expected)


def test_a_given_layout_shifts_the_same_noise_inside_its_boxes_alone(miniature, placed):
    """Off the boxes the noise is the plain one of the seed, exactly; in each box it is not. Two layouts: seeds use both."""
    segments, seeds = subject_segments(placed), list(range(12))
    plain = standard_noise(miniature, generators(seeds))
    only = shifted_noise(miniature, segments, seeds, Sampling(layout="given"), boxes_of(placed)[:1])
    moved, side = (only != plain).any(1), plain.shape[-1]
    inside = torch.zeros(side, side, dtype=torch.bool)
    for x0, y0, x1, y1 in (LEFT, RIGHT):
        rows = slice(int(y0 * side // 1024), -int(-y1 * side // 1024))
        columns = slice(int(x0 * side // 1024), -int(-x1 * side // 1024))
        assert moved[:, rows, columns].flatten(1).any(1).all()
        inside[rows, columns] = True
    assert not moved[:, ~inside].any()
    both = shifted_noise(miniature, segments, seeds, Sampling(layout="given"), boxes_of(placed))
    mirrored = [not torch.equal(a, b) for a, b in zip(only, both, strict=True)]
    assert 0 < sum(mirrored) < len(seeds)


def test_a_picture_starts_from_the_layout_that_was_given(miniature, placed):
    """With gamma 1 the two dogs stand in the boxes: swapping the boxes changes the picture, dropping the layouts is refused."""
    options = Sampling(steps=2, guidance_scale=2.0, layout="given")
    prompt = placed.prompts[0]
    first, second = (draw(miniature, replace(placed, layouts=(layout,)), prompt, [1], options)[0] for layout in placed.layouts)
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match=r"\Atwo_dogs: has no layouts, and sampling.layout = given"):
        draw(miniature, replace(placed, layouts=()), prompt, [1], options)
    with pytest.raises(ValueError, match="layout = 'boxes'"):
        Sampling(layout="boxes")


def test_a_run_file_asks_for_layouts_before_anything_is_made(tmp_path):
    """The refusal names the combination; a random layout, said or not, leaves the hash of a run as it was."""
    file, benchmark = Path("tests/data/miniature.yaml"), Path("tests/data/benchmark_miniature.yaml")
    unsaid, said, given = (load_run(file, words) for words in ([], ["sampling.layout=random"], ["sampling.layout=given"]))
    assert config_hash(unsaid) == config_hash(said) != config_hash(given)
    assert "layout" not in unsaid.model_dump(mode="json")["sampling"]
    assert RunConfig.model_validate_json(given.model_dump_json()) == given
    assert assignments.sampling_of(given).layout == "given"
    bare = [f"combinations=[{with_header(tmp_path / 'bare', layouts=[])}]", "sampling.layout=given"]
    with pytest.raises(ValueError, match="two_dogs: has no layouts"):
        ready(load_run(file, bare))
    folder = with_header(tmp_path, layouts=[LAYOUT])
    (combination,) = ready(load_run(file, ["sampling.layout=given", f"combinations=[{folder}]"])).combinations
    assert combination.layouts == (LAYOUT,)
    config = load_benchmark(benchmark, bare)
    with pytest.raises(ValueError, match=r"has no layouts, and methods\."):
        ready(config)


def test_a_preview_shows_every_layout_with_its_boxes(placed):
    """Two panels of 256 pixels; LEFT is (16, 32, 120, 240) there, outlined in each subject's colour; off outline and
    name, near the middle of the lower edge, the picture is the composition's own."""
    shown = preview(placed, 256)
    assert shown.shape == (256, 512, 3)
    for number, boxes in enumerate(boxes_of(placed)):
        panel = shown[:, 256 * number : 256 * (number + 1)]
        cut_outs = [of_subject[number] for of_subject in subject_segments(placed)]
        expected = place(cut_outs, boxes, 256).image
        for index, box in enumerate(boxes):
            x0, y0, x1, y1 = (round(edge / 4) for edge in box)
            for x, y in ((x0, y0), (x1 - 1, y0), (x0, y1 - 1), (x1 - 1, y1 - 1)):
                assert tuple(panel[y, x]) == COLOURS[index]
            lower = slice((y0 + y1) // 2, y1 - 1), slice(x0 + 1, x1 - 1)
            assert np.array_equal(panel[lower], expected[lower])
            assert (panel[y0 + 2 : y0 + 20, x0 + 2 : x1 - 2] == COLOURS[index]).all(-1).sum() > 100
