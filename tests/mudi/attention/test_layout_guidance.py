"""Layout guidance: the reference's numbers, the formula written out, and where an edit may not reach."""

import math
from collections import Counter
from copy import deepcopy

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import LMSDiscreteScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig

from mudi import models
from mudi.attention.box_attention import token_weights
from mudi.attention.layout_guidance import edit_sigmas, guided_attention
from mudi.attention.levels import chosen_levels, cross_levels
from mudi.checkpoints.random_weights import empty_unet
from mudi.diffusion import alphas_cumprod, euler_schedule
from mudi.miniature import architectures
from mudi.options import LayoutGuidance

# Float32 answers of up to 4 by some fifteen sums in a row, of a hundred products each, that may be added in another order: roundings
# of 6e-8 add like their root, sqrt(1500) x 6e-8 x 4. The edit limits its bias by the number format, so there is no float64 here.
SUMS = {"atol": 1e-5, "rtol": 0}
LEFT, RIGHT = (0.0, 0.0, 512.0, 1024.0), (512.0, 0.0, 1024.0, 1024.0)
ONE = ([LEFT], [(2, 3)])
TWO = ([LEFT, RIGHT], [(2, 3), (5,)])
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


@pytest.fixture(scope="module")
def backbone():
    return models.load("miniature")


@pytest.fixture
def unet(backbone):
    """The trained miniature's own, a copy because tests put adapters on it and change its number format."""
    return deepcopy(backbone.unet)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention(unet):
    """The middle cross-attention of a tiny UNet: factor 2, 36 pixels of 12 x 12 latents."""
    return unet.mid_block.attentions[0].transformer_blocks[0].attn2


def attend(unet, rows, sigma=5.0, options=None, seed=0, tokens=8, states=None, mask=None, dtype=torch.float32, count=None):
    """That layer's output (B, 36, 128) within guidance, with inputs that are the same for all rows of a batch."""
    layer, count = attention(unet), count or len(rows)
    pixels = normal(1, 36, 128, seed=seed).expand(count, -1, -1).to(dtype)
    if states is None:
        states = normal(1, tokens, layer.to_k.in_features, seed=seed + 1).expand(count, -1, -1)
    with torch.no_grad(), guided_attention(unet, options or LayoutGuidance(), rows, (12, 12)) as at:
        at(sigma)
        return layer(pixels, encoder_hidden_states=states.to(dtype), attention_mask=mask)


def predict(unet, rows, sigma, options=None, states=None, mask=None, hw=(12, 12)):
    """The whole UNet's output, with different latents and texts a row."""
    count = len(rows)
    states = normal(count, 8, unet.config.cross_attention_dim, seed=3) if states is None else states
    added = {"text_embeds": normal(count, architectures.TEXT_WIDTHS[1], seed=4), "time_ids": torch.full((count, 6), 48.0)}
    with torch.no_grad(), guided_attention(unet, options or LayoutGuidance(), rows, hw) as at:
        at(sigma)
        return unet(normal(count, 8, *hw, seed=5), 500, states, added_cond_kwargs=added, encoder_attention_mask=mask).sample


