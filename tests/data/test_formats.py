"""Every format with every property is decoded as a viewer shows it, here: as Pillow does.

Each file goes through the whole decoder, through random crops and through the exported graph.
"""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from limoe_tf.data import images
from limoe_tf.export import files

SIZES = [(40, 56), (37, 21)]
SIDE = 16
# Differences of decoders: libjpeg's own between its methods, and WebP's of chroma.
OF_JPEG, OF_WEBP, OF_ROUNDING = 14, 4, 1


def smooth(height, width, channels):
    """Waves in which neighbours are alike, so that lossy formats change little."""
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    waves = [128 + 100 * np.sin(rows / (7 + c) + columns / (11 - c) + c) for c in range(channels)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x112] = orientation
    return data.tobytes()


def sixteen_bits(array):
    """A PNG of 16 bits whose upper bytes are `array`."""
    return tf.io.encode_png(array.astype(np.uint16) * 256 + 77).numpy()


def cases(size):
    """Yields (name, bytes, tolerance) of files of some (height, width)."""
    colours, with_alpha = smooth(*size, 3), smooth(*size, 4)
    rgb, rgba = Image.fromarray(colours), Image.fromarray(with_alpha)
    grey, palette = rgb.convert("L"), rgb.quantize(16)
    for orientation in range(1, 9):
        turned = exif(orientation)
        jpeg = saved(rgb, "JPEG", quality=95, subsampling=0, exif=turned)
        yield f"jpeg, orientation {orientation}", jpeg, OF_JPEG
        yield f"png, orientation {orientation}", saved(rgba, "PNG", exif=turned), OF_ROUNDING
        webp = saved(rgba, "WEBP", lossless=True, exact=True, exif=turned)
        yield f"webp, orientation {orientation}", webp, OF_ROUNDING
    for quality, subsampling in [(75, 2), (90, 1), (100, 0)]:
        jpeg = saved(rgb, "JPEG", quality=quality, subsampling=subsampling)
        yield f"jpeg, quality {quality}", jpeg, 2 * OF_JPEG
    yield "jpeg, progressive", saved(rgb, "JPEG", quality=95, progressive=True), 2 * OF_JPEG
    yield "jpeg, grey", saved(grey, "JPEG", quality=95), OF_JPEG
    yield "jpeg, CMYK", saved(rgb.convert("CMYK"), "JPEG", quality=95), OF_JPEG
    for mode in ("RGB", "RGBA", "L", "LA", "1"):
        image = (rgba if "A" in mode else rgb).convert(mode)
        yield f"png, {mode}", saved(image, "PNG"), OF_ROUNDING
    yield "png, palette", saved(palette, "PNG"), OF_ROUNDING
    yield "png, palette, one transparent", saved(palette, "PNG", transparency=3), OF_ROUNDING
    shares = bytes([0, 90, 180])
    yield "png, palette, shares", saved(palette, "PNG", transparency=shares), OF_ROUNDING
    level = int(np.asarray(grey)[0, 0])
    yield "png, grey, one transparent", saved(grey, "PNG", transparency=level), OF_ROUNDING
    for channels in (1, 3):
        yield f"png, 16 bits, {channels}", sixteen_bits(colours[..., :channels]), OF_ROUNDING
    yield "webp", saved(rgb, "WEBP", quality=95), OF_WEBP
    yield "webp, alpha", saved(rgba, "WEBP", lossless=True, exact=True), OF_ROUNDING
    yield "gif", saved(palette, "GIF"), OF_ROUNDING
    yield "gif, interlaced", saved(palette, "GIF", interlace=1), OF_ROUNDING
    yield "gif, transparent", saved(palette, "GIF", transparency=3), OF_ROUNDING
    for mode in ("RGB", "L", "P", "1"):
        yield f"bmp, {mode}", saved(rgb.convert(mode), "BMP"), OF_ROUNDING


CASES = [(f"{name}, {s}", *rest) for s in SIZES for name, *rest in cases(s)]


