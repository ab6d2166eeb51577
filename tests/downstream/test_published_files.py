"""Readers of VQA v2, NLVR2, Karpathy's splits and MNLI, on small files of the published forms."""

import json

import pytest

from limoe_tf.data.records import raw_records
from limoe_tf.downstream.karpathy_files import read_karpathy
from limoe_tf.downstream.mnli_files import read_mnli
from limoe_tf.downstream.nlvr2_files import read_nlvr2
from limoe_tf.downstream.vqa_files import read_vqa
from tests.shared.record_files import jpeg

IMAGE_NAME = "COCO_val2014_{image_id:012d}.jpg"


def read(source):
    """Returns the records of a source as Python values."""
    return [
        {name: _plain(value.numpy()) for name, value in source.parse(record).items()}
        for _, _, record in raw_records(source)
    ]


def _plain(value):
    if isinstance(value, bytes):
        return value if value.startswith(b"\xff\xd8") else value.decode()
    return [_plain(one) for one in value] if value.shape else int(value)


def write_images(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(number))
    return folder


def write_lines(path, lines):
    lines = (line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    path.write_bytes(b"\n".join(lines))
    return path


def question(number, image_id=1, **changes):
    return {
        "image_id": image_id,
        "question": f"what is {number}?",
        "question_id": number,
        **changes,
    }


def annotation(number, image_id=1, given=("cat",) * 9 + ("the dog",), **changes):
    answers = [
        {"answer": answer, "answer_confidence": "yes", "answer_id": i}
        for i, answer in enumerate(given, start=1)
    ]
    known = {"multiple_choice_answer": given[0] if given else "", "answer_type": "other"}
    found = {"question_type": "what is", "image_id": image_id, "question_id": number}
    return {**found, **known, "answers": answers, **changes}


def write_vqa(folder, questions, annotations=None):
    info = {"info": {"version": "2.0"}, "data_subtype": "val2014"}
    (folder / "questions.json").write_text(json.dumps({**info, "questions": questions}), "utf-8")
    if annotations is None:
        return [folder / "questions.json"]
    path = folder / "annotations.json"
    path.write_text(json.dumps({**info, "annotations": annotations}), "utf-8")
    return [folder / "questions.json", path]


@pytest.fixture
def coco(tmp_path):
    return write_images(tmp_path / "val2014", [IMAGE_NAME.format(image_id=i) for i in (1, 262148)])


def test_vqa_has_questions_with_the_answers_of_ten_annotators(coco, tmp_path):
    given = ["Yes", "yes", "", *["no"] * 7]
    paths = write_vqa(
        tmp_path,
        [question(262148000, 262148), question(1001)],
        [annotation(1001), annotation(262148000, 262148, given, answer_type="yes/no")],
    )
    source = read_vqa(*paths, images=coco, image_name=IMAGE_NAME, cache_dir=tmp_path)
    assert source.name == str(paths[0]) and source.left_out == {}
    first, second = read(source)
    assert first == {
        "image": jpeg(1),
        "question": "what is 262148000?",
        "question_id": 262148000,
        "answers": given,
        "answer_type": "yes/no",
        "question_type": "what is",
    }
    assert second["image"] == jpeg(0) and second["answers"] == ["cat"] * 9 + ["the dog"]


def test_questions_of_a_test_split_have_no_answers(coco, tmp_path):
    paths = write_vqa(tmp_path, [question(5)])
    (found,) = read(read_vqa(*paths, images=coco, image_name=IMAGE_NAME, cache_dir=tmp_path))
    assert found == {"image": jpeg(0), "question": "what is 5?", "question_id": 5}


def test_what_is_faulty_of_vqa_is_left_out_and_counted_once(coco, tmp_path, capsys):
    questions = [
        question(1),
        question(2, image_id=77),
        question(3),
        question(1, question="again?"),
        question(4, question=" "),
        question(5, question=5),
        question(6),
        question(7),
        question(8),
        question(9),
        question("10"),
        "a question",
        {"question_id": 12},
        question(13),
    ]
    annotations = [
        *map(annotation, (1, 4, 5, 12, 99)),
        annotation(2, image_id=77),
        annotation(1, given=("dog",)),
        annotation(6, given=()),
        annotation(7, answers="cat"),
        annotation(8, given=(3,)),
        annotation(9, image_id=262148),
        annotation(13, answer_type=None),
    ]
    paths = write_vqa(tmp_path, questions, annotations)
    source = read_vqa(*paths, images=coco, image_name=IMAGE_NAME, cache_dir=tmp_path)
    assert [one["answers"][0] for one in read(source)] == ["cat"]
    assert source.left_out == {
        "image file missing": 1,
        "question without annotation": 1,
        "annotation without question": 1,
        "comes twice": 2,
        "`question` is blank": 1,
        "`question` is no text": 1,
        "`answers` is empty": 1,
        "`answers` is no list of objects": 1,
        "`answer` is no text": 1,
        "annotation of another image": 1,
        "`question_id` is no integer": 1,
        "no JSON object": 1,
        "no `image_id`": 1,
        "`answer_type` is no text": 1,
    }
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 14
    missing = f"{coco}/COCO_val2014_000000000077.jpg"
    assert f"Left out of {paths[0]}: 1 x image file missing (first: '{missing}')" in printed
    line = "1 x annotation without question (first: 'question_id 99')"
    assert f"Left out of {paths[0]}: {line}" in printed
    assert any("2 x comes twice (first: 'questions[3], 1')" in one for one in printed)


def test_vqa_of_which_nothing_or_too_little_is_left_is_an_error(coco, tmp_path):
    paths = write_vqa(tmp_path, [question(1)], [annotation(2)])
    options = {"images": coco, "image_name": IMAGE_NAME, "cache_dir": tmp_path}
    with pytest.raises(ValueError, match="At least one entry must be sound. .* 2 of 2 left out"):
        read_vqa(*paths, **options)
    paths = write_vqa(tmp_path, [question(i, image_id=1 + (i > 20)) for i in range(60)])
    assert read_vqa(*paths, **options).num_examples == 21
    with pytest.raises(ValueError, match="share of 0.01 .* 39 of 60 left out; 39 x image file"):
        read_vqa(*paths, max_left_out=0.01, **options)


@pytest.mark.parametrize(
    "image_name", ["{}.jpg", "a.jpg", "{image_id:012q}", "{image_id.a}", "{id}"]
)
def test_names_without_the_number_of_the_image_are_errors(image_name, coco, tmp_path):
    paths = write_vqa(tmp_path, [question(1)])
    with pytest.raises(ValueError, match="`image_name` must hold the number of an image"):
        read_vqa(*paths, images=coco, image_name=image_name, cache_dir=tmp_path)


def statement(identifier, label="True", **changes):
    return {"sentence": f"two of {identifier}", "label": label, "identifier": identifier, **changes}


def test_nlvr2_has_two_images_in_one_folder_or_in_that_of_the_directory(tmp_path):
    names = [f"{pair}-img{i}.png" for pair in ("dev-850-0", "7/train-10-1") for i in (0, 1)]
    images = write_images(tmp_path / "images", names)
    lines = [statement("dev-850-0-3"), statement("train-10-1-0", "False", directory=7, synset="x")]
    path = write_lines(tmp_path / "dev.json", lines)
    source = read_nlvr2(path, images=images, cache_dir=tmp_path)
    assert source.label_names == ["False", "True"] and source.left_out == {}
    first, second = read(source)
    assert first == {
        "image": jpeg(0),
        "other_image": jpeg(1),
        "statement": "two of dev-850-0-3",
        "label": 1,
        "identifier": "dev-850-0-3",
    }
    assert (second["image"], second["other_image"], second["label"]) == (jpeg(2), jpeg(3), 0)


def test_what_is_faulty_of_nlvr2_is_left_out(tmp_path):
    images = write_images(tmp_path / "images", ["dev-1-0-img0.png", "dev-1-0-img1.png",
                                                "dev-2-0-img0.png"])  # fmt: skip
    lines = [
        b"\xef\xbb\xbf" + json.dumps(statement("dev-1-0-0")).encode(),
        statement("dev-1-0-0", "False"),
        statement("dev-2-0-0"),
        statement("dev-1-0"),
        statement("dev-1-0-1", "maybe"),
        statement("dev-1-0-1", True),
        statement("dev-1-0-1", directory="7"),
        statement("dev-1-0-1", directory=-7),
        statement("dev-1-0-1", sentence=""),
        json.dumps(statement("dev-1-0-2", sentence="caf")).encode().replace(b"caf", b"caf\xe9"),
        b"dev-1-0-1,True",
        [1],
        {},
    ]
    source = read_nlvr2(
        write_lines(tmp_path / "dev.json", lines), images=images, cache_dir=tmp_path
    )
    assert [one["label"] for one in read(source)] == [1]
    assert source.left_out == {
        "comes twice": 1,
        "image file missing": 1,
        "`identifier` is not split-set-pair-sentence": 1,
        "`label` is not True or False": 1,
        "`label` is no text": 1,
        "`directory` is no integer": 1,
        "`directory` is no number of a folder": 1,
        "`sentence` is blank": 1,
        "`sentence` is not UTF-8": 1,
        "no JSON": 1,
        "no JSON object": 1,
        "no `identifier`": 1,
    }


def captioned(name, split, captions, **changes):
    sentences = [
        {"tokens": str(caption).split(), "raw": caption, "imgid": 0, "sentid": i}
        for i, caption in enumerate(captions)
    ]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, **changes}


