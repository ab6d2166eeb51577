"""SavedModels of fine-tuned models answer like the Keras models, with TensorFlow alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import images, words
from limoe_tf.export import saved_model
from tests.shared import exported, tasks

SMALL = {"vocabulary_size": exported.PIECES, "freeze_experts": False}
FILES = ["0.png", "1.jpg", "2.png"]
OTHERS = ["2.png", "0.png", "1.jpg"]
TEXTS = ["a red circle", "The Green RING, a photo", "blue"]
ASKED = {
    "questions": ("answer", {"image": FILES, "question": TEXTS}),
    "statements": ("classify_pair", {"image": FILES, "other_image": OTHERS, "statement": TEXTS}),
    "retrieval": ("match", {"image": FILES, "text": TEXTS}),
    "classes": ("classify_image", {"image": FILES}),
    "sentences": ("classify_pair", {"premise": TEXTS, "hypothesis": TEXTS[::-1]}),
}
FRESH_PROCESS = """
import json, pathlib
import numpy as np
import tensorflow as tf
import tensorflow_text

folder = pathlib.Path(sys.argv[1])
for task, (name, given) in json.loads((folder / "asked.json").read_text()).items():
    signatures = tf.saved_model.load(str(folder / task)).signatures
    files = {k: [(folder / n).read_bytes() for n in v] for k, v in given.items() if "image" in k}
    found = signatures[name](**{k: tf.constant(v) for k, v in {**given, **files}.items()})
    if task == "retrieval":
        found["text"] = signatures["encode_text"](texts=tf.constant(given["text"]))["embeddings"]
        pixels = tf.constant(files["image"])
        found["image"] = signatures["encode_image_bytes"](images=pixels)["embeddings"]
    np.savez(folder / task / "found.npz", **found)
assert not {"limoe_tf", "sentencepiece"} & set(sys.modules)
"""


def make(task, **changes):
    return exported.draw_weights(tasks.model(task, **SMALL, **changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel of each task, pictures, and what a fresh process answers of them."""
    folder = tmp_path_factory.mktemp("export")
    vocabulary = exported.vocabulary(folder)
    for task in ASKED:
        # Room for no more than its share of tokens at each expert: an export drops none.
        model = make(task, inference_capacity_factor=1.0)
        saved_model.export(model, vocabulary, folder / task, resize="central_crop")
    for seed, name in enumerate(FILES):
        encode = tf.io.encode_jpeg if name.endswith("jpg") else tf.io.encode_png
        (folder / name).write_bytes(encode(exported.picture(seed)).numpy())
    (folder / "asked.json").write_text(json.dumps(ASKED))
    done = exported.run_alone(FRESH_PROCESS, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def questions(folder):
    return tf.saved_model.load(str(folder / "questions")).signatures["answer"]


def batch_of(folder, given):
    """The batch of a model, from the names of files and the texts of its signature."""
    vocabulary = words.Vocabulary(str(folder / "vocabulary.model"), text_length=5)
    batch, texts = {}, []
    for name, values in given.items():
        if "image" in name:
            files = [(folder / value).read_bytes() for value in values]
            decoded = [images.evaluation_image(f, size=16, resize="central_crop") for f in files]
            batch[name] = tf.stack(decoded)
        else:
            texts.append(tf.constant(values))
    if texts:
        name = "text" if len(texts) > 1 else next(name for name in given if "image" not in name)
        batch[name], batch[f"{name}_valid"] = vocabulary(*texts)
    return batch


def expected(task, folder):
    """What the Keras model answers: probabilities, and names beside them."""
    model, batch = make(task), batch_of(folder, ASKED[task][1])
    if task == "retrieval":
        logits = tf.cast(model.matching_logits(batch)[0], tf.float32)
        embeddings = {name: value.numpy() for name, value in model.infer(batch).items()}
        return {"probability": tf.nn.softmax(logits)[:, 1].numpy(), **embeddings}
    logits = model.infer(batch)["logits"].numpy()
    if task == "questions":
        order = (-logits).argsort(axis=1)
        answers = np.array([name.encode() for name in model.answer_list.answers], object)
        probabilities = np.take_along_axis(1 / (1 + np.exp(-logits)), order, axis=1)
        return {"answers": answers[order], "probabilities": probabilities}
    names = [name.encode() for name in model.class_names]
    return {"classes": np.array(names, object), "probabilities": tf.nn.softmax(logits).numpy()}


@pytest.mark.parametrize("task", ASKED)
def test_a_process_with_tensorflow_alone_gives_the_keras_model_s_answers(folder, task):
    found, wanted = np.load(folder / task / "found.npz", allow_pickle=True), expected(task, folder)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        if value.dtype == object:
            np.testing.assert_array_equal(found[name], value)
            continue
        assert np.ptp(value, axis=0).max() > 0.001  # A hundred times the bound.
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)


def test_an_answer_is_the_same_whatever_is_beside_it(folder, questions):
    files = [(folder / name).read_bytes() for name in FILES]
    together = questions(image=tf.constant(files), question=tf.constant(TEXTS))
    for number, (file, text) in enumerate(zip(files, TEXTS)):
        alone = questions(image=tf.constant([file]), question=tf.constant([text]))
        np.testing.assert_array_equal(alone["answers"][0], together["answers"][number])
        found, wanted = (one["probabilities"] for one in (alone, together))
        np.testing.assert_allclose(found[0], wanted[number], atol=1e-6)
    none = questions(image=tf.constant([], tf.string), question=tf.constant([], tf.string))
    assert none["answers"].shape == (0, 5)


@pytest.mark.parametrize(
    "files, texts, message",
    [
        (["0.png"], ["a", "b"], r"Inputs must be of as many examples. Received:\] \[1 2\]"),
        (["0.png"], [b"\xff"], r"Texts must be UTF-8"),
        (["0.png", "1.jpg"], ["a", " ?"], r"Texts must each hold words. .* at\] \[1\]"),
        (["0.png", "asked.json"], ["a", "b"], r"Images must be complete .* at\] \[1\]"),
    ],
)
def test_wrong_inputs_are_named(folder, questions, files, texts, message):
    files = [(folder / name).read_bytes() for name in files]
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        questions(image=tf.constant(files), question=tf.constant(texts))


def test_the_metadata_says_what_the_model_is(folder):
    found = json.loads((folder / "questions" / saved_model.METADATA).read_text())
    assert found["model"]["class"] == "QuestionModel"
    assert found["model"]["config"]["answers"] == ["red", "blue", "2", "yes", "no"]
    assert "templates" not in found and "logit_scale" not in found
    found = json.loads((folder / "retrieval" / saved_model.METADATA).read_text())
    assert found["templates"] == ["{}"] and found["logit_scale"] == pytest.approx(10.0)


def test_templates_are_for_models_that_embed(folder, tmp_path):
    vocabulary = words.Vocabulary(str(folder / "vocabulary.model"), text_length=5)
    with pytest.raises(ValueError, match="`templates` are for models that embed"):
        saved_model.export(make("classes"), vocabulary, tmp_path / "model", templates=["a {}"])
