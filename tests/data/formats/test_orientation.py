import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from limoe_tf.data import images
from limoe_tf.data.formats import orientation

TAG = 0x112
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'


def exif(*entries, order="<"):
    """EXIF data of entries: tag, type, count, and their value as 4 bytes or as a number."""
    packed = b"".join(
        struct.pack(f"{order}HHI", *head)
        + (value if isinstance(value, bytes) else two(value, order))
        for *head, value in entries
    )
    letters = b"II" if order == "<" else b"MM"
    return letters + struct.pack(f"{order}HIH", 42, 8, len(entries)) + packed + bytes(4)


def two(value, order):
    return struct.pack(f"{order}Hxx", value)


def four(value, order):
    return struct.pack(f"{order}I", value)


def of_pillow(data):
    """The orientation that Pillow finds in EXIF data; 0 if none."""
    found = Image.Exif()
    found.load(data)
    return found.get(TAG, 0)


@pytest.mark.parametrize("order", "<>")
def test_exif_data_are_read_as_pillow_reads_them(order):
    maker = (0x10F, 2, 3, b"me\0\0")
    right = exif(maker, (TAG, 3, 1, 6), (0x128, 3, 1, 2), order=order)
    for data, expected in (
        (right, 6),
        (b"Exif\0\0" + right, 6),
        (b"Exif\0\0Exif\0\0" + right, 6),
        (exif((TAG, 4, 1, four(8, order)), order=order), 8),
        (exif((TAG, 3, 1, 3), (TAG, 3, 1, 5), order=order), 3),
        (exif(maker, order=order), 0),
        (exif(order=order), 0),
        (right[: 10 + 24], 6),  # Cut behind the entry.
    ):
        assert of_pillow(data) == expected
        assert orientation.stated(data, b"") == expected
    for data, expected in (
        (exif((TAG, 3, 2, 6), order=order), 1),  # Two numbers say nothing; the entry is there.
        (exif((TAG, 2, 2, b"6\0\0\0"), order=order), 1),
        (exif((TAG, 3, 1, 0), order=order), 1),
        (exif((TAG, 3, 1, 9), order=order), 1),
        (right[:15], 0),
        (b"XX" + right[2:], 0),
        (b"", 0),
    ):
        assert orientation.stated(data, b"") == expected, data


def test_xmp_data_count_where_exif_data_say_nothing():
    assert orientation.stated(b"", XMP % 8) == 8
    assert orientation.stated(b"", b"<tiff:Orientation>3</tiff:Orientation>") == 3
    assert orientation.stated(exif((TAG, 3, 1, 6)), XMP % 8) == 6
    assert orientation.stated(exif((0x128, 3, 1, 2)), XMP % 8) == 8
    for text in (XMP % 9, b"tiff:Orientation", b"\xff tiff:Orientation=6", b""):
        assert orientation.stated(b"", text) == 0


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_files_with_xmp_alone_and_with_much_in_front_are_turned(form):
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:12, :20, 0], pixels[12:, 20:, 2] = 255, 255
    file = io.BytesIO()
    options = {"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
    Image.fromarray(pixels).save(file, form, xmp=XMP % 6, **options)
    encoded = file.getvalue()
    if form == "PNG":  # Pillow does not write it.
        text = b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + XMP % 6
        chunk = struct.pack(">I", len(text) - 4) + text + four(zlib.crc32(text), ">")
        encoded = encoded[:33] + chunk + encoded[33:]
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))), int)
    assert upright.shape == (40, 24, 3)
    with_more = encoded
    if form == "JPEG":  # Segments, bytes of filling, and bytes that belong to nothing.
        more = (b"\xff\xe2\x40\x00" + b"ICC" * 5461)[: 2 + 0x4000] * 3 + b"\xff\xff\xff"
        with_more = encoded[:2] + more + encoded[2:]
    for one in (encoded, with_more):
        np.testing.assert_allclose(images.decode(tf.constant(one)), upright, atol=14)


def test_a_box_lies_in_the_stored_image_where_it_lies_in_the_upright_one():
    draw = np.random.default_rng(0)
    for turn, _ in itertools.product(range(9), range(4)):
        stored = draw.integers(0, 256, (draw.integers(2, 9), draw.integers(2, 9), 3), np.uint8)
        turned = orientation.upright(tf.constant(stored), tf.constant(turn, tf.int64)).numpy()
        sides = np.array(turned.shape[:2])
        start = draw.integers(0, sides)
        extent = draw.integers(1, sides - start + 1)
        box = orientation.stored_box(
            tf.constant([*start, *extent], tf.int32),
            tf.constant(sides, tf.int32),
            tf.constant(turn, tf.int64),
        )
        top, left, height, width = box.numpy()
        part = tf.constant(stored[top : top + height, left : left + width])
        found = orientation.upright(part, tf.constant(turn, tf.int64))
        expected = turned[start[0] : start[0] + extent[0], start[1] : start[1] + extent[1]]
        np.testing.assert_array_equal(found, expected)
