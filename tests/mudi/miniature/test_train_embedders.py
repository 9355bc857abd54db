"""The cosines that the embedders learn are graded, attainable, and asked for in balanced batches."""

import numpy as np
import pytest
import torch

from mudi.miniature.corpus import render_corpus
from mudi.miniature.training.embedders import appearances, attribute_codes, draw_family, draw_view, graded_loss, target_cosines
from mudi.miniature.world import COLOURS, all_identities, attribute_distance


def some_codes(count: int) -> np.ndarray:
    return attribute_codes()[np.random.default_rng(0).integers(len(all_identities()), size=count)]


def test_targets_fall_with_the_attribute_distance_of_the_world():
    """1 - distance / 0.826, computed from codes, for 40 random identities against `attribute_distance`.

    Five weights are added in float32: five roundings of 6e-8."""
    rows = np.random.default_rng(1).integers(len(all_identities()), size=40)
    people = [all_identities()[i] for i in rows]
    expected = [[1 - attribute_distance(a, b) / 0.826 for b in people] for a in people]
    np.testing.assert_allclose(target_cosines(attribute_codes()[rows]), expected, rtol=0, atol=3e-7)


def test_unit_vectors_with_the_target_cosines_exist():
    """A matrix of cosines of unit vectors has ones on its diagonal and no negative eigenvalue."""
    targets = target_cosines(some_codes(300)).astype(np.float64)
    np.testing.assert_allclose(np.diag(targets), 1)
    assert np.linalg.eigvalsh(targets)[0] > -1e-4


def test_embeddings_with_the_target_cosines_have_no_loss():
    """The loss of vectors factored from the targets themselves is zero; that of one vector for all is not."""
    codes = attribute_codes()
    identities = np.random.default_rng(2).integers(len(codes), size=40).repeat(2)
    values, vectors = np.linalg.eigh(target_cosines(codes[identities]).astype(np.float64))
    perfect = torch.from_numpy((vectors * np.sqrt(values.clip(0))).astype(np.float32))
    losses = graded_loss(perfect, identities, codes)
    assert all(value.item() == pytest.approx(0, abs=1e-6) for value in (losses["same"], losses["strangers"]))
    collapsed = torch.zeros(80, 8)
    collapsed[:, 0] = 1
    assert graded_loss(collapsed, identities, codes)["strangers"] > 0.5


def test_a_family_is_someone_and_a_neighbour_twice_each():
    """The neighbour differs in one of class, body, belly and accessory, which weigh 0.2, 0.35, 0.2 and up to 0.25."""
    index, rng = appearances(render_corpus(1500, seed=0)), np.random.default_rng(0)
    for _ in range(30):
        a, again, b, twice = draw_family(index, rng)
        assert (a, b) == (again, twice)
        assert 0 < attribute_distance(all_identities()[a], all_identities()[b]) <= 0.35


def test_a_view_shows_its_subject():
    """At least 20 of its 48 x 48 pixels have the body colour of the identity asked for."""
    corpus = render_corpus(200, seed=3)
    index, rng = appearances(corpus), np.random.default_rng(0)
    for identity in list(index.of_identity)[:20]:
        colour = np.array(COLOURS[all_identities()[identity].body])
        view = draw_view(corpus, index, identity, rng).astype(int)
        assert (np.abs(view - colour).max(-1) < 25).sum() > 20