def shown(encoded):
    """The pixels that Pillow shows, transparent ones on white."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    if image.mode.startswith("I"):  # 16 bits: the upper ones.
        return np.repeat((np.asarray(image, np.int64) >> 8)[..., np.newaxis], 3, axis=-1)
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(ground, image).convert("RGB"), np.int64)


def compiled(function):
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(function, input_signature=signature, autograph=False)


def difference(found, expected):
    """The largest difference between two images; infinite if their sizes differ."""
    if found.shape != expected.shape:
        return np.inf
    return np.abs(found.astype(np.int64) - expected.astype(np.int64)).max()


# One test goes through all files: Keras' fresh start of each test forgets what TensorFlow has made
# of a graph, which takes longer than a hundred images.
def test_files_are_decoded_as_viewers_show_them():
    decode = compiled(images.decode)
    faults = {}
    for name, encoded, tolerance in CASES:
        if (found := difference(decode(encoded).numpy(), shown(encoded))) > tolerance:
            faults[name] = found
    assert faults == {}


def test_random_crops_are_those_of_the_upright_picture():
    crop = compiled(
        lambda file: images.training_image(file, [3, 5], size=SIDE, crop="random_resized_crop")
    )
    faults = {}
    for name, encoded, tolerance in CASES:
        upright = saved(Image.fromarray(shown(encoded).astype(np.uint8)), "PNG")
        # JPEGs are decoded at the smallest scale that will do, which averages pixels.
        allowed = 4 * OF_JPEG if tolerance >= OF_JPEG else tolerance
        if (found := difference(crop(encoded).numpy(), crop(upright).numpy())) > allowed:
            faults[name] = found
    assert faults == {}


def test_the_exported_graph_gives_what_evaluation_gives():
    encoded = [case[1] for case in CASES]
    evaluate = compiled(lambda file: images.evaluation_image(file, size=SIDE))
    export = tf.function(files.evaluation_images, autograph=False)
    found = export(tf.constant(encoded), size=SIDE, resize="resize").numpy()
    np.testing.assert_array_equal(found, [evaluate(one).numpy() for one in encoded])


def claimed(form, side):
    """A small file whose header claims another size, of `side` pixels each way."""
    image = Image.fromarray(smooth(8, 8, 3))
    if form == "png":
        encoded = saved(image, "PNG")
        return encoded[:16] + struct.pack(">II", side, side) + encoded[24:]
    if form in ("jpeg", "jpeg, progressive"):
        encoded = saved(image, "JPEG", progressive=form != "jpeg")
        start = encoded.index(b"\xff\xc2" if form != "jpeg" else b"\xff\xc0") + 5
        return encoded[:start] + struct.pack(">HH", side, side) + encoded[start + 4 :]
    if form == "gif":
        encoded = saved(image, "GIF")
        frame = encoded.index(b"\x2c\0\0\0\0") + 5
        size = struct.pack("<HH", side, side)
        return encoded[:6] + size + encoded[10:frame] + size + encoded[frame + 4 :]
    if form == "webp":
        encoded = saved(image, "WEBP", lossless=True)
        bits = (side - 1) | (side - 1) << 14
        start = encoded.index(b"VP8L") + 9
        return encoded[:start] + struct.pack("<I", bits) + encoded[start + 4 :]
    encoded = saved(image, "BMP")
    return encoded[:18] + struct.pack("<ii", side, -side) + encoded[26:]  # From the top down.


@pytest.mark.parametrize("form", ["jpeg", "jpeg, progressive", "png", "gif", "webp", "bmp"])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(form):
    # 16,384 is what WebP can say; 50,000 times 50,000 is more than 2**31.
    for side in (16_384, *(() if form == "webp" else (50_000,))):
        encoded = claimed(form, side)
        assert images.num_pixels(encoded).numpy() == side**2
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            images.decode(tf.constant(encoded))
        assert images.refusal(error.value) == "image of more than 100000000 pixels"
