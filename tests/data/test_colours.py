import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import batches, colours, images
from limoe_tf.data.formats import png
from limoe_tf.data.sources import TfrecordSource
from tests.shared.record_files import example, jpeg, write

SEEDS = [[0, i] for i in range(60)]
TABLE = np.array(list(colours.VALUES.values()))


def icon(colour=(0, 0, 0), side=8):
    """Returns <uint8>[side, side, 4]: the left half of a colour, of it one pixel half covered."""
    image = np.zeros([side, side, 4], np.uint8)
    image[:, : side // 2] = *colour, 255
    image[0, 0, 3] = 51
    return image


def encoded(image):
    return tf.io.encode_png(image).numpy()


def luminance(colour):
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_contrast_is_that_of_wcag():
    white = tf.constant([255.0] * 3)
    # #767676 on white is the darkest grey of WCAG's techniques that has 4.5.
    others = tf.constant([[0.0] * 3, [255.0] * 3, [118.0] * 3])
    found = colours.contrast(white, others)
    np.testing.assert_allclose(found, [21, 1, 4.54], atol=0.005)


def test_an_icon_of_one_colour_is_drawn_in_another_on_a_ground_with_contrast():
    words = set()
    for seed in SEEDS:
        image, word = colours.in_drawn_colours(icon(), seed)
        image, word = image.numpy().astype(int), word.numpy().decode()
        words.add(word)
        foreground, ground = image[1, 0], image[1, 7]
        np.testing.assert_array_equal(foreground, colours.VALUES[word])
        light, dark = sorted((luminance(foreground), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3 - 1e-5
        # 51 of 255 is a fifth.
        np.testing.assert_array_equal(image[0, 0], np.floor(0.2 * foreground + 0.8 * ground + 0.5))
        np.testing.assert_array_equal(image[1:, :4] - foreground, np.zeros([7, 4, 3]))
        np.testing.assert_array_equal(image[:, 4:] - ground, np.zeros([8, 4, 3]))
    assert len(words) > 9


def test_an_icon_of_several_colours_keeps_them_on_a_drawn_ground():
    pixels = icon((250, 250, 250))
    pixels[3, 3, :3] = 10, 20, 30
    grounds = set()
    for seed in SEEDS:
        image, word = colours.in_drawn_colours(pixels, seed)
        assert word == b""
        np.testing.assert_array_equal(image[3, 3], [10, 20, 30])
        np.testing.assert_array_equal(image[4, 0], [250, 250, 250])
        grounds.add(tuple(image[0, 7].numpy()))
        # The mean is nearly white.
        assert (1.0 + 0.05) / (luminance(image[0, 7]) + 0.05) > 2.9
    assert len(grounds) > 50


def test_an_opaque_image_stays_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, [8, 8, 4], np.uint8)
    pixels[..., 3] = 255
    for one in (pixels, np.full([8, 8, 4], 255, np.uint8)):
        image, word = colours.in_drawn_colours(one, SEEDS[0])
        np.testing.assert_array_equal(image, one[..., :3])
        assert word == b""


@pytest.mark.parametrize(
    "difference, alpha, is_one", [(1, 255, True), (2, 255, False), (5, 51, True), (6, 51, False)]
)
def test_colours_are_one_to_within_the_rounding_of_premultiplied_values(difference, alpha, is_one):
    pixels = icon((100, 100, 100))
    pixels[2, 1] = 100, 100 + difference, 100, alpha
    assert colours.has_one_colour(pixels).numpy() == is_one
    # What cannot be seen does not count.
    pixels[2, 1, 3] = 0
    assert colours.has_one_colour(pixels)


def test_a_picture_without_a_visible_pixel_is_its_ground():
    image, _ = colours.in_drawn_colours(np.zeros([4, 4, 4], np.uint8), SEEDS[0])
    assert len(np.unique(image.numpy().reshape(-1, 3), axis=0)) == 1


@pytest.mark.parametrize("crop", images.TRAINING_CROPS)
def test_box_and_flip_are_those_without_drawn_colours(crop):
    options = {"size": 8, "crop": crop, "flip": True}
    pixels = np.arange(32 * 32 * 4).reshape(32, 32, 4).astype(np.uint8)
    pixels[..., 3] = 255
    for seed in SEEDS[:6]:
        # Without a transparent pixel, but with a channel for them.
        image, word = colours.training_image(encoded(pixels), seed, **options)
        assert word == b""
        wanted = images.training_image(encoded(pixels), seed, **options)
        np.testing.assert_array_equal(image, wanted)


def test_files_without_alpha_are_unchanged():
    for file in (jpeg(7), encoded(icon()[..., :3])):
        image, word = colours.training_image(file, SEEDS[0], size=8)
        np.testing.assert_array_equal(image, images.training_image(file, SEEDS[0], size=8))
        assert word == b""
    assert not png.has_alpha(b"") and not png.has_alpha(b"\x89PNG\r\n\x1a\n")


def as_text(captions):
    """Stands for a vocabulary: a caption stays one string."""
    return captions[:, tf.newaxis], tf.ones_like(captions[:, tf.newaxis], tf.bool)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    records = [example(jpg=encoded(icon()), caption=b"half") for _ in range(8)]
    records += [example(jpg=jpeg(i), caption=b"photograph") for i in range(8)]
    return TfrecordSource(write(tmp_path_factory.mktemp("icons") / "a", records))


def training(source, colours, **settings):
    defaults = {"batch_size": 16, "image_size": 8, "seed": 3, "shuffle_window": 16}
    settings = {**defaults, **settings}
    return batches.training_batches(source, vocabulary=as_text, colours=colours, **settings)


def test_modes_draw_the_same_pixels_from_any_step_on_and_only_named_ones_change_captions(source):
    _, named = training(source, "named", flip=True).take(2).as_numpy_iterator()
    (silent,) = training(source, "silent", flip=True, start_step=1).take(1).as_numpy_iterator()
    np.testing.assert_array_equal(named["image"], silent["image"])
    words = []
    for image, (text,), (other,) in zip(named["image"], named["text"], silent["text"]):
        word, _, rest = text.decode().rpartition(" ")
        assert rest == other.decode() == ("half" if word else "photograph")
        if word:
            words.append(word)
            # The coloured half is on the left or, mirrored, on the right.
            assert list(colours.VALUES[word]) in image[4, [0, 7]].tolist()
    # The batch is the whole window.
    assert len(words) == 8 and len(set(words)) > 2


def test_an_unknown_mode_is_an_error(source):
    with pytest.raises(ValueError, match="`colours` must be one of 'off', 'silent', 'named'"):
        training(source, "loud")
