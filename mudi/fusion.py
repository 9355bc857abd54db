"""Gradient fusion: one update that answers each concept's inputs as that concept's own update does, in closed form.

Per linear layer the fused update minimises sum_i tr((W - a_i D_i) C_i (W - a_i D_i)^T) over W: C_i = X_i^T X_i / n_i is the Gram
of the inputs that concept i sends through the layer, D_i its update. Source: Gu et al., *Mix-of-Show* (arXiv 2305.18292), eq. 4,
which minimises this by L-BFGS from the base weights; without ridge and prior the closed form is where that ends, also where the
inputs do not span the layer. Constrained merging: Kumari et al., *Custom Diffusion* (arXiv 2212.04488), eq. 4. Solved in float64.
"""

from collections.abc import Callable, Sequence

import torch

from mudi.merging.recipes import RIDGE

Factors = tuple[torch.Tensor, torch.Tensor, float]  # B (out, r), A (r, in), scale: the update scale * B A
Solve = Callable[[torch.Tensor], torch.Tensor]  # rows (n, in) to rows @ inverse
# Base weights (out, in) and values (m, out) to B (out, r) and A (r, in) of their change.
Constrained = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

ASYMMETRY = 1e-4  # of the largest entry: float32 sums of products stay well below it
SAME_ROW = 1e-5  # of a row's length: one token encoded in two batches differs by less in float32
SAME_VALUE = 1e-3  # of the longest value, for such a token


