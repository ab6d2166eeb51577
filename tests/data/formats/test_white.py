import numpy as np

from limoe_tf.data.formats import white


def test_every_colour_with_every_alpha_is_mixed_and_rounded():
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    image = np.stack([colour, 255 - colour, colour // 2, alpha], axis=-1).astype(np.uint8)
    shares = alpha[..., np.newaxis] / 255
    expected = image[..., :3] * shares + 255 * (1 - shares)
    assert np.abs(white.on_white(image).numpy() - expected).max() <= 0.501


def test_large_images_are_mixed_block_by_block():
    image = np.random.default_rng(0).integers(0, 256, (1100, 1000, 4), np.uint8)
    found = white.on_white(image).numpy()
    for rows in (slice(0, 9), slice(1040, 1100)):  # A block ends within row 1,048.
        np.testing.assert_array_equal(found[rows], white.on_white(image[rows]))
