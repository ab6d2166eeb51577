import hashlib
import itertools
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import endless, processes
from limoe_tf.data.batches import training_batches
from limoe_tf.data.scenes import examples, grammar, lexicon, outlines, painting, placing, workers
from limoe_tf.data.scenes.structure import is_held_out
from limoe_tf.data.sources import TfdsSource
from limoe_tf.data.words import Vocabulary, train_vocabulary
from limoe_tf.evaluate import tasks
from tests.shared import scene_captions

# Made by the first version; a change of it is a change of the dataset, which needs a new VERSION.
DIGEST = "12fe9c9182cb6a91ada7b843ef06e364af0e36a786ef3be490cd3cb5b9963593"


@pytest.fixture(scope="module")
def drawn():
    """Scenes with captions, by split, without their pictures."""
    found = {"train": [], "test": []}
    for split, scenes in found.items():
        for index in range(4000 if split == "train" else 1000):
            rng = random.Random(f"{split} {index}")
            scene = placing.draw_scene(rng, held_out=split == "test" and index % 2 == 1)
            scenes.append((scene, grammar.captions(scene, rng)))
    return found


@pytest.fixture(scope="module")
def rendered():
    return [endless.render("train", index) for index in range(400)]


def test_the_first_scenes_are_the_same_bytes_as_ever():
    digest = hashlib.sha256()
    for split, index in itertools.product(examples.SPLITS, range(20)):
        image, captions, pairs, triples, seen, _ = endless.render(split, index)
        digest.update(image.tobytes() + repr((captions, pairs, triples, seen)).encode())
    assert digest.hexdigest() == DIGEST


def test_other_processes_draw_the_same_in_the_same_order():
    count = 2 * workers._BLOCK + 7
    alone = list(workers.records("train", count, num_processes=1))
    assert list(workers.records("train", count, num_processes=2)) == alone


def test_a_process_that_ends_early_is_an_error(monkeypatch):
    monkeypatch.setattr(processes.sys, "executable", shutil.which("false"))
    with pytest.raises(RuntimeError, match="ended early, with exit code 1"):
        next(workers.records("train", 10, num_processes=2))


def test_no_image_occurs_twice(rendered):
    assert len({example.image.tobytes() for example in rendered}) == len(rendered)


def test_each_split_ends_where_it_is_declared_to_end():
    for split, count in examples.SPLITS.items():
        endless.render(split, count - 1)
        with pytest.raises(ValueError, match=f"`index` must be between 0 and {count - 1}"):
            endless.render(split, count)
    with pytest.raises(ValueError, match="`split` must be one of 'train'.*split='dev'"):
        endless.render("dev", 0)


def test_a_fifth_of_the_triples_is_held_out_evenly():
    out = [kind for kind in examples.KINDS if is_held_out(kind)]
    assert abs(len(out) - len(examples.KINDS) / 5) < 1
    for part, values in (("colour", 16), ("texture", 8), ("shape", 24)):
        counts = Counter(getattr(kind, part) for kind in out)
        assert len(counts) == values and max(counts.values()) - min(counts.values()) <= 2


def test_train_has_no_held_out_triple_and_odd_test_scenes_have_nothing_else(drawn):
    for split, scenes in drawn.items():
        for index, (scene, _) in enumerate(scenes):
            out = {is_held_out(thing.kind) for thing in scene.things}
            assert out == {split == "test" and index % 2 == 1}
    for index in range(20):
        example = endless.render("test", index)
        assert example.seen == (index % 2 == 0)
        assert set(example.triples) <= set(endless.groups()["seen" if example.seen else "unseen"])


def test_every_colour_texture_shape_size_and_layout_is_drawn_often(drawn):
    things = [thing for scene, _ in drawn["train"] for thing in scene.things]
    # Of some 8,600 objects; shapes that hold others and small sizes are more frequent.
    for part, values in (("colour", 16), ("texture", 8), ("shape", 24)):
        counts = Counter(getattr(thing.kind, part) for thing in things)
        assert len(counts) == values and min(counts.values()) > 0.5 * len(things) / values
    assert min(Counter(thing.size for thing in things).values()) > 0.1 * len(things)
    assert {scene.layout for scene, _ in drawn["train"]} == set(placing.LAYOUTS)
    assert {len(scene.things) for scene, _ in drawn["train"]} == {1, 2, 3, 4}


def test_labels_are_those_of_the_objects_and_a_fits_their_names(rendered):
    assert len(endless.PAIR_NAMES) == 384 and len(endless.TRIPLE_NAMES) == 3072
    for example in rendered:
        kinds = {thing.kind for thing in example.scene.things}
        assert {examples.KINDS[label] for label in example.triples} == kinds
        assert {endless.PAIR_NAMES[label] for label in example.pairs} == {
            grammar.pair_name(kind) for kind in kinds
        }
    assert not [name for name in (*endless.PAIR_NAMES, *endless.TRIPLE_NAMES) if name[0] in "aeiou"]
    assert len(set(endless.TRIPLE_NAMES)) == 3072


def test_objects_are_within_the_image_and_overlap_only_where_a_relation_says_so(drawn):
    for scene, _ in drawn["train"]:
        for thing in scene.things:
            assert thing.radius <= min(thing.x, thing.y, 63 - thing.x, 63 - thing.y)
            assert placing.RADII[thing.size][0] <= thing.radius <= placing.RADII[thing.size][1]
        if scene.layout not in ("inside", "front"):
            for one, other in itertools.combinations(scene.things, 2):
                assert not placing.overlap(one, other)
                assert scene.layout == "touching" or not scene_captions.touching(one, other)