def fuse_deltas(
    deltas: Sequence[torch.Tensor], grams: Sequence[torch.Tensor], weights: Sequence[float] | None = None, ridge: float = RIDGE,
    prior_gram: torch.Tensor | None = None, prior_weight: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """The fused update (out, in) = (sum a_i D_i C_i) (sum C_i + mu C_0 + lambda I)^-1, in the dtype and on the device of the deltas.

    deltas: D_i (out, in). grams: C_i (in, in). weights: a_i, one each if not given. lambda = ridge * tr(sum C_i) / in, and
    with ridge 0 the pseudo-inverse stands where the Grams are singular. prior_gram: C_0 (in, in), the Gram of inputs that the
    update should leave alone (neutral captions), with weight mu = prior_weight. Departure: the ridge, which the paper does not
    have, so that directions hardly any input uses stay near the base weights. Raises ValueError on shapes that do not fit,
    values that are not finite and Grams that are not symmetric.
    """
    weights = _checked_weights(weights, deltas, grams)
    _check_equal_shapes(deltas)
    _check_width(deltas[0].shape[1], grams)
    solve = inverse_of(grams, ridge, prior_gram, prior_weight)
    pulled = sum(a * delta.double() @ gram.double() for a, delta, gram in zip(weights, deltas, grams))
    return solve(pulled).to(deltas[0].dtype)


def fuse_low_rank(
    factors: Sequence[Factors], grams: Sequence[torch.Tensor], weights: Sequence[float] | None = None, ridge: float = RIDGE,
    prior_gram: torch.Tensor | None = None, prior_weight: float = 0.0, solve: Solve | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The fused update of D_i = s_i B_i A_i as factors B (out, sum r_i) and A (sum r_i, in), exactly: `fuse_deltas` is B A.

    B = [B_1 ... B_n] and A stacks a_i s_i A_i C_i times the inverse, so nothing of shape (out, in) is formed. `solve`: what
    `inverse_of` gave for these Grams, where several layers share them; ridge and prior are then already in it.
    """
    weights = _checked_weights(weights, factors, grams)
    _check_factors(factors)
    _check_width(factors[0][1].shape[1], grams)
    solve = solve or inverse_of(grams, ridge, prior_gram, prior_weight)
    pulled = [a * scale * down.double() @ gram.double() for a, (_, down, scale), gram in zip(weights, factors, grams)]
    return torch.cat([up for up, _, _ in factors], 1), solve(torch.cat(pulled)).to(factors[0][1].dtype)


def low_rank_error(
    fused: tuple[torch.Tensor, torch.Tensor], factors: Sequence[Factors], grams: Sequence[torch.Tensor],
    weights: Sequence[float] | None = None,
) -> list[float | None]:  # fmt: skip
    """How far what `fuse_low_rank` returned for `factors` is from each concept's own update on that concept's inputs, 0 for perfect.

    sqrt(tr(R C_i R^T) / tr(a_i^2 D_i C_i D_i^T)) with R = fused - a_i D_i, without a matrix of shape (out, in); 1 is what no update
    at all would have. None where a concept's own update does nothing to its inputs, so that there is nothing to compare with.
    """
    weights = _checked_weights(weights, factors, grams)
    up, down = (side.double() for side in fused)
    overlap, errors, start = up.T @ up, [], 0
    for a, (_, own, scale), gram in zip(weights, factors, grams):
        rows, gram = slice(start, start := start + len(own)), gram.double()
        own, rest = a * scale * own.double(), down.clone()
        rest[rows] -= own
        errors.append(_ratio((overlap * (rest @ gram @ rest.T)).sum(), (overlap[rows, rows] * (own @ gram @ own.T)).sum()))
    return errors


def inverse_of(
    grams: Sequence[torch.Tensor], ridge: float = RIDGE, prior_gram: torch.Tensor | None = None, prior_weight: float = 0.0
) -> Solve:
    """Multiplication by (sum C_i + mu C_0 + lambda I)^-1 from the right, factorised once in float64: rows (n, in) to (n, in).

    By Cholesky; where the matrix is not positive definite, by the pseudo-inverse from its eigenvalues above
    in * eps * (the largest), eps being that of the dtype the Grams came in, as in `torch.linalg.pinv`. So Grams that do not span
    their width should come in float64: the rounding of float32 ones can pass for directions.
    """
    if not 0 <= ridge < float("inf") or not 0 <= prior_weight < float("inf"):
        raise ValueError(f"ridge is {ridge} and prior_weight {prior_weight}; give finite numbers of 0 or more")
    if prior_weight and prior_gram is None:
        raise ValueError(f"prior_weight is {prior_weight} without a prior_gram; give the Gram (in, in) of the inputs to leave alone")
    given = [*grams, prior_gram] if prior_weight else list(grams)
    _check_grams(given)
    summed = sum(gram.double() for gram in grams)
    width = len(summed)
    matrix = summed + prior_weight * prior_gram.double() if prior_weight else summed.clone()
    matrix.diagonal().add_(ridge * summed.trace() / width)
    matrix = (matrix + matrix.T) / 2
    came_in = max(torch.finfo(gram.dtype).eps for gram in given)
    lower, failed = torch.linalg.cholesky_ex(matrix)
    # Without a ridge a singular matrix passes for a definite one as soon as its rounding happens to be positive.
    least = width * (torch.finfo(torch.float64).eps if ridge else came_in) * matrix.diagonal().max()
    if not failed and lower.diagonal().min() ** 2 > least:
        return lambda rows: torch.cholesky_solve(rows.double().T, lower).T
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > width * came_in * values.max().clamp(min=0)
    values, vectors = values[kept], vectors[:, kept]
    return lambda rows: (rows.double() @ vectors / values) @ vectors.T


def constrained_merge(
    base: torch.Tensor, regularization: torch.Tensor, concepts: torch.Tensor, values: torch.Tensor, ridge: float = RIDGE
) -> torch.Tensor:
    """The weights (out, in) nearest to `base` that map every row of `concepts` exactly to its row of `values`.

    base: W_0 (out, in). regularization: K (n, in), token states on which the change (W - W_0) K^T is to be small. concepts:
    C (m, in). values: V (m, out). W = W_0 + (V^T - W_0 C^T) (d C^T)^-1 d with d = C (K^T K + lambda I)^-1 and lambda = ridge *
    tr(K^T K) / in. Departures: the ridge, without which fewer captions than the width leave K^T K singular (SDXL's is 2048); it
    does not loosen the constraint. Repeated rows of C count once, as in the released code; if their values differ, the
    constraint cannot hold. Raises ValueError then, where other rows of C depend on each other, and where K^T K is singular and
    the ridge 0.
    """
    up, down = constrained_factors(regularization, concepts, ridge)(base, values)
    return (base.double() + up @ down).to(base.dtype)


def constrained_factors(regularization: torch.Tensor, concepts: torch.Tensor, ridge: float = RIDGE) -> Constrained:
    """The change W - W_0 of `constrained_merge` for every layer that is fed these states: (base, values) to B (out, r), A (r, in).

    Exactly low rank and in float64: r is the number of different rows of `concepts`. What does not depend on the layer, so both
    Cholesky factors, is worked out here, once. A is the same for all layers: an orthonormal basis of the rows of d, so that B A
    loses no more to a rounding of its factors than it would to one of its own. Raises ValueError as `constrained_merge` does.
    """
    _check_rows("regularization (n, in) and concepts (m, in)", regularization, concepts)
    rows, states = concepts.double(), regularization.double()
    pairs = _equal_rows(rows)
    kept = [index for index in range(len(rows)) if index not in {second for _, second in pairs}]
    gram = states.T @ states
    if not 0 <= ridge < float("inf"):
        raise ValueError(f"ridge is {ridge}; give a finite number of 0 or more")
    gram.diagonal().add_(ridge * gram.trace() / len(gram))
    lower = _definite(gram, "the regularization rows do not span their width; give more of them or a ridge above 0")
    directions = torch.cholesky_solve(rows[kept].T, lower).T
    met = _definite(directions @ rows[kept].T, f"{len(kept)} different concept rows depend linearly on each other; leave some out")
    basis, mixed = torch.linalg.qr(directions.T)

    def factors(base: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _check_rows("base (out, in) and concepts (m, in)", base, rows)
        _check_rows("base's transpose (in, out) and values (m, out)", base.T, values)
        if len(values) != len(rows):
            raise ValueError(f"{len(values)} rows of values for {len(rows)} of concepts; expected one each")
        _check_values(pairs, values.double())
        lacking = values.double()[kept] - rows[kept] @ base.double().T
        return (mixed @ torch.cholesky_solve(lacking, met)).T, basis.T

    return factors


def _equal_rows(rows: torch.Tensor) -> list[tuple[int, int]]:
    """Which rows repeat an earlier one that repeats none: pairs of indices, the earlier first."""
    pairs: list[tuple[int, int]] = []
    kept: list[int] = []
    for index, row in enumerate(rows):
        same = [(k, index) for k in kept if (rows[k] - row).norm() <= SAME_ROW * row.norm()]
        pairs += same
        if not same:
            kept.append(index)
    return pairs


def _check_values(pairs: Sequence[tuple[int, int]], values: torch.Tensor) -> None:
    size = values.norm(dim=1).max()
    for first, second in pairs:
        if (values[first] - values[second]).norm() > SAME_VALUE * size:
            raise ValueError(f"concept rows {first} and {second} are equal but their values differ; drop the tokens that concepts share")


def _definite(matrix: torch.Tensor, otherwise: str) -> torch.Tensor:
    """The Cholesky factor of a matrix that is definite beyond rounding."""
    lower, failed = torch.linalg.cholesky_ex((matrix + matrix.T) / 2)
    if failed or (lower.diagonal() ** 2 <= len(matrix) * torch.finfo(torch.float64).eps * matrix.diagonal()).any():
        raise ValueError(otherwise)
    return lower


def _ratio(rest: torch.Tensor, own: torch.Tensor) -> float | None:
    """Rounding can leave a vanishing energy slightly negative."""
    return None if own <= 0 else float((rest.clamp(min=0) / own).sqrt())


def _checked_weights(weights: Sequence[float] | None, updates: Sequence, grams: Sequence[torch.Tensor]) -> list[float]:
    weights = [1.0] * len(updates) if weights is None else [float(weight) for weight in weights]
    if not updates or not len(updates) == len(grams) == len(weights):
        raise ValueError(f"{len(updates)} updates, {len(grams)} Grams, {len(weights)} weights; give one or more, as many of each")
    if not torch.tensor(weights).isfinite().all():
        raise ValueError(f"weights are {weights}; give finite numbers")
    return weights


def _check_equal_shapes(deltas: Sequence[torch.Tensor]) -> None:
    shapes = [tuple(delta.shape) for delta in deltas]
    if len(shapes[0]) != 2 or len(set(shapes)) > 1:
        raise ValueError(f"delta shapes are {shapes}; all must be the same (out, in)")
    _check_finite("delta", deltas)


def _check_factors(factors: Sequence[Factors]) -> None:
    shapes = [(tuple(up.shape), tuple(down.shape)) for up, down, _ in factors]
    fits = all(len(up) == len(down) == 2 and up[1] == down[0] for up, down in shapes)
    if not fits or len({(up[0], down[1]) for up, down in shapes}) > 1:
        raise ValueError(f"factor shapes are {shapes}; each must be B (out, r), A (r, in) with out and in the same for all")
    _check_finite("factor", [side for up, down, scale in factors for side in (up, down, torch.tensor(float(scale)))])


def _check_width(width: int, grams: Sequence[torch.Tensor]) -> None:
    for index, gram in enumerate(grams):
        if tuple(gram.shape) != (width, width):
            raise ValueError(f"Gram {index} has shape {tuple(gram.shape)}; updates of input width {width} need ({width}, {width})")


def _check_grams(grams: Sequence[torch.Tensor]) -> None:
    """Square, of one width, finite, symmetric to rounding."""
    for index, gram in enumerate(grams):
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.shape != grams[0].shape:
            raise ValueError(f"Gram {index} has shape {tuple(gram.shape)}; all must be square and of one width, as {tuple(grams[0].shape)}")
        _check_finite(f"Gram {index}", [gram])
        if (gram - gram.T).abs().max() > ASYMMETRY * gram.abs().max():
            raise ValueError(f"Gram {index} is not symmetric; give X^T X of the layer's inputs X (n, in)")


def _check_rows(what: str, first: torch.Tensor, second: torch.Tensor) -> None:
    """Two matrices of rows of one width, finite, and the second not empty."""
    shapes = [tuple(first.shape), tuple(second.shape)]
    if not first.ndim == second.ndim == 2 or first.shape[1] != second.shape[1] or not len(second):
        raise ValueError(f"{what}: shapes are {shapes}; expected rows of one width, one or more of the latter")
    _check_finite(what, [first, second])


def _check_finite(what: str, matrices: Sequence[torch.Tensor]) -> None:
    if not all(matrix.isfinite().all() for matrix in matrices):
        raise ValueError(f"{what}: holds values that are not finite; compute it again")
