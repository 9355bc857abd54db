"""Embeddings: unit vectors that depend on one image alone, by the paper's features; crops that are exact squares.

The models compute in float64; an embedding itself is float32, normalised in it.
"""

from functools import partial
from operator import call

import numpy as np
import pytest
import torch
from double import ROUNDING, in_double
from PIL import Image
from transformers import BitImageProcessorPil

from mudi.embed import Embedder, bit_pixels, embed, mean_of_tokens, resized, square_crop
from mudi.miniature import architectures
from mudi.miniature.world import SIZE

# Features are rounded once, their length is a float32 sum of squares, and the quotient is rounded: of numbers up to 1.
EMBEDDED = {"atol": 4 * ROUNDING, "rtol": 0}


def dinov2_embedder():
    model = in_double(architectures.dinov2().eval())
    processor = BitImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    return Embedder(
        name="random", kind="dinov2", model=model, preprocess=partial(bit_pixels, processor), features=mean_of_tokens,
        width=model.config.hidden_size,
    )  # fmt: skip


def dreamsim_embedder():
    model = in_double(architectures.dreamsim().eval())
    return Embedder(name="random", kind="dreamsim", model=model, preprocess=partial(resized, side=SIZE), features=call, width=model.width)


@pytest.fixture(scope="module", params=[dinov2_embedder, dreamsim_embedder])
def embedder(request):
    torch.manual_seed(0)
    return request.param()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((48, 48), (30, 60), (100, 40), (1, 1), (70, 70))]


def test_an_embedding_is_a_unit_vector(embedder, images):
    norms = embed(embedder, images).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones(len(images)), **EMBEDDED)


def test_an_image_embeds_alone_as_it_does_in_a_batch(embedder, images):
    together = embed(embedder, images, batch=3)
    alone = torch.cat([embed(embedder, [image]) for image in images])
    torch.testing.assert_close(together, alone, **EMBEDDED)


def test_permuting_images_permutes_embeddings(embedder, images):
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(embed(embedder, [images[i] for i in order]), embed(embedder, images)[order], **EMBEDDED)


def test_no_images_embed_to_no_rows_of_the_same_width(embedder, images):
    assert embed(embedder, []).shape == (0, embed(embedder, images[:1]).shape[1])


def test_dinov2_averages_the_class_token_with_the_patches(images):
    """64 patches of 6 px on 48 px and the class token: the mean is (class + sum of patches) / 65. The stock processor's
    pixels of a 48 x 48 image are (x/255 - mean) / std, since neither resizing nor cropping changes it."""
    torch.manual_seed(0)
    embedder = dinov2_embedder()
    processor = embedder.preprocess.args[0]
    pixels = (images[0] / 255 - np.array(processor.image_mean)) / np.array(processor.image_std)
    with torch.no_grad():
        tokens = embedder.model(torch.tensor(pixels).permute(2, 0, 1)[None]).last_hidden_state[0]
    mean = (tokens[0] + tokens[1:].sum(0)) / 65
    # The processor's pixels are float32: rounded a few times, and the network passes that on.
    torch.testing.assert_close(embed(embedder, images[:1])[0].double(), mean / mean.norm(), atol=1e-6, rtol=0)


def test_a_resized_image_ignores_the_aspect_and_keeps_its_range(images):
    """DreamSim's preprocessing: torchvision's Resize((s, s), bicubic) of a PIL image, which is PIL's own resize, then /255."""
    expected = np.array(Image.fromarray(images[1]).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 255
    np.testing.assert_array_equal(resized(images[1], SIZE).permute(1, 2, 0), expected)
    np.testing.assert_array_equal(resized(images[0], SIZE).permute(1, 2, 0).numpy(), images[0].astype(np.float32) / 255)


def numbered(height, width):
    """An image whose pixel (y, x) is (y, x, 7)."""
    ys, xs = np.mgrid[:height, :width]
    return np.stack([ys, xs, np.full_like(ys, 7)], -1).astype(np.uint8)


def test_a_wide_crop_is_centred_on_white_with_the_odd_row_below():
    """Box (2, 1, 7, 3) is 5 wide and 2 high; a 5 x 5 square leaves 3 white rows: 1 above, 2 below."""
    square = square_crop(numbered(10, 10), (2, 1, 7, 3))
    np.testing.assert_array_equal(square[1:3], numbered(10, 10)[1:3, 2:7])
    assert square.shape == (5, 5, 3)
    assert (square[[0, 3, 4]] == 255).all()


def test_a_square_crop_of_a_square_box_is_the_box_itself():
    np.testing.assert_array_equal(square_crop(numbered(8, 9), (3, 2, 7, 6)), numbered(8, 9)[2:6, 3:7])


@pytest.mark.parametrize(
    ("box", "same_as"),
    [
        ((1.4, 1.6, 5.4, 5.6), (1, 2, 5, 6)),
        ((-3.0, -2.0, 4.0, 4.0), (0, 0, 4, 4)),
        ((6.0, 6.0, 20.0, 20.0), (6, 6, 8, 8)),
        ((3.1, 3.2, 3.2, 3.3), (3, 3, 4, 4)),
        ((7.8, 7.8, 8.0, 8.0), (7, 7, 8, 8)),
    ],
)
def test_a_box_is_rounded_clipped_and_never_empty(box, same_as):
    np.testing.assert_array_equal(square_crop(numbered(8, 8), box), square_crop(numbered(8, 8), same_as))
