"""Concept injection on the miniature: which path draws what, and what stays the base's to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from double import ROUNDING

from mudi import adapter_folder, adapters
from mudi.adapter_folder import Origin
from mudi.attention.concept_prompts import base_text, own_text
from mudi.attention.injection import ConceptPath, grid_of, injected
from mudi.backbone import Concept
from mudi.diffusion import predict
from mudi.methods.concept_conductor import gather
from mudi.options import LoraSettings, Sampling
from mudi.records import Prompt
from mudi.sampling import draw
from mudi.text.conditioning import encode_prompts

EVERYWHERE = ("down_blocks.", "mid_block.", "up_blocks.")
SIDE = (12, 12)
LEFT, RIGHT = (0.0, 0.0, 512.0, 1024.0), (512.0, 0.0, 1024.0, 1024.0)
LORA = LoraSettings(rank=2, alpha=2)
FAST = Sampling(steps=2, guidance_scale=3.0, gamma=0.0, layout="given", negative_prompt=None)


def with_loras(backbone, *scales):
    """Adapters concept_0, concept_1...: random LoRAs whose B matrices are normal times the scale; none is active."""
    for number, scale in enumerate(scales):
        name = f"concept_{number}"
        adapters.attach(backbone.unet, LORA, seed=number, name=name)
        source = torch.Generator().manual_seed(number)
        for key, matrix in backbone.unet.named_parameters():
            if f"lora_B.{name}." in key:
                matrix.data = scale * torch.randn(matrix.shape, generator=source)
    adapters.activate(backbone.unet, None)


def told_to(backbone):
    """Noisy latents, and three texts."""
    noisy = torch.randn(2, 8, *SIDE, generator=torch.Generator().manual_seed(0)).to(backbone.dtype)
    texts = ("a photo of a red dog", "a blue cat", "a dog and a cat")
    return noisy, [encode_prompts(backbone, [text]).rows([0, 0]) for text in texts]


@pytest.fixture
def told(miniature):
    return told_to(miniature)


def outputs_of(backbone, run):
    """What every attention layer of the up blocks gave, before injection, in the calls of the UNet that `run` makes."""
    seen = []
    layers = [m for name, m in backbone.unet.named_modules() if name.startswith("up_blocks.") and name.endswith((".attn1", ".attn2"))]
    hooks = [layer.register_forward_hook(lambda _, args, output: seen.append(output.clone()), prepend=True) for layer in layers]
    result = run()
    for hook in hooks:
        hook.remove()
    return seen, len(layers), result


@torch.no_grad()
def answer_of(backbone, noisy, paths, condition, blocks=("up_blocks.",)):
    with injected(backbone, paths, SIDE, blocks) as answer:
        return answer(backbone, noisy, torch.tensor(400), condition)


@torch.no_grad()
def alone(backbone, noisy, condition, adapter=None):
    adapters.activate(backbone.unet, adapter)
    answer = predict(backbone, noisy, torch.tensor(400), condition)
    adapters.activate(backbone.unet, None)
    return answer


def test_a_concept_that_has_the_whole_canvas_and_every_layer_is_its_own_path(miniature, told):
    """Attention is all that an adapter changes, so with every layer's output replaced nothing of the base is left."""
    noisy, (_, own, _) = told
    with_loras(miniature, 0.3)
    path = ConceptPath(adapter="concept_0", condition=own, boxes=[None, (0.0, 0.0, 1024.0, 1024.0)])
    ours = answer_of(miniature, noisy, [path], own, EVERYWHERE)
    assert torch.equal(ours, alone(miniature, noisy, own, "concept_0"))
    assert not torch.equal(ours, alone(miniature, noisy, own))


def test_injection_leaves_the_down_blocks_to_the_base(miniature, told):
    """Over the whole canvas the picture is neither the concept's nor the base's: its structure comes from the base's down blocks."""
    noisy, (base, own, _) = told
    with_loras(miniature, 0.3)
    ours = answer_of(miniature, noisy, [ConceptPath(adapter="concept_0", condition=own, boxes=[None, None])], base)
    for other in (alone(miniature, noisy, base), alone(miniature, noisy, own, "concept_0")):
        assert (ours - other).abs().max() > 1e-3


