import pytest

from limoe_tf.downstream import entries
from limoe_tf.downstream.image_folder import ImageFolder
from limoe_tf.downstream.left_out import Fault, LeftOut


@pytest.fixture
def left_out():
    return LeftOut("some", max_share=0.1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_json_is_read_in_any_encoding_that_it_may_have(encoding, tmp_path, left_out):
    path = tmp_path / "a.json"
    path.write_bytes('{"list": ["größer", 2]}'.encode(encoding))
    assert list(entries.read_json(path, "list")) == [("list[0]", "größer"), ("list[1]", 2)]
    path.write_bytes('"größer"\r\n\n[2]'.encode(encoding))
    lines = list(entries.read_json_lines(path, left_out))
    assert lines == [("line 1", "größer"), ("line 3", [2])]
    assert not left_out.counts


def test_lines_that_are_no_json_are_left_out(tmp_path, left_out):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": "x\xe2\x80\xa8y"}\n' + b"[" * 100_000 + b"\n\xff\n")
    lines = dict(entries.read_json_lines(path, left_out))
    assert lines == {"line 1": {"a": 1}, "line 3": {"a": "x\u2028y"}}
    assert left_out.counts == {"no JSON": 3}


def test_only_texts_that_are_not_utf_8_are_faulty(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"list": [{"a": "caf\xe9", "b": "caf\xc3\xa9"}, {"a": "\\ud800"}]}')
    (_, first), (_, second) = entries.read_json(path, "list")
    assert entries.text(first, "b") == "café"
    for entry in (first, second):
        with pytest.raises(Fault, match="`a` is not UTF-8"):
            entries.text(entry, "a")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "A file must be JSON"),
        (b'{"list": [', "A file must be JSON"),
        (b"[" * 100_000, "A file must be JSON"),
        (b"[1]", "must hold a list of 'list'. Received: .*, with list"),
        (
            b'{"a": [], "list": {}}',
            r"must hold a list of 'list'. Received: .*, with \['a', 'list'\]",
        ),
        ("ab".encode("utf-16")[:-1], "must be UTF-8"),
    ],
)
def test_files_of_other_forms_are_errors(content, message, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        entries.read_json(path, "list")
    with pytest.raises(ValueError, match="`path` must be an existing file"):
        entries.read_json(tmp_path / "b.json", "list")


@pytest.mark.parametrize(
    "read, entry, reason",
    [
        (entries.text, {}, "no `a`"),
        (entries.text, {"a": 1}, "`a` is no text"),
        (entries.text, {"a": None}, "`a` is no text"),
        (entries.text, {"a": " \u200b"}, "`a` is blank"),
        (entries.integer, {}, "no `a`"),
        (entries.integer, {"a": True}, "`a` is no integer"),
        (entries.integer, {"a": "1"}, "`a` is no integer"),
        (entries.integer, {"a": 1.0}, "`a` is no integer"),
        (entries.integer, {"a": 2**63}, "`a` is no integer"),
        (entries.objects, {"a": {}}, "`a` is no list of objects"),
        (entries.objects, {"a": [1]}, "`a` is no list of objects"),
        (entries.objects, {"a": []}, "`a` is empty"),
    ],
)
def test_values_of_other_kinds_are_faults(read, entry, reason):
    with pytest.raises(Fault) as raised:
        read(entry, "a")
    assert raised.value.reason == reason


def test_entries_are_kept_by_key_in_their_order(left_out):
    def read(entry):
        number = entries.integer(entry, "a")
        return None if number < 0 else (number, str(number))

    values = [{"a": 2}, {"a": -1}, 5, {"a": 1}, {"b": 1}, {"a": 2}]
    found = entries.by_key([(f"at {i}", one) for i, one in enumerate(values)], read, left_out)
    assert list(found.items()) == [(2, "2"), (1, "1")]
    assert left_out.counts == {"no JSON object": 1, "no `a`": 1, "comes twice": 1}


def test_what_is_left_out_is_printed_with_the_first_example(left_out, capsys):
    left_out.finish(1)
    assert capsys.readouterr().out == ""
    for number in range(3):
        left_out.note("no JSON", f"line {number}")
    left_out.note("`a` is blank", "line\n9")
    left_out.finish(1)
    assert capsys.readouterr().out == (
        "Left out of some: 3 x no JSON (first: 'line 0')\n"
        "Left out of some: 1 x `a` is blank (first: 'line\\n9')\n"
    )


def test_too_much_left_out_is_an_error(capsys):
    left_out = LeftOut("some", max_share=0.1)
    for number in range(100):
        left_out.note("no JSON", f"line {number}")
    left_out.finish(1)
    left_out.note("no JSON", "line 100")
    with pytest.raises(ValueError, match=r"share of 0.1 .* Received: some, 101 of 1,001 left out"):
        left_out.finish(900)
    left_out.finish(909 + 101)
    with pytest.raises(ValueError, match="At least one entry must be sound. Received: some, 101"):
        left_out.finish(0)
    with pytest.raises(ValueError, match="`max_left_out` must be between 0 and 1"):
        LeftOut("some", max_share=2)
    assert capsys.readouterr().out.count("\n") == 4


def test_images_are_found_in_folders_that_are_listed_once(tmp_path, monkeypatch):
    (tmp_path / "7").mkdir()
    (tmp_path / "7/a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    folder = ImageFolder(tmp_path)
    assert folder.find("7/a.png") == f"{tmp_path}/7/a.png"
    assert folder.find("b.png") == f"{tmp_path}/b.png"
    (tmp_path / "7/c.png").write_bytes(b"")
    for name in ("7/c.png", "8/a.png", "c.png", "b.png/a.png"):
        with pytest.raises(Fault, match="image file missing") as raised:
            folder.find(name)
        assert raised.value.example == f"{tmp_path}/{name}"
    with pytest.raises(ValueError, match="`images` must be a folder"):
        ImageFolder(tmp_path / "b.png")
