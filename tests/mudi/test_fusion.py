"""Gradient fusion and the constrained merge: by hand, against L-BFGS on the objective itself, and as laws."""

import pytest
import torch

from mudi.fusion import constrained_factors, constrained_merge, fuse_deltas, fuse_low_rank, inverse_of, low_rank_error

OUT, IN = 7, 12


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(rows, seed):
    """Inputs (rows, IN) whose directions differ tenfold in strength."""
    return normal(rows, IN, seed=seed) * torch.logspace(0, -1, IN, dtype=torch.float64)


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def gram(rows):
    return rows.T @ rows / len(rows)


def close(ours, expected, tolerance=1e-12):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def fusion_error(fused, deltas, grams, weights=None):
    """`low_rank_error` by its definition, from matrices of shape (out, in)."""
    errors = []
    for a, delta, c in zip(weights or [1] * len(deltas), deltas, grams):
        own, c = a * delta.double(), c.double()
        rest, energy = ((part @ c * part).sum() for part in (fused.double() - own, own))
        errors.append(float((rest.clamp(min=0) / energy).sqrt()) if energy > 0 else None)
    return errors


FIRST, SECOND = matrix([4, 1], [1, 1]), matrix([1, 1], [1, 3])
OWN = [matrix([1, 0], [0, 0]), matrix([0, 0], [0, 2])]
IDENTITY = torch.eye(2, dtype=torch.float64)


def test_two_concepts_by_hand():
    """D1 C1 + D2 C2 = [[4, 1], [2, 6]], the sum of Grams [[5, 2], [2, 4]] has the inverse [[4, -2], [-2, 5]] / 16:
    together [[14, -3], [-4, 26]] / 16."""
    close(fuse_deltas(OWN, [FIRST, SECOND], ridge=0), matrix([0.875, -0.1875], [-0.25, 1.625]))


def test_a_prior_holds_the_update_back_by_hand():
    """With the identity added: [[6, 2], [2, 5]], inverse [[5, -2], [-2, 6]] / 26, so [[18, -2], [-2, 32]] / 26; half the
    identity at weight 2 is the same."""
    expected = matrix([18, -2], [-2, 32]) / 26
    close(fuse_deltas(OWN, [FIRST, SECOND], ridge=0, prior_gram=IDENTITY, prior_weight=1), expected)
    close(fuse_deltas(OWN, [FIRST, SECOND], ridge=0, prior_gram=IDENTITY / 2, prior_weight=2), expected)


def test_a_ridge_is_a_prior_of_the_mean_diagonal():
    """tr [[5, 2], [2, 4]] / 2 = 4.5, so the ridge 2 / 9 adds the identity; as above."""
    close(fuse_deltas(OWN, [FIRST, SECOND], ridge=2 / 9), matrix([18, -2], [-2, 32]) / 26)


def test_concepts_on_different_inputs_do_not_meet():
    """Grams diag(1, 0) and diag(0, 1): each update is kept whole, their sum answers both, and no concept errs."""
    grams = [matrix([1, 0], [0, 0]), matrix([0, 0], [0, 1])]
    fused = fuse_deltas(OWN, grams, ridge=0)
    close(fused, OWN[0] + OWN[1])
    assert fusion_error(fused, OWN, grams) == [0, 0]


def minimised(bodies, deltas, weights, base):
    """W - W0 where L-BFGS ends on sum_i |X_i (W - W0 - a_i D_i)^T|^2 / n_i, started at W = W0."""
    weight = base.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [weight], max_iter=2000, history_size=25, line_search_fn="strong_wolfe", tolerance_grad=1e-13, tolerance_change=1e-16
    )

    def objective():
        search.zero_grad()
        loss = sum(((x @ (weight - base - a * d).T) ** 2).sum() / len(x) for x, d, a in zip(bodies, deltas, weights))
        loss.backward()
        return loss

    search.step(objective)
    return weight.detach() - base


@pytest.mark.parametrize(("rows", "concepts", "weights"), [(40, 2, (1, 1)), (40, 3, (1, 0.5, -2)), (4, 2, (1, 0.7)), (3, 3, (1, 1, 1))])
def test_the_closed_form_is_where_gradients_end(rows, concepts, weights):
    """Also where 4 + 4 or 3 + 3 + 3 input rows do not span 12 columns: from the base weights, L-BFGS never leaves their span."""
    bodies = [inputs(rows, seed=i) for i in range(concepts)]
    deltas = [normal(OUT, IN, seed=10 + i) for i in range(concepts)]
    searched = minimised(bodies, deltas, weights, normal(OUT, IN, seed=20))
    close(fuse_deltas(deltas, [gram(x) for x in bodies], weights, ridge=0), searched, 1e-6)