def test_outside_all_boxes_the_first_layer_puts_out_what_the_base_does(miniature, told):
    """At 6 x 6 the left half is three columns. The first injected layer sees the base's own input: its output in the base's pass
    is kept off the box, and in it is that of the concept's pass, which the next layers then read."""
    noisy, (base, own, _) = told
    with_loras(miniature, 0.3)
    first = next(m for name, m in miniature.unet.named_modules() if name.startswith("up_blocks.") and name.endswith(".attn1"))
    plain, _, _ = outputs_of(miniature, lambda: alone(miniature, noisy, base))
    concept, _, _ = outputs_of(miniature, lambda: alone(miniature, noisy, own, "concept_0"))
    seen = []
    with injected(miniature, [ConceptPath(adapter="concept_0", condition=own, boxes=[LEFT, LEFT])], SIDE) as answer:
        hook = first.register_forward_hook(lambda _, args, output: seen.append(output))
        with torch.no_grad():
            answer(miniature, noisy, torch.tensor(400), base)
        hook.remove()
    blended = seen[-1].view(2, 6, 6, -1)
    assert torch.equal(blended[:, :, 3:], plain[0].view(2, 6, 6, -1)[:, :, 3:])
    assert torch.equal(blended[:, :, :3], concept[0].view(2, 6, 6, -1)[:, :, :3])
    assert not torch.equal(concept[0], plain[0])


def test_where_boxes_overlap_a_later_path_wins_and_an_early_one_that_is_covered_does_nothing(miniature, told):
    noisy, (base, own, other) = told
    with_loras(miniature, 0.3, 0.3)
    paths = [
        ConceptPath(adapter="concept_0", condition=own, boxes=[LEFT, LEFT]),
        ConceptPath(adapter="concept_1", condition=other, boxes=[None, None]),
    ]
    assert torch.equal(answer_of(miniature, noisy, paths, base), answer_of(miniature, noisy, paths[1:], base))
    assert not torch.equal(answer_of(miniature, noisy, paths[::-1], base), answer_of(miniature, noisy, paths[1:], base))


def test_the_order_of_paths_whose_boxes_do_not_touch_plays_no_part(miniature, told):
    noisy, (base, own, other) = told
    with_loras(miniature, 0.3, 0.3)
    paths = [
        ConceptPath(adapter="concept_0", condition=own, boxes=[LEFT, RIGHT]),
        ConceptPath(adapter="concept_1", condition=other, boxes=[RIGHT, LEFT]),
    ]
    assert torch.equal(answer_of(miniature, noisy, paths, base), answer_of(miniature, noisy, paths[::-1], base))


def test_a_candidate_does_not_depend_on_its_neighbours_boxes(double):
    """Row 1 of two with other boxes each is what it is alone, in float64, but for the rounding of answers to float32."""
    noisy, (base, own, _) = told_to(double)
    with_loras(double, 0.3)
    double.unet.double()
    together = answer_of(double, noisy, [ConceptPath(adapter="concept_0", condition=own, boxes=[LEFT, RIGHT])], base)
    single = ConceptPath(adapter="concept_0", condition=own.rows([1]), boxes=[RIGHT])
    alone = answer_of(double, noisy[1:], [single], base.rows([1]))
    torch.testing.assert_close(together[1:], alone, rtol=2 * ROUNDING, atol=2 * ROUNDING)


def test_an_error_in_a_pass_leaves_the_unet_bare(miniature, told):
    noisy, (base, own, _) = told
    with_loras(miniature, 0.3)
    before = alone(miniature, noisy, base)
    adapters.activate(miniature.unet, None)
    with pytest.raises(RuntimeError, match=r"shape|size"):
        answer_of(miniature, noisy, [ConceptPath(adapter="concept_0", condition=own.rows([0]), boxes=[LEFT, LEFT])], base.rows([0]))
    with torch.no_grad():
        assert torch.equal(predict(miniature, noisy, torch.tensor(400), base), before)


def test_layers_of_a_size_that_no_factor_gives_are_refused():
    """13 x 13 latents are 7 x 7 after a stride of 2, which covers more than the latents: 49 cells at factor 2, not 6 x 6."""
    assert (grid_of(144, (12, 12)), grid_of(36, (12, 12)), grid_of(8, (8, 4))) == ((12, 12), (6, 6), (4, 2))
    with pytest.raises(ValueError, match="49 cells at factor 2"):
        grid_of(49, (13, 13))


DOG = Concept(key="a", adapter="concept_0", phrase="olis dog", class_noun="dog")
HOT_DOG = Concept(key="b", adapter="concept_1", phrase="hta hot dog", class_noun="hot dog")
STYLE = Concept(key="c", adapter="concept_2", phrase="ult painting", class_noun="painting", style=True)


def test_each_path_is_told_of_its_own_concept_alone():
    """Every box's subject is the path's own, styles and the base's subjects are class nouns, and words put in are not replaced again."""
    text, concepts = "A Olis dog and a hta hot dog as a ult painting, no dog.", [DOG, HOT_DOG, STYLE]
    assert base_text(text, concepts) == "A dog and a hot dog as a painting, no dog."
    assert own_text(text, DOG, concepts) == "A olis dog and a olis dog as a painting, no dog."
    assert own_text(text, HOT_DOG, concepts) == "A hta hot dog and a hta hot dog as a painting, no dog."
    assert own_text(text, STYLE, concepts) == "A dog and a hot dog as a ult painting, no dog."
    assert base_text(text, []) == text