def write_karpathy(folder, images):
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}), "utf-8")
    return path


def test_karpathys_splits_are_read_and_joined(tmp_path):
    folders = ["train2014/a.jpg", "val2014/a.jpg", "val2014/b.jpg"]
    images = write_images(tmp_path / "coco", folders)
    five = [f"caption {i}" for i in range(6)]
    path = write_karpathy(
        tmp_path,
        [
            captioned("a.jpg", "train", five, filepath="train2014"),
            captioned("a.jpg", "restval", ["one"], filepath="val2014"),
            captioned("b.jpg", "test", five, filepath="val2014"),
            captioned("c.jpg", "test", five, filepath="val2014"),
        ],
    )
    source = read_karpathy(path, images=images, split=("train", "restval"), cache_dir=tmp_path)
    assert source.has_captions and source.left_out == {}
    assert read(source) == [
        {"image": jpeg(0), "captions": five},
        {"image": jpeg(1), "captions": ["one"]},
    ]
    source = read_karpathy(path, images=images, split="test", max_captions=5, cache_dir=tmp_path)
    assert read(source) == [{"image": jpeg(2), "captions": five[:5]}]
    assert source.left_out == {"image file missing": 1}
    with pytest.raises(ValueError, match=r"one or some of \['restval', 'test', 'train'\].*'val'"):
        read_karpathy(path, images=images, split=("train", "val"), cache_dir=tmp_path)