def low_rank_concepts():
    factors = [(normal(OUT, rank, seed=rank), normal(rank, IN, seed=10 + rank), scale) for rank, scale in ((2, 1.0), (3, 0.5), (1, 2.0))]
    return factors, [scale * up @ down for up, down, scale in factors], [gram(inputs(rows, seed=rows)) for rows in (5, 30, 2)]


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0])
@pytest.mark.parametrize("prior_weight", [0.0, 0.3])
def test_fused_factors_are_the_fused_update(ridge, prior_weight):
    """B A = fuse_deltas, its rank at most 2 + 3 + 1, and both forms of the error agree."""
    factors, deltas, grams = low_rank_concepts()
    weights, prior = (1, 0.5, 2), {"prior_gram": gram(inputs(20, seed=9)), "prior_weight": prior_weight}
    up, down = fuse_low_rank(factors, grams, weights, ridge, **prior)
    dense = fuse_deltas(deltas, grams, weights, ridge, **prior)
    close(up @ down, dense, 1e-10)
    close(
        torch.tensor(low_rank_error((up, down), factors, grams, weights)), torch.tensor(fusion_error(dense, deltas, grams, weights)), 1e-6
    )


def test_a_shared_factorisation_changes_nothing():
    factors, _, grams = low_rank_concepts()
    alone = fuse_low_rank(factors, grams, ridge=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(fuse_low_rank(factors, grams, solve=inverse_of(grams, 1e-3)), alone))


def test_the_order_of_concepts_does_not_matter():
    _, deltas, grams = low_rank_concepts()
    weights, order = [1, 0.5, 2], [2, 0, 1]
    permuted = fuse_deltas([deltas[i] for i in order], [grams[i] for i in order], [weights[i] for i in order])
    close(permuted, fuse_deltas(deltas, grams, weights), 1e-9)


def test_one_concept_alone_is_kept_and_agreeing_ones_too():
    """Where inputs span the layer, n equal updates fuse to that update whatever their Grams; the error of no update is 1."""
    delta, grams = normal(OUT, IN), [gram(inputs(30, seed=i)) for i in range(3)]
    close(fuse_deltas([delta], grams[:1], ridge=0), delta, 1e-9)
    close(fuse_deltas([delta] * 3, grams, ridge=0), delta, 1e-9)
    up, down = normal(OUT, 2), normal(2, IN, seed=1)
    assert low_rank_error((up, torch.zeros_like(down)), [(up, down, 1.0)], grams[:1]) == [1.0]


def test_a_concept_without_effect_has_no_error():
    """Nothing to compare with is None, not 0."""
    factors = (normal(OUT, 2), torch.zeros(2, IN), 1.0)
    assert low_rank_error((normal(OUT, 2), normal(2, IN, seed=1)), [factors], [gram(inputs(30, seed=0))]) == [None]


def test_directions_that_no_input_uses_keep_the_base_weights():
    """Inputs in the first 3 of 12 columns: the update is zero in the others, with and without a ridge."""
    body = inputs(30, seed=0)
    body[:, 3:] = 0
    for ridge in (0, 1e-6):
        fused = fuse_deltas([normal(OUT, IN)], [gram(body)], ridge=ridge)
        assert not fused[:, 3:].any()
        close(fused[:, :3], normal(OUT, IN)[:, :3], 1e-4)


def test_a_float32_gram_that_spans_too_little_is_cut_at_its_own_precision():
    """6 inputs of 12 columns, without a ridge: float32's rounding (6e-8) must not become directions of its own."""
    body, delta = inputs(6, seed=0), normal(OUT, IN)
    exact = fuse_deltas([delta], [gram(body)], ridge=0)
    assert (fuse_deltas([delta], [gram(body).float()], ridge=0) - exact).norm() < 1e-3 * exact.norm()


def test_custom_diffusions_merge_by_hand():
    """Base and captions are the identity, [1, 1] must become [3, 1]: the change [2, 0] is shared between both columns,
    [[1 + 1, 1], [0, 1]]. A second copy of the constraint changes nothing."""
    expected = matrix([2, 1], [0, 1])
    close(constrained_merge(IDENTITY, IDENTITY, matrix([1, 1]), matrix([3, 1])), expected)
    close(constrained_merge(IDENTITY, IDENTITY, matrix([1, 1], [1, 1]), matrix([3, 1], [3, 1])), expected)


def test_the_constraint_holds_and_nothing_nearer_does():
    """W C^T = V^T exactly; any step that keeps it moves captions more."""
    base, captions, concepts, values = normal(OUT, IN), inputs(50, seed=1), normal(3, IN, seed=2), normal(3, OUT, seed=3)
    merged = constrained_merge(base, captions, concepts, values, ridge=0)
    close(merged @ concepts.T, values.T)
    free = torch.linalg.svd(concepts)[2][3:]
    for seed in range(3):
        step = 0.01 * normal(OUT, len(free), seed=10 + seed) @ free
        assert ((merged + step - base) @ captions.T).norm() > ((merged - base) @ captions.T).norm()


