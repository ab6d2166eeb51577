import bz2
import gzip
import json
import lzma
import tarfile

import pytest
import tensorflow as tf

from limoe_tf.data import tars, webdataset
from tests.shared.record_files import write_tar

SOUND = [("a.jpg", b"image a"), ("a.txt", b"caption a\n")]
BLOCK = 512


def convert(tar, *, image=("jpg", "png"), caption="txt"):
    return webdataset.convert(tar, f"{tar}.tfrecord", image=list(image), caption=caption)


def records(tar):
    """Returns what was written of a tar: list of (key, image, captions)."""
    found = []
    for record in tf.data.TFRecordDataset(f"{tar}.tfrecord").as_numpy_iterator():
        values = tf.train.Example.FromString(record).features.feature
        (key,), (image,) = values["key"].bytes_list.value, values["jpg"].bytes_list.value
        found.append((key.decode(), image, list(values["caption"].bytes_list.value)))
    return found


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def document(**values):
    return json.dumps(values).encode()


def test_samples_become_records_in_their_order(tmp_path):
    members = [
        *(("shard/b.JPG", b"image b"), ("shard/b.txt", "  a caf\u00e9 ".encode())),
        *(("v1.0/c.json", b"{}"), ("v1.0/c.txt", b"\xef\xbb\xbfc"), ("v1.0/c.png", b"image c")),
        *SOUND,
    ]
    tar = write_tar(tmp_path / "x.tar", members)
    done = convert(tar)
    assert records(tar) == [
        ("shard/b", b"image b", ["a caf\u00e9".encode()]),
        ("v1.0/c", b"image c", [b"c"]),
        ("a", b"image a", [b"caption a"]),
    ]
    size = (tmp_path / "x.tar.tfrecord").stat().st_size
    assert done == webdataset.Converted(
        num_records=3,
        num_bytes=size,
        fault=None,
        left_out={"neither the image nor the caption": ["v1.0/c.json"]},
    )
    assert {path.name for path in tmp_path.iterdir()} == {"x.tar", "x.tar.tfrecord"}


