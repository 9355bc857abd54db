"""The attention edit of one layer against numbers derived by hand: weights of cells and words, spread of scores, bias."""

import math

import pytest
import torch
from double import ROUNDING

from mudi.attention.box_attention import attention_bias, score_std, token_weights

LEFT, RIGHT = (0.0, 0.0, 512.0, 1024.0), (512.0, 0.0, 1024.0, 1024.0)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_references_numbers():
    """Test vector 2: Q = I, K = [[1, 1], [1, 0], [0, 1]], d = 2, sigma = 1, g = 0.08; the middle token inside at the first pixel.

    Scores 1 1 0 / 1 0 1: mean 2/3, squares 4/3 over 5, so std = sqrt(4/15), in float32, of which about ten roundings are made.
    """
    query, key = torch.eye(2)[None, None], torch.tensor([[1.0, 1], [1, 0], [0, 1]])[None, None]
    std = score_std(query, key)
    assert std.item() == pytest.approx(math.sqrt(4 / 15), rel=10 * ROUNDING)
    weights = token_weights([LEFT], [(1,)], 3, (1, 2), 2.5, -1e8)
    assert weights.tolist() == [[0, 2.5, 0], [0, -1e8, 0]]
    bias = attention_bias(weights[None], std, 1.0, 0.08, 2, torch.float32)[:, None]
    edited = torch.nn.functional.scaled_dot_product_attention(query, key, torch.eye(3)[None, None], attn_mask=bias)
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, torch.eye(3)[None, None])
    torch.testing.assert_close(edited[0, 0], torch.tensor([[0.3929, 0.4133, 0.1937], [0.5, 0, 0.5]]), atol=6e-5, rtol=0)
    torch.testing.assert_close(plain[0, 0], torch.tensor([[0.4011, 0.4011, 0.1978], [0.4011, 0.1978, 0.4011]]), atol=6e-5, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_std_is_that_of_the_scores_written_out(shift):
    """Each sample alone, over its own real keys; also where the scores' mean is hundreds of times their spread.

    The sums are float32: over 50 pixels, 11 keys and 16 numbers a head, one rounding a term; and as heads are held against
    each other, the rounding of their means counts as many times as these exceed the spread.
    """
    query, key = normal(3, 4, 50, 16) + shift, normal(3, 4, 11, 16, seed=1) / (1 + shift) + shift
    real = torch.arange(11) < torch.tensor([[11], [7], [1]])
    scores = query.double() @ key.double().mT
    expected = torch.stack([scores[i][..., real[i]].std() for i in range(3)])
    bound = ROUNDING * (50 + 11 + 16 + float((scores.mean((1, 2, 3)) / expected).abs().max()))
    torch.testing.assert_close(score_std(query, key, real).double(), expected, rtol=bound, atol=0)
    torch.testing.assert_close(score_std(query, key).double()[0], expected[0], rtol=bound, atol=0)


def test_the_bias_stays_within_half_of_what_the_number_format_holds():
    """-1e8 * 0.08 * ln(2) * 1 / 1 = -5545177 in float32; in float16 half of -65504."""
    weights, std = torch.tensor([[[-1e8, 0.0]]]), torch.ones(1)
    assert attention_bias(weights, std, 1.0, 0.08, 1, torch.float32)[0, 0].tolist() == pytest.approx([-8e6 * math.log(2), 0])
    assert attention_bias(weights, std, 1.0, 0.08, 1, torch.float16)[0, 0].tolist() == [-32752, 0]


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        # Cells are 256 wide and 512 high: half of the first column, all of the second, upper row alone.
        ((128, 0, 512, 512), [[1, 1, 0, 0], [0, 0, 0, 0]]),
        # A pixel less than half of the first column.
        ((129, 0, 512, 512), [[0, 1, 0, 0], [0, 0, 0, 0]]),
        # Three quarters of a column and of a row: 9/16 of a cell.
        ((64, 128, 256, 512), [[1, 0, 0, 0], [0, 0, 0, 0]]),
        ((0, 0, 1024, 1024), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        # 15/32 of a cell and 3/16 of that below: half of none, so the first.
        ((64, 192, 256, 640), [[1, 0, 0, 0], [0, 0, 0, 0]]),
        # Much smaller than a cell: the one it lies in.
        ((500, 600, 560, 610), [[0, 0, 0, 0], [0, 0, 1, 0]]),
    ],
)
def test_a_cell_is_inside_where_the_box_covers_half_of_it(box, cells):
    weights = token_weights([box], [(1,)], 3, (2, 4), 2.5, -7.0)
    assert weights[:, 1].reshape(2, 4).tolist() == [[2.5 if cell else -7.0 for cell in row] for row in cells]
    assert not weights[:, [0, 2]].any()


def test_subjects_have_columns_of_their_own_where_their_boxes_overlap():
    boxes, spans = [(0, 0, 768, 1024), (256, 0, 1024, 1024)], [(1, 2), (4,)]
    both = token_weights(boxes, spans, 6, (4, 4), 2.5, -1e8)
    alone = [token_weights([box], [span], 6, (4, 4), 2.5, -1e8) for box, span in zip(boxes, spans, strict=True)]
    assert torch.equal(both, alone[0] + alone[1])
    assert (both[:, 1] > 0).sum() == (both[:, 4] > 0).sum() == 12


@pytest.mark.parametrize(
    ("boxes", "spans", "message"),
    [
        ([LEFT], [(1,), (2,)], "1 boxes and 2 token spans"),
        ([LEFT, RIGHT], [(1, 2), (2,)], "belong to one subject"),
        ([LEFT], [()], "needs positions"),
        ([LEFT], [(-1,)], "needs positions"),
        ([LEFT], [(7, 8)], "token 8 of a subject is beyond the prompt's 8"),
        ([(0, 0, 0, 10)], [(1,)], "empty or off the canvas"),
        ([(0, 0, 10, 1025)], [(1,)], "empty or off the canvas"),
    ],
)
def test_boxes_and_spans_that_do_not_fit_are_refused_in_one_line(boxes, spans, message):
    with pytest.raises(ValueError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
        token_weights(boxes, spans, 8, (4, 4), 2.5, -1e8)