def test_what_is_faulty_of_karpathys_files_is_left_out(tmp_path):
    images = write_images(tmp_path / "flickr", [f"{i}.jpg" for i in range(9)])
    path = write_karpathy(
        tmp_path,
        [
            captioned("0.jpg", "test", ["one", " ", 3, "four"]),
            captioned("0.jpg", "test", ["again"]),
            captioned("1.jpg", "test", [""]),
            captioned("2.jpg", "test", []),
            captioned("3.jpg", None, ["three"]),
            captioned(4, "test", ["four"]),
            captioned("5.jpg", "test", ["five"], sentences="five"),
            "6.jpg",
        ],
    )
    source = read_karpathy(path, images=images, split="test", cache_dir=tmp_path)
    assert read(source) == [{"image": jpeg(0), "captions": ["one", "four"]}]
    assert source.left_out == {
        "caption left out: `raw` is blank": 2,
        "caption left out: `raw` is no text": 1,
        "comes twice": 1,
        "no caption": 1,
        "`sentences` is empty": 1,
        "`split` is no text": 1,
        "`filename` is no text": 1,
        "`sentences` is no list of objects": 1,
        "no JSON object": 1,
    }


def pair(pair_id, label="neutral", **changes):
    texts = {"sentence1": f"premise {pair_id}", "sentence2": f"hypothesis {pair_id}"}
    return {"annotator_labels": [label], "gold_label": label, "pairID": pair_id, **texts, **changes}


def test_mnli_has_three_labels_and_leaves_out_what_annotators_disagree_on(tmp_path):
    labels = ["neutral", "-", "contradiction", "entailment"]
    lines = [pair(f"{i}n", label, genre="fiction") for i, label in enumerate(labels)]
    source = read_mnli(write_lines(tmp_path / "dev.jsonl", lines), cache_dir=tmp_path)
    assert source.label_names == ["entailment", "neutral", "contradiction"]
    assert not source.has_images
    found = read(source)
    assert [one["label"] for one in found] == [1, 2, 0]
    assert found[0] == {"premise": "premise 0n", "hypothesis": "hypothesis 0n", "label": 1}
    assert source.left_out == {"annotators disagree": 1}


def test_what_is_faulty_of_mnli_is_left_out(tmp_path):
    lines = [
        pair("1n"),
        pair("1n"),
        pair("2n", "hidden"),
        pair("3n", sentence2=None),
        pair("4n", sentence1=""),
        pair(5),
        b"index\tpremise\thypothesis",
    ]
    source = read_mnli(write_lines(tmp_path / "dev.jsonl", lines), cache_dir=tmp_path)
    assert len(read(source)) == 1
    assert source.left_out == {
        "comes twice": 1,
        "`gold_label` is no label": 1,
        "`sentence2` is no text": 1,
        "`sentence1` is blank": 1,
        "`pairID` is no text": 1,
        "no JSON": 1,
    }
