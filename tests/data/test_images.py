import random

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import images
from tests.shared.record_files import jpeg, picture

SEED = [3, 7]


def png(pixels):
    return tf.io.encode_png(pixels).numpy()


def coordinates(height, width):
    """Returns an image whose first two channels are its rows and columns."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_a_png_of_the_right_size_comes_out_unchanged():
    pixels = picture(5, height=16, width=16)
    for image in (
        images.training_image(png(pixels), SEED, size=16),
        images.evaluation_image(png(pixels), size=16),
    ):
        np.testing.assert_array_equal(image, pixels)


def test_a_jpeg_comes_out_close_to_what_was_encoded():
    np.testing.assert_allclose(images.decode(jpeg(100)), picture(100), atol=12)


def test_grey_images_get_three_equal_channels():
    image = images.evaluation_image(png(picture(9)[..., :1]), size=8)
    assert image.shape == (8, 8, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_halving_averages_blocks_of_four():
    # Bilinear at half the size samples the middle of each 2 x 2 block: (0 + 10 + 20 + 50) / 4.
    pixels = np.tile(np.array([[0, 10], [20, 50]], np.uint8)[..., None], (4, 4, 3))
    image = images.evaluation_image(png(pixels), size=4)
    np.testing.assert_array_equal(image, np.full((4, 4, 3), 20))


def test_the_aspect_ratio_is_not_kept():
    image = images.evaluation_image(png(coordinates(10, 40)), size=10, resize="resize")
    # Column j of 10 covers columns 4j to 4j + 3; their middle is 4j + 1.5, rounded to even.
    np.testing.assert_array_equal(image[0, :, 1], np.round(np.arange(10) * 4 + 1.5))


def test_a_central_crop_keeps_seven_eighths_of_each_side():
    # Resized to 16 / 0.875 = 18.3, so 18, and cut from 1 to 17: here nothing is scaled.
    pixels = coordinates(18, 18)
    image = images.evaluation_image(png(pixels), size=16, resize="central_crop")
    np.testing.assert_array_equal(image, pixels[1:17, 1:17])


def test_equal_seeds_draw_equal_crops_and_others_do_not():
    encoded = jpeg(3, height=40, width=50)
    first, again, other = (
        images.training_image(encoded, seed, size=16, crop="random_resized_crop", flip=True)
        for seed in (SEED, SEED, [3, 8])
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_random_crops_lie_inside_the_image_and_differ_in_size():
    encoded, shares = png(coordinates(60, 60)), []
    for number in range(30):
        image = images.training_image(encoded, [1, number], size=8, crop="random_resized_crop")
        rows, columns = image[..., 0].numpy().astype(int), image[..., 1].numpy().astype(int)
        # Eight samples span 7/8 of the box.
        height, width = np.ptp(rows) * 8 / 7, np.ptp(columns) * 8 / 7
        assert 0.6 < height / width < 1.6
        shares.append(height * width / 60**2)
    assert 0.05 < min(shares) < 0.35
    assert 0.65 < max(shares) < 1.05


def test_random_crops_are_of_the_area_that_is_asked_for():
    # Eight samples span 7/8 of the box, whose sides are rounded to pixels.
    encoded, crop = png(coordinates(60, 60)), {"crop": "random_resized_crop"}
    for number in range(10):
        image = images.training_image(
            encoded, [1, number], size=8, crop_area=(0.2, 0.3), **crop
        ).numpy()
        height, width = (np.ptp(image[..., i].astype(int)) * 8 / 7 for i in (0, 1))
        assert 0.15 < height * width / 60**2 < 0.35
    whole = {**crop, "crop_area": images.CROP_AREA}
    np.testing.assert_array_equal(
        images.training_image(encoded, SEED, size=8, **whole),
        images.training_image(encoded, SEED, size=8, **crop),
    )


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.4), (0.1, 1.1), (0.1,), (0.1, 0.2, 0.3)])
def test_areas_of_crops_that_cannot_be_are_errors(area):
    with pytest.raises(ValueError, match="`crop_area` must be two shares .* Received: crop_area="):
        images.training_image(jpeg(), SEED, size=8, crop="random_resized_crop", crop_area=area)


def test_fused_decoding_and_cropping_equals_decoding_first():
    # Bytes after a JPEG's end change nothing but which way is taken. No box is so large that the
    # fused one is decoded at half its size.
    encoded = jpeg(30, height=48, width=64)
    for number in range(5):
        fused, whole = (
            images.training_image(bytes_, [0, number], size=32, crop="random_resized_crop")
            for bytes_ in (encoded, encoded + b"trailer")
        )
        np.testing.assert_allclose(fused, whole.numpy().astype(int), atol=3)


def test_flips_mirror_about_half_of_the_images():
    encoded = png(coordinates(8, 8))
    plain = images.training_image(encoded, SEED, size=8).numpy()
    flipped = 0
    for number in range(60):
        image = images.training_image(encoded, [0, number], size=8, flip=True).numpy()
        mirrored = np.array_equal(image, plain[:, ::-1])
        assert mirrored or np.array_equal(image, plain)
        flipped += mirrored
    assert 15 < flipped < 45


@pytest.mark.parametrize("crop", images.TRAINING_CROPS)
def test_a_truncated_jpeg_is_an_error_wherever_the_crop_lies(crop):
    encoded = jpeg(1, height=64, width=64)
    for length in (len(encoded) - 2, len(encoded) // 2, 30, 0):
        for number in range(8):
            with pytest.raises(tf.errors.InvalidArgumentError):
                images.training_image(encoded[:length], [0, number], size=8, crop=crop)


def damaged_jpegs():
    """Yields JPEGs that end as they must, damaged at places all over the file."""
    draw = random.Random(0)
    for progressive in (False, True):
        options = {
            "quality": 90,
            "progressive": progressive,
            "chroma_downsampling": not progressive,
        }
        whole = tf.io.encode_jpeg(picture(3, height=48, width=80), **options).numpy()
        for _ in range(40):
            start = draw.randrange(2, len(whole) - 2)
            part = draw.choice((b"", b"\xff\xd9", b"\xff\xc4", b"\xff\xda", draw.randbytes(2)))
            yield whole[:start] + part + whole[start + draw.choice((0, 1, 2, 90)) : -2] + whole[-2:]


def test_a_damaged_jpeg_is_refused_whole_and_cropped_or_neither():
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)]
    refused, loaded = 0, {}
    for crop in images.TRAINING_CROPS:
        load = tf.function(
            lambda file, seed, crop=crop: images.training_image(file, [0, seed], size=8, crop=crop),
            input_signature=signature,
            autograph=False,
        )
        loaded[crop] = load
    for number, file in enumerate(damaged_jpegs()):
        is_refused = {crop: fails(load, file, number) for crop, load in loaded.items()}
        assert len(set(is_refused.values())) == 1, (number, is_refused)
        refused += is_refused["resize"]
    assert 10 < refused < 70


def fails(load, file, seed):
    try:
        load(tf.constant(file), tf.constant(seed, tf.int64))
    except tf.errors.InvalidArgumentError:
        return True
    return False


@pytest.mark.parametrize(
    "height, width, expected",
    [
        # To 16 pixels: half of 31 is 16, rounded up; a quarter of 61 likewise.
        (31, 80, (16, 40)),
        (30, 80, (30, 80)),
        (61, 64, (16, 16)),
        (1000, 40, (500, 20)),
        (128, 200, (16, 25)),
        (512, 512, (64, 64)),
        (5, 300, (5, 300)),
        (15, 15, (15, 15)),
    ],
)
def test_jpegs_are_decoded_small_but_never_below_the_size(height, width, expected):
    encoded = jpeg(5, height=height, width=width)
    assert images.decode(encoded, size=16).shape[:2] == expected
    assert images.decode(encoded).shape[:2] == (height, width)


def test_a_small_decode_averages_blocks_of_pixels():
    rows, columns = np.meshgrid(np.arange(64), np.arange(96), indexing="ij")
    waves = [np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 11)]
    pixels = (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    encoded = tf.io.encode_jpeg(pixels, quality=95, chroma_downsampling=False).numpy()
    for scale in (2, 4, 8):
        height, width = 64 // scale, 96 // scale
        blocks = pixels.reshape(height, scale, width, scale, 3).mean(axis=(1, 3))
        small = images.decode(encoded, size=height)
        np.testing.assert_allclose(small, blocks, atol=6)


def test_large_crops_are_decoded_small_to_the_same_picture():
    rows, columns = np.meshgrid(np.arange(160), np.arange(160), indexing="ij")
    pixels = np.stack([rows, columns, 255 - rows], axis=-1).astype(np.uint8)
    encoded = tf.io.encode_jpeg(pixels, quality=95, chroma_downsampling=False).numpy()
    for number in range(20):
        # Boxes are up to 160 pixels wide: scales of 1, 2, 4 and 8 all occur.
        small, full = (
            images.training_image(bytes_, [0, number], size=12, crop="random_resized_crop")
            for bytes_ in (encoded, png(images.decode(encoded)))
        )
        # A box starts and ends at whole pixels of the small image: it starts up to 7 pixels of the
        # large one early, and ends up to 14 early.
        np.testing.assert_allclose(small, full.numpy().astype(int), atol=16)


def test_pngs_are_decoded_in_full():
    pixels = picture(5, height=64, width=64)
    np.testing.assert_array_equal(images.decode(png(pixels), size=8), pixels)


def test_shapes_are_static_in_a_dataset():
    dataset = tf.data.Dataset.from_tensors(jpeg())
    for crop in images.TRAINING_CROPS:
        made = dataset.map(lambda x, crop=crop: images.training_image(x, SEED, size=8, crop=crop))
        assert made.element_spec == tf.TensorSpec([8, 8, 3], tf.uint8)
    for resize in images.EVALUATION_RESIZES:
        made = dataset.map(lambda x, how=resize: images.evaluation_image(x, size=8, resize=how))
        assert made.element_spec == tf.TensorSpec([8, 8, 3], tf.uint8)


def test_unknown_ways_to_crop_are_errors():
    with pytest.raises(ValueError, match="`crop` must be one of 'resize', 'random_resized_crop'"):
        images.training_image(jpeg(), SEED, size=8, crop="inception")
    with pytest.raises(ValueError, match="`resize` must be one of 'resize', 'central_crop'"):
        images.evaluation_image(jpeg(), size=8, resize="center")
