"""Sends random and damaged images to an exported model, and looks at what it answers.

    .venv/bin/python -m benchmarks.damage_requests [--count=3000] [--seed=0]

A request of undamaged images must be answered with the embeddings of its images. A request with
others must be answered with finite embeddings of length 1, or refused in an error that names the
images. The process must not need more memory than `--max_megabytes`.
"""

import argparse
import collections
import io
import os
import random
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import timing
from limoe_tf import Limoe
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.export import saved_model

SIGNATURES = ("encode_image_bytes", "classify_bytes", "similarity_bytes")
OTHERS = {"classify_bytes": ("classes",), "similarity_bytes": ("texts",)}
WORDS = ["a red circle", "a blue star"]
NAMED = re.compile(r"Images must be .* Received others at\] \[([\d ]+)\]")
# Of headers: sides that are nothing, overflow or take too much memory.
SIDES = (0, 1, 10_000, 46_341, 65_535, 2**31 - 1, 2**32 - 1)


class Request(NamedTuple):
    """A request, and what was done to its images.

    Attributes:
      kind: one of `KINDS`.
      signature: one of `SIGNATURES`.
      images: bytes of each image.
      whole: whether each of them is undamaged.
    """

    kind: str
    signature: str
    images: list[bytes]
    whole: list[bool]


def make_model(folder: str) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """Exports a tiny model, and returns the signatures of what was written."""
    path = os.path.join(folder, "words.model")
    train_vocabulary(WORDS * 9, path=path, size=16, exact_size=False, algorithm="bpe")
    vocabulary = Vocabulary(path, text_length=4)
    model = Limoe(
        width=8, depth=1, num_heads=2, hidden_width=8, patch_size=4, image_size=8, text_length=4,
        vocabulary_size=vocabulary.size, num_experts=4, plan=("sparse",),
    )  # fmt: skip
    saved_model.export(model, vocabulary, os.path.join(folder, "model"))
    return tf.saved_model.load(os.path.join(folder, "model")).signatures


def make_images() -> list[bytes]:
    """Returns small images in all formats, with what makes each of them special."""
    draw = np.random.default_rng(0)
    found = []
    for height, width in ((24, 31), (64, 48)):
        waves = np.sin(np.add.outer(np.arange(height) / 5, np.arange(width) / 7))
        values = 128 + 90 * waves[..., np.newaxis] + draw.integers(-30, 30, (height, width, 4))
        rgba = Image.fromarray(values.astype(np.uint8))
        rgb, palette = rgba.convert("RGB"), rgba.convert("RGB").quantize(16)
        exif = Image.Exif()
        exif[0x112] = 6
        for image, form, options in (
            (rgb, "JPEG", {"exif": exif}),
            (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
            (rgb.convert("CMYK"), "JPEG", {}),
            (rgb, "PNG", {}),
            (rgba, "PNG", {"exif": exif}),
            (palette, "PNG", {"transparency": 3}),
            (rgb, "WEBP", {}),
            (rgba, "WEBP", {"lossless": True, "exif": exif}),
            (palette, "GIF", {}),
            (palette, "GIF", {"transparency": 3, "interlace": 1}),
            (rgb, "BMP", {}),
            (rgba, "BMP", {}),
            (palette, "BMP", {}),
        ):
            file = io.BytesIO()
            image.save(file, form, **options)
            found.append(file.getvalue())
    return found


def _undamaged(data, draw):
    return data


def _of_random_bytes(data, draw):
    start = data[: draw.choice((0, 3, 12, 30))]
    return start + draw.randbytes(draw.randrange(500))


def _with_other_bytes(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 40))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _with_other_header(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice((1, 2, 4))):
        data[draw.randrange(min(len(data), 64))] = draw.choice((0, 1, 127, 128, 255))
    return bytes(data)


def _with_large_sides(data, draw):
    width = draw.choice((2, 4))
    sides = b"".join(
        (draw.choice(SIDES) % 256**width).to_bytes(width, draw.choice(("big", "little")))
        for _ in range(2)
    )
    places = [data.find(mark) + 5 for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data]
    start = draw.choice((*places, 6, 16, 18, 21, 24, 26))
    return data[:start] + sides + data[start + len(sides) :]


