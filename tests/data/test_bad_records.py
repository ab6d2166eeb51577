"""Kinds of records that are met on the web: each is used or reported, and none stops the run."""

import io
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from limoe_tf.data import batches, sources
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.faults import MAX_CAPTION_BYTES
from limoe_tf.data.words import Vocabulary, train_vocabulary
from tests.data.test_batches import training
from tests.shared.record_files import example, jpeg, write

RED = (200, 10, 10)


def encoded(kind, mode="RGB", size=(20, 20), **options):
    """Returns a red image as bytes of a file."""
    file = io.BytesIO()
    Image.new("RGB", size, RED).convert(mode).save(file, kind, **options)
    return file.getvalue()


def pair(image, caption=b"a red square"):
    return example(jpg=image, caption=caption)


def animation(kind):
    blue = Image.new("RGB", (20, 20), (0, 0, 255))
    return encoded(kind, save_all=True, append_images=[blue], duration=100)


def claiming(width, height):
    """Returns a PNG whose header claims a size."""
    sides = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return encoded("PNG")[:16] + sides + encoded("PNG")[24:]


SOUND = pair(encoded("PNG"))
CUT = jpeg(height=60, width=60)[:900]
DEEP = tf.io.encode_png(np.full([20, 20, 3], RED, np.uint16) * 257).numpy()
# An image that says it has 3 GiB, as a varint of seven bits each, the lowest first.
LONG = bytes([0x80 | 3 << 30 >> shift & 0x7F for shift in (0, 7, 14, 21)] + [3 << 30 >> 28])
TOO_LONG = b"\x0a\x17\x0a\x15\x0a\x03jpg\x12\x0e\x0a\x0c\x0a" + LONG + bytes(6)
# Each kind of record with the reason in the report; None for those that are used.
KINDS = {
    "empty record": (b"", "empty record"),
    "record cut by a byte": (SOUND[:-1], "not a tf.train.Example"),
    "length of 3 GiB": (TOO_LONG, "not a tf.train.Example"),
    "key not UTF-8": (SOUND.replace(b"jpg", b"j\xff\xfe"), "not a tf.train.Example"),
    "damaged key": (
        SOUND.replace(b"jpg", b"j\ng"),
        "feature missing or of another type, there are [caption, j\\ng]",
    ),
    "truncated JPEG": (pair(CUT), "image cannot be decoded (JPEG)"),
    "wrong key": (
        example(image=CUT, caption=b"a red square"),
        "feature missing or of another type, there are [caption, image]",
    ),
    "zero-byte image": (pair(b""), "empty image"),
    "1x1 pixel JPEG": (pair(encoded("JPEG", size=(1, 1))), "image of a single pixel"),
    "1x1 pixel PNG": (pair(encoded("PNG", size=(1, 1))), "image of a single pixel"),
    "CMYK JPEG": (pair(encoded("JPEG", "CMYK")), None),
    "16-bit PNG": (pair(DEEP), None),
    "still GIF": (pair(encoded("GIF")), None),
    "animated GIF": (pair(animation("GIF")), "image cannot be decoded (animated GIF)"),
    "still WebP": (pair(encoded("WEBP", lossless=True)), None),
    "animated WebP": (pair(animation("WEBP")), "image cannot be decoded (animated WebP)"),
    "truncated WebP": (pair(encoded("WEBP")[:-9]), "image cannot be decoded (WebP)"),
    "truncated GIF": (
        pair(encoded("GIF")[:-9]),
        "image cannot be decoded (truncated or damaged GIF)",
    ),
    "truncated BMP": (pair(encoded("BMP")[:-9]), "image cannot be decoded (truncated BMP)"),
    "large PNG": (pair(claiming(50_000, 50_000)), "image of more than 100000000 pixels"),
    "PNG without pixels": (pair(claiming(0, 9)), "image without a valid size"),
    "TIFF": (pair(encoded("TIFF")), "image cannot be decoded (TIFF)"),
    "AVIF": (pair(encoded("AVIF")), "image cannot be decoded (AVIF)"),
    "web page": (
        pair(b"<!DOCTYPE html><html><title>404</title></html>"),
        "image cannot be decoded (HTML)",
    ),
    "random bytes": (
        pair(b"no image"),
        "image cannot be decoded (neither JPEG, PNG, GIF, WebP nor BMP)",
    ),
    "caption not UTF-8": (pair(encoded("PNG"), b"a r\xe9d square"), "caption is not UTF-8"),
    "100 kB caption": (
        pair(encoded("PNG"), b"a red square " * 8000),
        f"caption of more than {MAX_CAPTION_BYTES} bytes",
    ),
    "one caption of two not UTF-8": (
        pair(encoded("PNG"), [b"a red square", b"\xff"]),
        "caption is not UTF-8",
    ),
}
REASONS = {(number, reason) for number, (_, reason) in enumerate(KINDS.values()) if reason}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("words") / "words.model")
    train_vocabulary(["a red square"] * 9, path=path, size=16, exact_size=False, algorithm="bpe")
    return Vocabulary(path, text_length=6)