def with_boxes(pair):
    a, b = (subject.key for subject in pair.subjects)
    return replace(pair, layouts=({a: LEFT, b: RIGHT}, {a: RIGHT, b: LEFT}))


def gathered(backbone, pair, folder, *scales):
    """A stored adapter of one LoRA a subject."""
    with_loras(backbone, *scales)
    singles = []
    for number, subject in enumerate(pair.subjects):
        name = f"concept_{number}"
        singles.append(adapters.save(backbone, folder / name, LORA, Origin(method="dreambooth", combination=subject.key), name=name))
    adapters.detach(backbone)
    return gather(folder / "both", singles, pair.subjects, Origin(method="concept_conductor", combination=pair.key))


def test_concepts_that_learnt_nothing_draw_the_base_models_picture_to_the_bit(miniature, two_dogs, tmp_path):
    """Zero matrices, and a prompt that names nobody, so that all paths are told the same."""
    pair, prompt = with_boxes(two_dogs), Prompt(prompt_id="p", text="a photo of a red dog on the grass")
    plain = draw(miniature, pair, prompt, [1, 2], FAST)
    adapters.put_on(miniature, gathered(miniature, pair, tmp_path, 0.0, 0.0))
    assert len(miniature.concepts) == 2
    assert all(np.array_equal(a, b) for a, b in zip(plain, draw(miniature, pair, prompt, [1, 2], FAST), strict=True))


def test_candidates_of_unlike_layouts_do_not_depend_on_their_neighbours(miniature, two_dogs, tmp_path):
    """Through the loop with guidance; the seeds choose both layouts. A picture without its concepts is another one."""
    pair = with_boxes(two_dogs)
    plain = draw(miniature, pair, pair.prompts[0], [2], FAST)
    adapters.put_on(miniature, gathered(miniature, pair, tmp_path, 0.3, 0.3))
    together, single = (draw(miniature, pair, pair.prompts[0], seeds, FAST) for seeds in ([1, 2, 3], [2]))
    assert np.abs(together[1].astype(int) - single[0]).max() <= 3
    assert np.abs(plain[0].astype(int) - single[0]).max() > 3


def test_putting_on_and_taking_off_leave_the_base_model_to_the_bit(miniature, two_dogs, told, tmp_path):
    """With concepts on, what is not a path of theirs is the base model; without them nothing of them is left."""
    noisy, (base, _, _) = told
    with torch.no_grad():
        before = predict(miniature, noisy, torch.tensor(400), base)
        names = set(miniature.unet.state_dict())
        pair = with_boxes(two_dogs)
        adapters.put_on(miniature, gathered(miniature, pair, tmp_path, 0.3, 0.3))
        assert torch.equal(predict(miniature, noisy, torch.tensor(400), base), before)
        draw(miniature, pair, pair.prompts[0], [1], FAST)
        assert torch.equal(predict(miniature, noisy, torch.tensor(400), base), before)
        adapters.detach(miniature)
        assert torch.equal(predict(miniature, noisy, torch.tensor(400), base), before)
    assert (set(miniature.unet.state_dict()), miniature.concepts) == (names, [])


def test_an_altered_file_of_a_concept_is_found(miniature, two_dogs, tmp_path):
    """Every file counts in the adapter's sha256, so another subject's LoRA in a concept's place is refused."""
    stored = gathered(miniature, two_dogs, tmp_path, 0.3, 0.2)
    assert adapter_folder.find(stored.path) == stored
    first, second = sorted(stored.path.glob("concept_*.safetensors"))
    first.write_bytes(second.read_bytes())
    assert adapter_folder.find(stored.path) is None
    with pytest.raises(ValueError, match="do not match sha256"):
        adapters.put_on(miniature, stored)


def test_a_fit_without_a_lora_cannot_have_a_path(miniature, two_dogs, tmp_path):
    bare = adapters.save(miniature, tmp_path / "a", None, Origin(method="cones2", combination="a"))
    with pytest.raises(ValueError, match="no LoRA"):
        gather(tmp_path / "both", [bare], two_dogs.subjects[:1], Origin(method="concept_conductor", combination="c"))


def test_concepts_without_a_layout_are_refused(miniature, two_dogs, tmp_path):
    pair = with_boxes(two_dogs)
    adapters.put_on(miniature, gathered(miniature, pair, tmp_path, 0.3, 0.3))
    with pytest.raises(ValueError, match=r"use sampling\.layout = 'given'"):
        draw(miniature, pair, pair.prompts[0], [1], replace(FAST, layout="random"))