def _cut(data, draw):
    return data[: draw.randrange(len(data))]


def _with_a_part_missing(data, draw):
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 100) :]


def _with_a_part_twice(data, draw):
    start = draw.randrange(len(data))
    part = data[start : start + draw.randrange(1, 300)]
    return data[:start] + part * draw.choice((2, 3, 200)) + data[start + len(part) :]


KINDS = {
    "undamaged": _undamaged,
    "random bytes": _of_random_bytes,
    "bytes changed": _with_other_bytes,
    "header changed": _with_other_header,
    "large sides": _with_large_sides,
    "truncated": _cut,
    "a part missing": _with_a_part_missing,
    "a part repeated": _with_a_part_twice,
}


def make_requests(count: int, seed: int) -> Iterator[Request]:
    """Yields requests of one to four images, all kinds of damage in turn."""
    draw, images = random.Random(seed), make_images()
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        originals = [draw.choice(images) for _ in range(draw.choice((1, 1, 2, 4)))]
        damaged = draw.randrange(len(originals))
        sent = [
            KINDS[kind](data, draw) if place == damaged else data
            for place, data in enumerate(originals)
        ]
        whole = [one == original for one, original in zip(sent, originals)]
        yield Request(kind, draw.choice(SIGNATURES), sent, whole)


def send(signatures: dict, request: Request) -> tuple[str, str | None]:
    """Sends a request.

    Returns:
      "answered" or "refused", and what is wrong with that, or None.
    """
    others = {name: tf.constant(WORDS) for name in OTHERS.get(request.signature, ())}
    try:
        found = signatures[request.signature](images=tf.constant(request.images), **others)
    except tf.errors.InvalidArgumentError as error:
        named = NAMED.search(error.message)
        if named is None:
            return "refused", f"the error does not name images: {error.message[:300]}"
        wrong = [place for place in map(int, named[1].split()) if request.whole[place]]
        return "refused", f"undamaged images at {wrong} are refused" if wrong else None
    return "answered", _fault_of(found, len(request.images))


def _fault_of(found, count):
    for name, values in found.items():
        values = values.numpy()
        if len(values) != count or not np.isfinite(values).all():
            return f"{name} is not finite, or of another number of images"
        if name == "embeddings" and np.abs(np.linalg.norm(values, axis=1) - 1).max() > 1e-3:
            return "an embedding is not of length 1"
    return None


def compare(
    signatures: dict, *, count: int, seed: int, progress: Callable[[str], object]
) -> tuple[collections.Counter, list[str]]:
    """Sends requests.

    Args:
      signatures: of the exported model.
      count: requests.
      seed: of what is sent.
      progress: called with a line now and then.

    Returns:
      Counter of (kind, "answered" or "refused"), and a line for each fault.
    """
    done, faults = collections.Counter(), []
    for number, request in enumerate(make_requests(count, seed)):
        outcome, fault = send(signatures, request)
        done[request.kind, outcome] += 1
        if fault:
            faults.append(f"request {number} ({request.kind}, {request.signature}): {fault}")
        if (number + 1) % 250 == 0 or number + 1 == count:
            progress(f"{number + 1:,} of {count:,} requests, {len(faults)} faults")
    return done, faults


def table(done: collections.Counter) -> str:
    """Returns how often requests of each kind were answered and refused."""
    rows = [[kind, *(str(done[kind, how]) for how in ("answered", "refused"))] for kind in KINDS]
    return timing.grid(["damage to one image", "answered", "refused"], rows)


def peak_megabytes() -> float:
    """Returns the most memory that this process has needed, in MB."""
    # Linux counts in kB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_megabytes", type=float, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        signatures = make_model(folder)
        done, faults = compare(
            signatures, count=options.count, seed=options.seed, progress=print
        )  # fmt: skip
    print(table(done))
    if (peak := peak_megabytes()) > options.max_megabytes:
        faults.append(f"{peak:,.0f} MB of memory")
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{len(faults)} faults, peak memory {peak:,.0f} MB")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