@pytest.mark.parametrize("crop", ["resize", "random_resized_crop"])
def test_each_record_of_a_shard_is_used_or_reported(tmp_path, vocabulary, crop):
    path = write(tmp_path / "shard", [record for record, _ in KINDS.values()] + [SOUND] * 2)
    num_records = len(KINDS) + 2
    bad_records = BadRecords(max_share=0.9)
    dataset = batches.training_batches(
        sources.TfrecordSource(path),
        vocabulary=vocabulary,
        batch_size=num_records,
        image_size=8,
        seed=0,
        crop=crop,
        shuffle_window=num_records,
        bad_records=bad_records,
    )
    for batch in dataset.take(3):
        # Every valid record is a red image with the caption "a red square".
        assert np.abs(batch["image"].numpy() - np.array(RED, np.float32)).max() <= 3
        text, _ = vocabulary(["a red square"] * num_records)
        np.testing.assert_array_equal(batch["text"], text)
    assert places(bad_records, path) == REASONS


def test_captions_and_evaluation_leave_out_the_same_records(tmp_path):
    path = write(tmp_path / "shard", [record for record, _ in KINDS.values()] + [SOUND])
    counted = {"captions": BadRecords(), "evaluation": BadRecords()}
    captions = list(
        batches.all_captions(sources.TfrecordSource(path), bad_records=counted["captions"])
    )
    images = batches.evaluation_batches(
        sources.TfrecordSource(path),
        batch_size=4,
        image_size=8,
        bad_records=counted["evaluation"],
    )
    assert sum(batch["image"].shape[0] for batch in images) == len(KINDS) + 1 - len(REASONS)
    assert places(counted["evaluation"], path) == REASONS
    # Images are not looked at when captions are read.
    of_images = {(number, reason) for number, reason in REASONS if "image" in reason.split()[:2]}
    assert places(counted["captions"], path) == REASONS - of_images
    assert captions == ["a red square"] * (len(KINDS) + 1 - len(REASONS - of_images))


def test_reasons_that_quote_records_are_not_kept_without_end(tmp_path):
    records = [SOUND.replace(b"jpg", f"{i:03}".encode()) for i in range(150)]
    bad_records = BadRecords(max_share=1.0)
    source = sources.TfrecordSource(write(tmp_path / "shard", [SOUND, *records]))
    list(batches.evaluation_batches(source, batch_size=8, image_size=8, bad_records=bad_records))
    assert bad_records.count == 150 and len(bad_records.reasons) == 101
    assert bad_records.reasons["other reasons"] == 50
    assert bad_records.report().endswith("; 81 more reasons")


def test_a_caption_of_the_largest_size_is_used(tmp_path):
    longest = b"a" * MAX_CAPTION_BYTES
    path = write(tmp_path / "shard", [pair(b"", longest), pair(b"", longest + b"a")])
    bad_records = BadRecords()
    source = sources.TfrecordSource(path)
    assert list(batches.all_captions(source, bad_records=bad_records)) == [longest.decode()]
    assert bad_records.count == 1


def test_a_source_of_bad_records_stops_and_does_not_search_for_ever(tmp_path):
    source = sources.TfrecordSource(write(tmp_path / "bad", [b"no example"] * 9))
    message = "At least one record must be valid. Received: .* x not a tf.train.Example"
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        next(iter(training(source, bad_records=BadRecords(max_share=1.0))))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(batches.evaluation_batches(source, batch_size=8, image_size=12))
    with pytest.raises(ValueError, match="At least one record must be valid. Received: 9 bad"):
        list(batches.all_captions(source))


def places(bad_records, path):
    """Returns the number in the file and the reason of each record in a report."""
    reported = re.findall(r"\d+ x (.+?) \(((?:/[^ ]+ record \d+(?:, )?)+)", bad_records.report())
    return {
        (int(number), reason)
        for reason, listed in reported
        for number in re.findall(f"{path} record (\\d+)", listed)
    }