def test_every_caption_is_true(drawn):
    read = Counter()
    for scene, captions in drawn["train"] + drawn["test"]:
        for caption in captions:
            assert scene_captions.is_true(caption, scene), (caption, scene)
            assert len(caption.split()) <= 26
            told = scene_captions.read(caption)
            read.update([told.relation and told.relation[0], told.place and "place"])
    assert min(read[name] for name in (*grammar.RELATION_WORDS, "between", "place")) > 30


def test_the_check_of_captions_finds_what_is_false(drawn):
    wrong = Counter()
    swapped = {"left of": "right of", "above": "below", "red": "blue", "three": "two", "in": "on"}
    for scene, captions in drawn["train"]:
        for word, other in swapped.items():
            if f" {word} " in captions[1] and " on the " not in captions[1]:
                changed = captions[1].replace(f" {word} ", f" {other} ", 1)
                wrong[word] += 1 - _holds(changed, scene)
    assert min(wrong[word] for word in ("left of", "above", "red", "three")) > 20


def _holds(caption, scene):
    try:
        return scene_captions.is_true(caption, scene)
    except KeyError:
        return False


def test_twenty_thousand_captions_are_nearly_all_different():
    captions = []
    for index in range(6667):
        rng = random.Random(index)
        captions += grammar.captions(placing.draw_scene(rng, held_out=False), rng)
    # A tenth of what is told of several objects is their number alone.
    assert len(set(captions)) > 0.85 * 20_000
    assert len({word for caption in captions for word in caption.split()}) < 300


def test_the_middle_of_a_plain_object_has_its_colour():
    compared = 0
    for index in range(1200):
        rng = random.Random(index)
        scene = placing.draw_scene(rng, held_out=False)._replace(noise=0)
        thing = scene.things[-1]
        if lexicon.TEXTURES[thing.kind.texture].words[0] == "plain":
            image = painting.paint(scene, bytes(painting.NOISE_BYTES))
            r = thing.radius
            box = image[thing.y - r : thing.y + r + 1, thing.x - r : thing.x + r + 1]
            table = outlines.outline(thing.kind.shape, r, thing.turn)
            value = np.array(lexicon.COLOURS[thing.kind.colour].value) * scene.brightness // 16
            assert (box[table.cover == outlines.FULL] == value).all()
            compared += 1
    assert compared > 100


def test_shapes_differ_at_their_smallest_size_however_they_are_turned():
    turns = range(outlines.NUM_TURNS)
    tables = [[outlines.outline(shape, 7, turn) for turn in turns] for shape in range(24)]
    for one, others in itertools.combinations(tables, 2):
        differences = [np.abs(one[0].cover - other.cover) for other in others]
        # Of some 80 pixels that a shape covers.
        assert min((d >= outlines.FULL // 2).sum() for d in differences) >= 14
    for table in itertools.chain(*tables):
        assert 0.15 < table.solid.mean() < 0.75 and (table.rim <= table.cover).all()


def test_a_circle_and_a_square_have_the_areas_of_their_geometry():
    for shape, area in (("circle", np.pi * 0.94**2), ("square", 2.0)):
        (index,) = (i for i, s in enumerate(lexicon.SHAPES) if s.words[0] == shape)
        for turn in range(outlines.NUM_TURNS):
            cover = outlines.outline(index, 20, turn).cover.sum() / outlines.FULL
            assert cover == pytest.approx(area * 20**2, rel=0.02)


def test_every_colour_can_be_seen_on_a_ground_and_its_marks_on_it():
    for colour, grounds in zip(lexicon.COLOURS, lexicon.SEEN_ON_GROUNDS):
        assert len(grounds) >= 2 and lexicon.contrasts(colour.value, colour.marks)


@pytest.fixture
def small(monkeypatch):
    """A few scenes a split."""
    counts = {"train": 48, "validation": 6, "test": 10}
    monkeypatch.setattr(examples, "SPLITS", counts)
    monkeypatch.setitem(endless.TRAIN_SCENES, "20k", counts["train"])
    return counts


def test_it_is_built_read_and_batched_like_any_data_set(small, tmp_path):
    source = TfdsSource("endless_scenes/20k", split="train", data_dir=str(tmp_path))
    examples_ = [endless.render("train", index) for index in range(small["train"])]
    captions = [caption for example in examples_ for caption in example.captions]
    path = str(tmp_path / "words.model")
    train_vocabulary(captions, path=path, size=300, exact_size=False)
    vocabulary = Vocabulary(path, text_length=24)
    options = dict(vocabulary=vocabulary, batch_size=8, image_size=64, seed=3, shuffle_window=16)
    wanted = {example.image.tobytes() for example in examples_}
    batches = list(training_batches(source, **options).take(6))
    images = np.concatenate([batch["image"] for batch in batches])
    assert {image.tobytes() for image in images} == wanted and len(images) == len(wanted)
    assert_tasks_take(tmp_path)


def assert_tasks_take(folder):
    source = TfdsSource("endless_scenes/20k", split="test", labels="triples", data_dir=str(folder))
    assert tuple(source.label_names) == endless.TRIPLE_NAMES
    tasks.ZeroShot(source, templates=endless.TEMPLATES, groups=endless.groups())
    tasks.Retrieval(source)
    raw = tf.data.TFRecordDataset([file.path for file in source.files])
    for index, record in enumerate(raw.map(source.parse)):
        example = endless.render("test", index)
        image = tf.io.decode_png(record["image"])
        np.testing.assert_array_equal(image, example.image)
        assert record["labels"].numpy().tolist() == example.triples
        assert [text.decode() for text in record["captions"].numpy()] == example.captions


def test_smaller_configurations_are_the_beginning_of_the_largest():
    assert endless.TRAIN_SCENES == {"1m": 1_000_000, "200k": 200_000, "20k": 20_000}
    assert examples.SPLITS == {"train": 1_000_000, "validation": 5_000, "test": 5_000}