def test_the_first_suffix_that_a_sample_has_is_its_image(tmp_path):
    members = [("a.png", b"png"), ("a.jpg", b"jpg"), ("a.txt", b"a"), ("b.png", b"b"),
               ("b.txt", b"b")]  # fmt: skip
    tar = write_tar(tmp_path / "x.tar", members)
    convert(tar, image=("jpg", "png"))
    assert [image for _, image, _ in records(tar)] == [b"jpg", b"b"]
    convert(tar, image=("png", "jpg"))
    assert [image for _, image, _ in records(tar)] == [b"png", b"b"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_headers_of_every_form_are_read(form, tmp_path):
    key = "folder/" * 14 + "k" * 90
    headers = {"comment": "\u00e9" * 600} if form == tarfile.PAX_FORMAT else None
    tar = write_tar(
        tmp_path / "x.tar",
        [(f"{key}.jpg", b"image"), (f"{key}.txt", b"caption"), *SOUND],
        format=form,
        pax_headers=headers,
    )
    assert convert(tar).num_records == 2
    assert [name for name, *_ in records(tar)] == [key, "a"]


def test_captions_of_json_are_one_or_several(tmp_path):
    members = [
        *(("a.jpg", b"a"), ("a.json", document(caption=" one ", url="x"))),
        *(("b.jpg", b"b"), ("b.json", document(caption=["one", " ", "two\n"]))),
    ]
    tar = write_tar(tmp_path / "x.tar", members)
    assert convert(tar, caption="json:caption").left_out == {}
    assert [captions for *_, captions in records(tar)] == [[b"one"], [b"one", b"two"]]


BAD = [
    ([("k.txt", b"x"), ("k.json", b"{}")], "no image among json, txt", "k.txt k.json"),
    ([("k.jpg", b"x"), ("k.json", b"{}")], "no caption among jpg, json", "k.jpg k.json"),
    ([("k.jpg", b""), ("k.txt", b"x")], "empty image", "k.jpg k.txt"),
    ([("k.jpg", b"x"), ("k.txt", b"")], "empty caption", "k.jpg k.txt"),
    ([("k.jpg", b"x"), ("k.txt", b" \n\t")], "empty caption", "k.jpg k.txt"),
    ([("k.jpg", b"x"), ("k.txt", "\u200b\ufeff".encode())], "empty caption", "k.jpg k.txt"),
    ([("k.jpg", b"x"), ("k.txt", b"caf\xe9")], "caption is not UTF-8", "k.jpg k.txt"),
    (
        [("k.jpg", b"x"), ("k.txt", b"x" * 10_001)],
        "caption of more than 10000 bytes",
        "k.jpg k.txt",
    ),
    ([("a.jpg", b"again"), ("a.txt", b"again")], "duplicate name", "a.jpg a.txt"),
    ([("a.json", b"{}")], "neither the image nor the caption", "a.json"),
    ([member("k", tarfile.DIRTYPE)], "folder", "k"),
    ([member("k.jpg", tarfile.LNKTYPE, "a.jpg")], "link", "k.jpg"),
    ([member("k.jpg", tarfile.SYMTYPE, "a.jpg")], "link", "k.jpg"),
    ([member("k.jpg", tarfile.FIFOTYPE)], "neither file, folder nor link", "k.jpg"),
    ([member("k.jpg", tarfile.GNUTYPE_SPARSE)], "sparse file", "k.jpg"),
    ([("README", b"x")], "name without a key and a suffix", "README"),
    ([("x/._a.jpg", b"x")], "name without a key and a suffix", "x/._a.jpg"),
    ([("\udce9.jpg", b"x")], "no caption among jpg", "\\udce9.jpg"),
    ([("k\n.jpg", b"x")], "no caption among jpg", "k\\n.jpg"),
]


@pytest.mark.parametrize("members, reason, names", BAD)
def test_what_is_wrong_is_left_out_with_a_reason_and_the_rest_goes_on(
    members, reason, names, tmp_path
):
    last = [("z.jpg", b"image z"), ("z.txt", b"caption z")]
    tar = write_tar(tmp_path / "x.tar", [*SOUND, *members, *last])
    done = convert(tar)
    assert (done.left_out, done.fault) == ({reason: names.split(" ")}, None)
    assert records(tar) == [("a", b"image a", [b"caption a"]), ("z", b"image z", [b"caption z"])]
    json.dumps(done.left_out)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'{"caption": "a', "JSON cannot be parsed"),
        (b"[" * 100_000, "JSON cannot be parsed"),
        (b'{"text": "a"}', "JSON without 'caption'"),
        (b'["caption"]', "JSON without 'caption'"),
        (b'{"caption": null}', "'caption' in JSON is neither text nor a list of texts"),
        (b'{"caption": ["a", 1]}', "'caption' in JSON is neither text nor a list of texts"),
        (b'{"caption": ""}', "empty caption"),
        (b'{"caption": []}', "empty caption"),
        (b'{"caption": "\\ud800"}', "caption is not UTF-8"),
        (b'{"caption": "caf\xe9"}', "caption is not UTF-8"),
        (b"", "empty caption"),
    ],
)
def test_json_without_a_caption_is_left_out_with_a_reason(content, reason, tmp_path):
    valid = [("z.jpg", b"z"), ("z.json", document(caption="z"))]
    tar = write_tar(tmp_path / "x.tar", [("k.jpg", b"x"), ("k.json", content), *valid])
    done = convert(tar, caption="json:caption")
    assert (done.num_records, done.left_out) == (1, {reason: ["k.jpg", "k.json"]})


def test_files_of_one_key_that_are_apart_make_no_sample(tmp_path):
    members = [("a.jpg", b"a"), ("b.jpg", b"b"), ("a.txt", b"a"), ("b.txt", b"b")]
    done = convert(write_tar(tmp_path / "x.tar", members))
    assert done.num_records == 0
    assert done.left_out == {
        "no caption among jpg": ["a.jpg", "b.jpg"],
        "apart from its key's other files": ["a.txt", "b.txt"],
    }


