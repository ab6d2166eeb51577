import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from limoe_tf.data import images
from limoe_tf.data.formats import bmp

PALETTE = [(37 * i + 11) % 256 for i in range(3 * 16)]


def packed(bits, height=5, width=7):
    """Rows of a BMP, each filled up to 4 bytes."""
    draw = np.random.default_rng(bits)
    if bits >= 8:
        rows = draw.integers(0, 16 if bits == 8 else 256, (height, width * bits // 8), np.uint8)
    else:
        digits = draw.integers(0, 2, (height, -(-width * bits // 8) * 8), np.uint8)
        rows = np.packbits(digits, axis=1)
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()


def file(bits, *, height=5, width=7, oldest=False, top_down=False, colours=0):
    """A BMP with a header of 12 or of 40 bytes."""
    count = (colours or 2**bits) if bits <= 8 else 0
    entries = [bytes(PALETTE[3 * i : 3 * i + 3]).ljust(3, b"\x55") for i in range(count)]
    palette = b"".join(one if oldest else one + b"\0" for one in entries)
    if oldest:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        size = width, -height if top_down else height
        header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 0, 0, 0, 0, colours, 0)
    start = 14 + len(header) + len(palette)
    data = header + palette + packed(bits, height, width)
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, start) + data


def test_every_depth_header_and_order_of_rows_is_decoded_as_pillow_does():
    decode = tf.function(images.decode, input_signature=[tf.TensorSpec([], tf.string)])
    for bits in (1, 4, 8, 24, 32):
        for options in ({}, {"top_down": True}, {"oldest": True}, {"colours": 16}):
            if (bits == 32 and "oldest" in options) or (bits not in (8,) and "colours" in options):
                continue
            encoded = file(bits, **options)
            expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
            np.testing.assert_array_equal(decode(encoded), expected, err_msg=f"{bits} {options}")


def with_masks(*masks, size=56):
    """A BMP of 32 bits with masks of its channels."""
    header = struct.pack("<IiiHHIIiiII", size, 7, 5, 1, 32, 3, 0, 0, 0, 0, 0)
    header += struct.pack("<4I", *masks)[: max(size - 40, 12)]
    data = header.ljust(size, b"\0") + packed(32)
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 14 + max(size, 52)) + data


def test_the_fourth_channel_is_alpha_where_a_mask_says_so():
    usual = 0xFF0000, 0xFF00, 0xFF
    with_alpha = images.decode(tf.constant(with_masks(*usual, 0xFF000000))).numpy()
    without = images.decode(tf.constant(with_masks(*usual, 0))).numpy()
    image = Image.open(io.BytesIO(with_masks(*usual, 0xFF000000)))
    ground = Image.new("RGBA", image.size, "white")
    expected = np.asarray(Image.alpha_composite(ground, image).convert("RGB"), int)
    np.testing.assert_allclose(with_alpha, expected, atol=1)
    np.testing.assert_array_equal(without, np.asarray(image)[..., :3])


@pytest.mark.parametrize(
    "encoded, reason",
    [
        (file(24)[:28] + b"\x10\0" + file(24)[30:], bmp.OTHER_KIND),  # 16 bits a pixel.
        (file(8)[:30] + b"\1\0\0\0" + file(8)[34:], bmp.OTHER_KIND),  # Runs.
        (with_masks(0xFF, 0xFF00, 0xFF0000, 0), bmp.OTHER_KIND),
        (file(8)[:14] + b"\x39" + file(8)[15:], bmp.OTHER_KIND),
        (file(24)[:-1], bmp.TRUNCATED),
        (file(24)[:40], bmp.TRUNCATED),
        (file(24)[:20], "image without a valid size"),
    ],
    ids=range(7),
)
def test_other_kinds_are_refused(encoded, reason):
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        images.decode(tf.constant(encoded))
    assert images.refusal(error.value) == reason