def test_the_constraint_is_fusion_of_infinite_weight():
    """Concept inputs against captions as the prior: as the prior's weight goes to 0, fusion becomes the constrained merge, the
    distance falling with it."""
    base, captions, concepts, own = normal(OUT, IN), inputs(50, seed=1), normal(3, IN, seed=2), normal(OUT, IN, seed=3)
    merged = constrained_merge(base, captions, concepts, concepts @ (base + own).T, ridge=0)

    def distance(weight):
        fused = fuse_deltas([own], [concepts.T @ concepts], ridge=0, prior_gram=captions.T @ captions, prior_weight=1 / weight)
        return (base + fused - merged).abs().max()

    assert distance(1e6) < 1e-4
    assert distance(1e6) < 1.01e-3 * distance(1e3)


def test_few_captions_need_a_ridge_which_leaves_the_constraint_exact():
    """5 captions for 12 columns, as 200 for SDXL's 2048."""
    given = (normal(OUT, IN), inputs(5, seed=1), normal(3, IN, seed=2), normal(3, OUT, seed=3))
    close(constrained_merge(*given) @ given[2].T, given[3].T, 1e-8)
    with pytest.raises(ValueError, match="ridge above 0"):
        constrained_merge(*given, ridge=0)


def test_the_factors_of_any_layer_are_the_closed_form_of_its_whole_change():
    """(V^T - W0 C^T) (d C^T)^-1 d with d = C (K^T K)^-1, inverted as written, of three layers with one K and C; the rank is that of
    the words, a repeated one counted once, and A is orthonormal and the same for all."""
    captions, concepts = inputs(50, seed=1), normal(3, IN, seed=2)
    factors, d = constrained_factors(captions, concepts[[0, 1, 0, 2]], ridge=0), concepts @ torch.linalg.inv(captions.T @ captions)
    downs = []
    for layer, out in enumerate((OUT, OUT, 2)):
        base, values = normal(out, IN, seed=10 + layer), normal(3, out, seed=20 + layer)
        up, down = factors(base, values[[0, 1, 0, 2]])
        assert (up.shape, down.shape) == ((out, 3), (3, IN))
        close(up @ down, (values.T - base @ concepts.T) @ torch.linalg.inv(d @ concepts.T) @ d, 1e-9)
        downs.append(down)
    close(downs[0] @ downs[0].T, torch.eye(3, dtype=torch.float64))
    assert torch.equal(downs[0], downs[2])


NOT_FINITE = torch.full((2, 2), float("nan"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fuse_deltas([], []), "one or more"),
        (lambda: fuse_deltas(OWN, [FIRST]), "2 updates, 1 Grams"),
        (lambda: fuse_deltas(OWN, [FIRST, SECOND], [1.0]), "1 weights"),
        (lambda: fuse_deltas(OWN, [FIRST, SECOND], [1.0, float("inf")]), "finite"),
        (lambda: fuse_deltas([OWN[0], torch.ones(3, 2)], [FIRST, SECOND]), "same"),
        (lambda: fuse_deltas(OWN, [FIRST, torch.eye(3)]), "Gram 1 has shape"),
        (lambda: fuse_deltas(OWN, [FIRST, matrix([1, 2], [0, 1])]), "Gram 1 is not symmetric"),
        (lambda: fuse_deltas(OWN, [FIRST, NOT_FINITE]), "Gram 1: holds values that are not finite"),
        (lambda: fuse_deltas([NOT_FINITE, NOT_FINITE], [FIRST, SECOND]), "delta"),
        (lambda: fuse_deltas(OWN, [FIRST, SECOND], ridge=-1), "ridge is -1"),
        (lambda: fuse_deltas(OWN, [FIRST, SECOND], prior_weight=1), "without a prior_gram"),
        (lambda: fuse_low_rank([(torch.ones(2, 3), torch.ones(4, 2), 1.0)], [FIRST]), "factor shapes"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1]), matrix([3, 1, 1])), "expected"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1]), matrix([3, 1], [3, 1])), "2 rows of values for 1 of concepts"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1, 1]), matrix([3, 1])), "expected"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1]), matrix([3, float("nan")])), "not finite"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1], [2, 2]), matrix([3, 1], [0, 0])), "depend linearly"),
        (lambda: constrained_merge(IDENTITY, IDENTITY, matrix([1, 1], [1, 1]), matrix([3, 1], [0, 0])), "values differ"),
    ],
)  # fmt: skip
def test_what_cannot_be_fused_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