def test_of_a_tar_cut_anywhere_all_that_is_whole_is_kept(tmp_path):
    members = []
    for key in "abc":
        members += [(f"{key}.jpg", key.encode() * 700), (f"{key}.txt", b"caption")]
    tar = tmp_path / "x.tar"
    write_tar(tar, members)
    whole = tar.read_bytes()
    # A header and two blocks of image, a header and a block of text.
    sample, text_end = 5 * BLOCK, 4 * BLOCK + len(b"caption")
    for cut in sorted({*range(0, 3 * sample + BLOCK, 128), text_end, text_end - 1, len(whole)}):
        tar.write_bytes(whole[:cut])
        done = convert(str(tar))
        begun, full = ((cut + sample - end) // sample for end in (BLOCK, text_end))
        assert [key for key, *_ in records(tar)] == list("abc"[:full]), cut
        left_out = {name[0] for names in done.left_out.values() for name in names}
        assert left_out == set("abc"[full:begun]), cut
        assert (done.fault is None) == (cut >= 3 * sample + BLOCK), cut


@pytest.mark.parametrize(
    "damage, fault, num_records",
    [
        (lambda tar: tar[:2560] + b"x" * BLOCK + tar[3072:], "damaged header, at byte 2,560", 1),
        (lambda tar: tar + tar, "more data after the end mark at byte 4,608", 2),
        (lambda tar: b"<html>" * 200, "HTML or XML, no tar", 0),
        (lambda tar: b"", "empty file", 0),
        (lambda tar: tar[:100], "truncated header", 0),
    ],
)
def test_a_damaged_tar_is_read_as_far_as_possible_and_reported(
    damage, fault, num_records, tmp_path
):
    members = [("a.jpg", b"x" * 600), ("a.txt", b"a"), ("b.jpg", b"b"), ("b.txt", b"b")]
    tar = tmp_path / "x.tar"
    write_tar(tar, members)
    tar.write_bytes(damage(tar.read_bytes()))
    done = convert(str(tar))
    assert fault in done.fault
    assert done.num_records == num_records


def test_a_key_that_comes_again_is_left_out(tmp_path):
    tar = write_tar(tmp_path / "x.tar", [*SOUND, ("b.jpg", b"b"), ("b.txt", b"b"), *SOUND])
    done = convert(tar)
    assert (done.num_records, done.left_out) == (2, {"duplicate key": ["a.jpg", "a.txt"]})


@pytest.mark.parametrize(
    "pack, kind",
    [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"),
     (lambda tar: b"\x28\xb5\x2f\xfd" + tar, "zstd")],
)  # fmt: skip
def test_a_compressed_tar_says_so(pack, kind, tmp_path):
    tar = tmp_path / "x.tar"
    write_tar(tar, SOUND)
    tar.write_bytes(pack(tar.read_bytes()))
    done = convert(str(tar))
    assert done.fault == f"compressed with {kind}; it must be decompressed first"
    assert done.num_records == 0


def test_a_folder_is_no_tar(tmp_path):
    (tmp_path / "x.tar").mkdir()
    assert convert(str(tmp_path / "x.tar")) == (0, 0, "folder, no tar", {})


def test_sizes_that_headers_claim_take_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MAX_FILE_BYTES", 10_000)
    tar = write_tar(tmp_path / "x.tar", [*SOUND, ("b.jpg", bytes(10_001)), ("b.txt", b"b")])
    assert convert(tar).left_out == {"image is larger than 0 MiB": ["b.jpg", "b.txt"]}
    huge = tarfile.TarInfo("c.jpg")
    huge.size = 1 << 60
    content = (tmp_path / "x.tar").read_bytes()
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        huge.type = kind
        (tmp_path / "x.tar").write_bytes(content[:2048] + huge.tobuf(tarfile.GNU_FORMAT))
        done = convert(tar)
        assert done.num_records == 1 and done.fault


def test_an_empty_tar_is_whole(tmp_path):
    assert convert(write_tar(tmp_path / "x.tar", [])) == (0, 0, None, {})


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.replace(b"image a", b"image b"),
        lambda record: None,
        lambda record: record[:-1],
    ],
)
def test_a_file_that_does_not_hold_what_was_read_gets_no_name(change, tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "x.tar", SOUND)
    write = tf.io.TFRecordWriter.write

    def spoil(self, record):
        if (record := change(record)) is not None:
            write(self, record)

    monkeypatch.setattr(tf.io.TFRecordWriter, "write", spoil)
    with pytest.raises(ValueError, match=r"x.tar.tfrecord.partial must hold"):
        convert(tar)
    assert not (tmp_path / "x.tar.tfrecord").exists()


def test_bytes_that_the_disk_changes_are_found(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "x.tar", SOUND)
    partial = tmp_path / "x.tar.tfrecord.partial"
    read = webdataset._check

    def spoil(path, expected):
        content = bytearray(partial.read_bytes())
        content[-8] ^= 1
        partial.write_bytes(content)
        read(path, expected)

    monkeypatch.setattr(webdataset, "_check", spoil)
    with pytest.raises(ValueError, match="what was written. Received: .*corrupted record"):
        convert(tar)