@pytest.mark.parametrize("masked", [False, True])
def test_a_layer_computes_the_formula(unet, masked):
    """Scores, their std over real keys, bias and softmax written out in float64; one layer of the trained UNet, three rows.

    The layer's two sums of 128 products are float32: at worst 256 roundings of 6e-8 of an output of 1.5.
    """
    layer, sigma, real = attention(unet), 1.7, torch.tensor([[True] * 8, [True] * 6 + [False] * 2, [True] * 7 + [False]])
    rows = [TWO, None, ONE]
    mask = (~real[:, None]).float() * -10000 if masked else None
    output = attend(unet, rows, sigma, mask=mask)
    pixels, states = normal(1, 36, 128)[0], normal(1, 8, layer.to_k.in_features, seed=1)[0]
    for i, row in enumerate(rows):
        shown = real[i] if masked else torch.ones(8, dtype=torch.bool)
        inputs = (layer.to_q, pixels), (layer.to_k, states), (layer.to_v, states)
        with torch.no_grad():
            q, k, v = (project(x).double().reshape(len(x), layer.heads, -1) for project, x in inputs)
        scores = torch.einsum("nhd,shd->hns", q, k)[..., shown]
        w = token_weights(*row, 8, (6, 6), 2.5, -1e8).double()[:, shown] if row else 0
        edited = (scores + 0.08 * w * math.log(1 + sigma**2) * scores.std()) / math.sqrt(q.shape[-1])
        heads = torch.einsum("hns,shd->nhd", edited.softmax(-1), v[shown]).flatten(1)
        with torch.no_grad():
            torch.testing.assert_close(output[i], layer.to_out[0](heads.float()), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.03, 14.6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_subjects_words_are_not_seen_outside_its_box_at_any_noise(unet, dtype, sigma):
    """Another word in the subject's place changes no bit of the right half, whatever the number format, and every pixel of
    the left half; without the edit it changes both. All is finite."""
    unet.to(dtype)
    states = normal(1, 8, attention(unet).to_k.in_features, seed=1)
    other = states.clone()
    other[:, [2, 3]] = 3 * normal(2, states.shape[-1], seed=9)
    first, second = (attend(unet, [ONE], sigma, states=x, dtype=dtype)[0].reshape(6, 6, -1) for x in (states, other))
    assert torch.isfinite(first).all()
    changed = (first != second).any(-1)
    assert changed[:, :3].all()
    assert not changed[:, 3:].any()
    plain = [attend(unet, [ONE], None, states=x, dtype=dtype) for x in (states, other)]
    assert (plain[0] != plain[1]).any(-1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predicts_finite_noise(dtype):
    """The whole one-encoder UNet, first and last noise level."""
    torch.manual_seed(0)
    unet = architectures.one_encoder_unet().eval().to(dtype)
    latents, states = normal(2, 8, 12, 12).to(dtype), normal(2, 8, unet.config.cross_attention_dim).to(dtype)
    with torch.no_grad(), guided_attention(unet, LayoutGuidance(), [None, TWO], (12, 12)) as at:
        for sigma in (14.6, 0.03):
            at(sigma)
            assert torch.isfinite(unet(latents, 500, states).sample).all()


def test_without_an_edit_every_bit_is_as_before(unet):
    """Switched off, of weight 0, or of rows without boxes."""
    rows = [None, TWO]
    latents, states = normal(2, 8, 12, 12, seed=5), normal(2, 8, unet.config.cross_attention_dim, seed=3)
    added = {"text_embeds": normal(2, architectures.TEXT_WIDTHS[1], seed=4), "time_ids": torch.full((2, 6), 48.0)}
    with torch.no_grad():
        base = unet(latents, 500, states, added_cond_kwargs=added).sample
    assert torch.equal(predict(unet, rows, None), base)
    assert torch.equal(predict(unet, rows, 5.0, LayoutGuidance(weight=0.0)), base)
    assert torch.equal(predict(unet, [None, None], 5.0), base)
    assert not torch.allclose(predict(unet, rows, 5.0)[1], base[1], atol=1e-3)


def test_a_row_depends_on_its_own_boxes_alone(unet):
    """The unconditional row keeps its bits whatever the others' boxes are and is the unedited one; rows may be permuted or
    drawn alone."""
    mirrored = (TWO[0][::-1], TWO[1])
    base = predict(unet, [None, None], 5.0)
    first, second = predict(unet, [None, TWO], 5.0), predict(unet, [None, mirrored], 5.0)
    assert torch.equal(first[0], second[0])
    torch.testing.assert_close(first[0], base[0], **SUMS)
    assert not torch.allclose(first[1], second[1], atol=1e-3)
    together = attend(unet, [TWO, None, mirrored])
    torch.testing.assert_close(attend(unet, [mirrored, TWO, None]), together[[2, 0, 1]], **SUMS)
    torch.testing.assert_close(attend(unet, [mirrored])[0], together[2], **SUMS)


def test_padding_that_is_masked_changes_nothing(unet):
    """Adaptive padding: eight tokens alone, or eight and five of padding that a mask hides, with random states."""
    rows = [None, TWO]
    states = normal(2, 13, unet.config.cross_attention_dim, seed=3)
    mask = (torch.arange(13) < 8).float().expand(2, -1)
    short = predict(unet, rows, 5.0, states=states[:, :8])
    torch.testing.assert_close(predict(unet, rows, 5.0, states=states, mask=mask), short, **SUMS)
    assert not torch.allclose(predict(unet, rows, 5.0, states=states), short, atol=1e-3)


def test_an_adapter_works_within_guidance(unet):
    """A LoRA on all projections of attention that is on, or merged into the weights: the same guided prediction."""
    base = predict(unet, [None, TWO], 5.0)
    torch.manual_seed(0)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    on = predict(unet, [None, TWO], 5.0)
    unet.fuse_lora()
    torch.testing.assert_close(predict(unet, [None, TWO], 5.0), on, atol=1e-4, rtol=0)
    assert not torch.allclose(on, base, atol=1e-2)


def test_the_unet_has_its_own_processors_again_afterwards(unet):
    """The same objects, also after an exception; a processor that would be replaced by other arithmetic is refused."""
    before = unet.attn_processors
    with guided_attention(unet, LayoutGuidance(), [ONE], (12, 12)):
        assert not any(unet.attn_processors[name] is own for name, own in before.items())
    assert all(unet.attn_processors[name] is own for name, own in before.items())
    with pytest.raises(ValueError, match="latents of 13 x 13"):
        predict(unet, [ONE], 5.0, hw=(13, 13))
    assert all(unet.attn_processors[name] is own for name, own in before.items())
    unet.set_attn_processor(AttnProcessor())
    with pytest.raises(ValueError, match="attends by AttnProcessor,"), guided_attention(unet, LayoutGuidance(), [ONE], (12, 12)):
        pass


@pytest.mark.parametrize(
    ("empty", "levels", "layers"),
    [
        pytest.param(empty_unet, (2, 4), {4096: 10, 1024: 60}, marks=pytest.mark.slow),
        (lambda: UNet2DConditionModel(**SD15), (1, 2, 4, 8), {4096: 5, 1024: 5, 256: 5, 64: 1}),
        (architectures.unet, (2,), {36: 4}),
        (architectures.one_encoder_unet, (1, 2), {144: 3, 36: 4}),
    ],
    ids=["sdxl", "sd15", "miniature", "one-encoder miniature"],
)  # fmt: skip
def test_levels_are_where_a_unet_attends_to_text(empty, levels, layers):
    """Told from the configuration, and counted in a forward pass on the meta device: SDXL 70 layers, SD 1.5 16."""
    with init_empty_weights():
        unet = empty()
    assert cross_levels(unet) == chosen_levels(LayoutGuidance(), unet) == levels
    seen, c = Counter(), unet.config
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            module.register_forward_pre_hook(lambda _, inputs: seen.update([inputs[0].shape[1]]))
    unet.to("meta")
    added = None
    if c.addition_embed_type:
        pooled = c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim
        added = {"text_embeds": torch.empty(1, pooled, device="meta"), "time_ids": torch.empty(1, 6, device="meta")}
    latents, states = torch.empty(1, c.in_channels, c.sample_size, c.sample_size), torch.empty(1, 77, c.cross_attention_dim)
    unet(latents.to("meta"), torch.empty(1, device="meta"), states.to("meta"), added_cond_kwargs=added)
    assert seen == layers
    assert sorted(seen, reverse=True) == [(c.sample_size // f) ** 2 for f in levels]


def test_version_1_leaves_the_largest_factor_unedited():
    """At two levels that is the coarse one: its layers keep their bits, and the whole is as with factor 1 named."""
    torch.manual_seed(0)
    unet = architectures.one_encoder_unet().eval()
    v1, fine, coarse = (LayoutGuidance(levels=levels) for levels in ("v1", (1,), (2,)))
    assert torch.equal(attend(unet, [TWO], options=v1), attend(unet, [TWO], None))
    assert not torch.equal(attend(unet, [TWO], options=coarse), attend(unet, [TWO], None))
    outputs = {}
    for options in (v1, fine, coarse, LayoutGuidance(), LayoutGuidance(levels=(2, 1))):
        with torch.no_grad(), guided_attention(unet, options, [TWO], (12, 12)) as at:
            at(5.0)
            outputs[options.levels] = unet(normal(1, 8, 12, 12), 500, normal(1, 8, unet.config.cross_attention_dim)).sample
    assert torch.equal(outputs["v1"], outputs[(1,)])
    assert torch.equal(outputs["all"], outputs[(2, 1)])
    assert not torch.equal(outputs["all"], outputs["v1"])
    assert not torch.equal(outputs["all"], outputs[(2,)])


def test_levels_that_a_unet_does_not_have_are_refused(unet):
    for levels, message in (("v1", "leaves nothing.*at factor 2 alone"), ((2, 4), r"levels = \(2, 4\).*at factors 2; choose")):
        with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
            chosen_levels(LayoutGuidance(levels=levels), unet)
    with init_empty_weights():
        plain = UNet2DConditionModel(
            block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None
        )  # fmt: skip
    with pytest.raises(ValueError, match="at factors none"):
        chosen_levels(LayoutGuidance(), plain)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -0.1}, {"weight": math.nan}, {"inside": -1.0}, {"outside": 1.0}, {"outside": -math.inf}, {"levels": "v2"},
        {"levels": ()}, {"levels": (2, 2)}, {"levels": (0,)}, {"levels": [2]}, {"steps": 0}, {"recurrence": -1},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_out_of_its_range_is_one_line_that_names_it(wrong):
    with pytest.raises(ValueError, match=rf"\A{next(iter(wrong))} = [^\n]*allowed[^\n]*\Z"):
        LayoutGuidance(**wrong)


def test_what_does_not_fit_the_call_is_refused(unet):
    """More rows than layouts, latents that a factor does not divide, and noise levels that are none."""
    with pytest.raises(ValueError, match="a batch of 1 rows with layouts for 2"):
        attend(unet, [TWO, None], count=1)
    with pytest.raises(ValueError, match="latents of 13 x 13 are 49 pixels at factor 2, not 6 x 6"):
        predict(unet, [TWO], 5.0, hw=(13, 13))
    for sigma in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="noise level"):
            predict(unet, [TWO], sigma)


def test_the_edit_fades_within_its_window(backbone):
    """As diffusers' LMSDiscreteScheduler, made as released code makes it: 14.6146 to 0.0292 over the edited steps alone."""
    alphas, (_, sigmas) = alphas_cumprod(backbone), euler_schedule(backbone, 30)
    lms = LMSDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
    for steps, edited in ((None, 30), (50, 30), (30, 30), (12, 12), (1, 1)):
        lms.set_timesteps(edited)
        levels = edit_sigmas(sigmas, alphas, LayoutGuidance(steps=steps))
        assert levels[:edited] == pytest.approx(lms.sigmas[:-1].tolist(), rel=1e-4)
        assert levels[edited:] == [None] * (30 - edited)
    assert edit_sigmas(sigmas, alphas, LayoutGuidance())[::29] == pytest.approx([14.6146, 0.02917], rel=1e-3)
    own = edit_sigmas(sigmas, alphas, LayoutGuidance(steps=12, shift_schedule=False))
    assert own == [*sigmas[:12].tolist(), *[None] * 18]
