import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from limoe_tf.data import images
from limoe_tf.data.formats import gif

COMMENT = b"\x21\xfe\x05hello\x03you\x00"


def parts(height=20, width=30, **options):
    """A GIF as dict of its parts: head with palette, control, frame, coded, in blocks of bytes."""
    values = np.add.outer(np.arange(height), np.arange(width)) % 11
    image = Image.fromarray(values.astype(np.uint8), "P")
    image.putpalette([(37 * i + 11) % 256 for i in range(3 * 11)])
    file = io.BytesIO()
    image.save(file, "GIF", **options)
    data = file.getvalue()
    head = 13 + 3 * (2 << (data[10] & 7))
    frame = data.index(b"\x2c\0\0\0\0", head)
    return {
        "head": data[:head],
        "control": data[head:frame],
        "frame": data[frame : frame + 10],
        "coded": data[frame + 10 : -1],
    }


def joined(found, end=b";"):
    return b"".join(found.values()) + end


def in_blocks(coded, size):
    """The same coded pixels in other blocks."""
    data, place = b"", 1
    while coded[place]:
        data += coded[place + 1 : place + 1 + coded[place]]
        place += 1 + coded[place]
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    return coded[:1] + b"".join(bytes([len(one)]) + one for one in blocks) + b"\0"


def shown(encoded):
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"))


def placed(found, screen, left, top):
    """The frame elsewhere on a screen of (width, height)."""
    head = found["head"][:6] + struct.pack("<HH", *screen) + found["head"][10:]
    frame = b"," + struct.pack("<HH", left, top) + found["frame"][5:]
    return {**found, "head": head, "frame": frame}


def test_a_frame_lies_where_it_belongs_on_the_screen():
    for options in ({}, {"transparency": 4}, {"interlace": 1}):
        found = parts(**options)
        for screen, left, top in (
            ((50, 40), 0, 0),
            ((50, 40), 20, 20),
            ((50, 40), 7, 3),
            ((30, 20), 5, 5),  # Partly outside: the screen grows.
            ((3, 50), 0, 0),
            ((0, 0), 0, 0),
        ):
            encoded = joined(placed(found, screen, left, top))
            expected = shown(encoded)
            np.testing.assert_array_equal(images.decode(tf.constant(encoded)), expected)
            assert images.num_pixels(encoded) == expected.shape[0] * expected.shape[1]


def test_blocks_of_any_size_and_extensions_are_passed():
    found = parts(transparency=4)
    expected = images.decode(tf.constant(joined(found))).numpy()
    np.testing.assert_array_equal(expected, shown(joined(found)))
    for size in (1, 2, 7, 254, 255):
        coded = in_blocks(found["coded"], size)
        encoded = joined({**found, "control": COMMENT + found["control"], "coded": coded + COMMENT})
        np.testing.assert_array_equal(images.decode(tf.constant(encoded)), expected)


def refusal(encoded):
    with pytest.raises(tf.errors.OpError) as error:
        images.decode(tf.constant(encoded))
    return images.refusal(error.value)


def test_what_is_no_whole_still_gif_is_refused():
    found = parts()
    assert refusal(joined(found, found["frame"] + found["coded"] + b";")) == gif.ANIMATED
    whole = joined(found)
    for cut in (whole[:-1], whole[:-2], whole[:-9], whole[: len(found["head"]) + 3], whole[:9]):
        assert refusal(cut) == gif.DAMAGED
    nothing = found["frame"][:5] + struct.pack("<HH", 0, 20) + found["frame"][9:]
    assert refusal(joined({**found, "frame": nothing})) == gif.DAMAGED


@pytest.mark.parametrize(
    "screen, left, top, sides", [((1, 1), 0, 0, 65_535), ((65_535, 65_535), 0, 0, 1),
                                 ((2, 2), 65_000, 65_000, 1)]
)  # fmt: skip
def test_a_screen_or_frame_that_is_too_large_is_refused(screen, left, top, sides):
    found = placed(parts(), screen, left, top)
    frame = found["frame"][:5] + struct.pack("<HH", sides, sides) + found["frame"][9:]
    assert refusal(joined({**found, "frame": frame})) == "image of more than 100000000 pixels"
