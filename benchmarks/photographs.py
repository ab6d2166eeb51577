"""Synthetic photographs for benchmarks."""

import numpy as np
import tensorflow as tf

WORDS = [
    "a",
    "an",
    "the",
    "red",
    "old",
    "small",
    "dog",
    "man",
    "tree",
    "house",
    "runs",
    "stands",
    "sits",
    "under",
    "on",
    "beside",
]
# With these a photograph has about 100 kB.
COLOUR, QUALITY = 0.2, 65


def write_photographs(path: str, count: int, *, height: int = 480, width: int = 640) -> str:
    """Writes JPEGs of some 100 kB (at 640 x 480) and captions: noise with a photograph's spectrum.

    Returns:
      The path.
    """
    random = np.random.default_rng(0)
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    fall = 1 / (frequencies + 1 / width)  # Of amplitudes, as in images of nature.
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(count):
            noise = random.normal(size=[height, width, 1]) + COLOUR * random.normal(
                size=[height, width, 3]
            )
            spectrum = np.fft.rfft2(noise, axes=(0, 1)) * fall[..., None]
            pixels = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
            pixels = np.clip(128 + 50 * pixels / pixels.std(), 0, 255).astype(np.uint8)
            jpeg = tf.io.encode_jpeg(pixels, quality=QUALITY).numpy()
            writer.write(_example(jpg=jpeg, caption=" ".join(random.choice(WORDS, 10)).encode()))
    return path


def _example(**features):
    lists = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()
