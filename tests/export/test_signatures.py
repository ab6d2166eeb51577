"""SavedModels answer like the Keras model, in a process that has TensorFlow and its texts alone."""

import hashlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import images, words
from limoe_tf.evaluate import zero_shot
from limoe_tf.evaluate.embed import text_encoder
from limoe_tf.export import saved_model
from tests.shared import exported, tiny

TEMPLATES = ("a {}", "the {}: a_photo of {}!")
# Room for no more than its share of tokens at each expert: an export must not drop them.
LIMITED = {"inference_capacity_factor": 1.0}
SHALLOW = {"depth": 1, "plan": ("sparse",), **LIMITED}
VARIANTS = {
    "shared": {"mask_padding": True, **LIMITED},
    "two choices": {"num_choices": 2, "dtype": "mixed_bfloat16", **SHALLOW},
    "routers": {"routing": "router_per_modality", "dispatch_order": "random", **SHALLOW},
    "pools": {"routing": "experts_per_modality", "embedding_size": 7, **SHALLOW},
    "two towers": {"depth": 1, "contrastive": "sigmoid"},
    "compiled": {"num_choices": 2, **SHALLOW},  # by XLA, where it is served
}
CLASSES = ["A Red_Circle!", "blue\u00a0 STAR", "\u0130 \u03a3\u0391\u03a3", "ring"]
TEXTS = ["a red circle", "", "A photo of the blue ring, " * 2000, "ring"]
FRESH_PROCESS = """
import json, pathlib
import numpy as np
import tensorflow as tf
import tensorflow_text

folder = pathlib.Path(sys.argv[1])
words = json.loads((folder / "words.json").read_text())
files = tf.stack([tf.io.read_file(str(path)) for path in sorted(folder.glob("*.png"))])
for path in sorted(folder.glob("*/saved_model.pb")):
    signatures = tf.saved_model.load(str(path.parent)).signatures
    classes, texts = tf.constant(words["classes"]), tf.constant(words["texts"])
    answers = {
        "image": signatures["encode_image_bytes"](images=files)["embeddings"],
        "text": signatures["encode_text"](texts=texts)["embeddings"],
        "classes": signatures["encode_classes"](classes=classes)["embeddings"],
        "similarity": signatures["similarity_bytes"](images=files, texts=texts)["similarity"],
    }
    found = signatures["classify_bytes"](images=files, classes=classes)
    answers.update(probabilities=found["probabilities"], logits=found["logits"])
    np.savez(path.parent / "answers.npz", **answers)
assert not {"limoe_tf", "sentencepiece"} & set(sys.modules)
"""


def make(name):
    changes = dict(VARIANTS[name])
    dtype = changes.pop("dtype", "float32")
    keras.mixed_precision.set_dtype_policy(dtype)
    make_model = tiny.two_tower if name == "two towers" else tiny.limoe
    model = exported.draw_weights(make_model(vocabulary_size=exported.PIECES, **changes))
    keras.mixed_precision.set_dtype_policy("float32")
    return model


def reference(name):
    """The Keras model with the same weights, in float32 and without limits."""
    changes = {**VARIANTS[name], "inference_capacity_factor": None}
    changes.pop("dtype", None)
    make_model = tiny.two_tower if name == "two towers" else tiny.limoe
    model = make_model(vocabulary_size=exported.PIECES, **changes)
    model.set_weights(make(name).get_weights())
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A SavedModel of each variant, pictures, and what a fresh process answers of them."""
    folder = tmp_path_factory.mktemp("export")
    vocabulary = exported.vocabulary(folder)
    for name in VARIANTS:
        saved_model.export(
            make(name),
            vocabulary,
            folder / name,
            templates=TEMPLATES,
            resize="central_crop" if name == "two towers" else "resize",
            weights_license="CC0-1.0",
            facts={"step": 7},
            jit_compile=name == "compiled",
        )
    for seed, size in enumerate(((20, 24), (8, 8), (3, 40))):
        exported.write_png(folder / f"{seed}.png", seed, height=size[0], width=size[1])
    (folder / "words.json").write_text(json.dumps({"classes": CLASSES, "texts": TEXTS}))
    done = exported.run_alone(FRESH_PROCESS, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def signatures(folder):
    """Those of the first variant."""
    return tf.saved_model.load(str(folder / "shared")).signatures


@pytest.mark.parametrize("name", VARIANTS)
def test_a_process_with_tensorflow_alone_gives_the_keras_model_s_answers(folder, name):
    found = np.load(folder / name / "answers.npz")
    model = reference(name)
    vocabulary = words.Vocabulary(str(folder / "vocabulary.model"), text_length=5)
    resize = "central_crop" if name == "two towers" else "resize"
    pixels = [
        images.evaluation_image(tf.io.read_file(str(path)), size=8, resize=resize)
        for path in sorted(folder.glob("*.png"))
    ]
    image = model.encode_image(tf.stack(pixels)).numpy()
    encode = text_encoder(model, vocabulary)
    text = encode(TEXTS)
    classes = zero_shot.class_embeddings(encode, CLASSES, TEMPLATES)
    logits = 10.0 * image @ classes.T
    if name == "two towers":
        logits += model.logit_bias.numpy()
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for part, wanted in (
        ("image", image),
        ("text", text),
        ("classes", classes),
        ("similarity", image @ text.T),
        ("logits", logits),
        ("probabilities", probabilities),
    ):
        assert np.ptp(wanted, axis=0).max() > 0.001  # A hundred times the bound.
        np.testing.assert_allclose(found[part], wanted, atol=1e-5, err_msg=part)


def test_an_image_has_the_same_embedding_to_the_bit_whatever_is_beside_it(signatures):
    def encode(pixels):
        return signatures["encode_image"](images=tf.constant(pixels))["embeddings"].numpy()

    one = exported.picture(0)
    others = np.stack([one, *(exported.picture(seed) for seed in range(1, 64))])
    # Almost the same image: all of them want its experts.
    crowd = np.stack([one] * 64)
    crowd[1:, 0, 0] += 1
    alone = encode(one[np.newaxis])[0]
    for batch in (others, crowd, others[:7]):
        np.testing.assert_array_equal(encode(batch)[0], alone)
    assert np.ptp(encode(others), axis=0).min() > 0.01


def test_a_text_has_the_same_embedding_whatever_is_beside_it(signatures):
    def encode(texts):
        return signatures["encode_text"](texts=tf.constant(texts))["embeddings"].numpy()

    alone = encode(["a red circle"])[0]
    # More than are computed at a time, and almost the same text many times.
    for others in ([f"star {n}" for n in range(600)], ["a red circle."] * 63, ["a red circle"] * 9):
        np.testing.assert_allclose(encode(["a red circle", *others])[0], alone, atol=1e-6)
        np.testing.assert_allclose(encode([*others, "a red circle"])[-1], alone, atol=1e-6)


def test_pixels_and_their_files_have_the_same_answers(signatures):
    pixels = tf.constant(exported.picture(3)[np.newaxis])
    words = tf.constant(["ring", "star"])
    for name, others in (
        ("encode_image", {}),
        ("classify", {"classes": words}),
        ("similarity", {"texts": words}),
    ):
        files = tf.io.encode_png(pixels)
        expected = signatures[f"{name}_bytes"](images=files, **others)
        for part, value in signatures[name](images=pixels, **others).items():
            np.testing.assert_array_equal(value, expected[part])


def test_no_images_and_no_texts_give_no_embeddings(signatures):
    none = tf.constant([], tf.string)
    assert signatures["encode_image_bytes"](images=none)["embeddings"].shape == (0, 12)
    assert signatures["encode_text"](texts=none)["embeddings"].shape == (0, 12)
    for shape in ((0, 5, 5, 3), (0, 0, 0, 3)):
        found = signatures["encode_image"](images=tf.zeros(shape, tf.uint8))
        assert found["embeddings"].shape == (0, 12)
    found = signatures["classify_bytes"](images=none, classes=tf.constant(["a", "b"]))
    assert found["probabilities"].shape == (0, 2)
    found = signatures["similarity_bytes"](images=none, texts=none)
    assert found["similarity"].shape == (0, 0)


def test_long_texts_are_cut_and_large_images_made_small(signatures):
    texts = tf.constant(["star " * 10_000, "star " * 9])
    first, second = signatures["encode_text"](texts=texts)["embeddings"].numpy()
    np.testing.assert_allclose(first, second, atol=1e-6)
    for height, width in ((20_000, 1), (1, 20_000), (20_000, 200)):
        pixels = tf.fill([1, height, width, 3], tf.constant(40, tf.uint8))
        small = tf.fill([1, 9, 9, 3], tf.constant(40, tf.uint8))
        large, small = (signatures["encode_image"](images=x)["embeddings"] for x in (pixels, small))
        np.testing.assert_allclose(large, small, atol=1e-6)


def claims(kind, width, height):
    """A small file whose header claims a large image."""
    if kind == "gif":
        return b"GIF89a" + width.to_bytes(2, "little") + height.to_bytes(2, "little") + bytes(20)
    data = tf.io.encode_png(exported.picture(0)).numpy()
    return data[:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + data[24:]


def bad_files():
    valid = tf.io.encode_png(exported.picture(0)).numpy()
    jpeg = tf.io.encode_jpeg(np.tile(exported.picture(1), (9, 9, 1))).numpy()
    one_pixel = tf.io.encode_png(np.zeros((1, 1, 3), "uint8")).numpy()
    bad = (jpeg[: len(jpeg) // 2], jpeg[:30], valid[:40], b"", b"GIF8", b"text", one_pixel)
    for file in (*bad, claims("png", 50_000, 50_000), claims("gif", 50_000, 50_000)):
        yield [valid, file, jpeg, file]


@pytest.mark.parametrize("files", list(bad_files()), ids=range(9))
def test_the_files_that_are_no_images_are_counted_out(signatures, files):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"complete JPEG, .* at\] \[1 3\]"):
        signatures["encode_image_bytes"](images=tf.constant(files))


def test_a_large_claim_is_refused_before_it_is_decoded(signatures):
    # A whole PNG of 10,001 x 10,000 white pixels, some 100 kB.
    file = tf.io.encode_png(tf.fill([10_001, 10_000, 1], tf.constant(255, tf.uint8)))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"of 2 to 100000000 pixels"):
        signatures["encode_image_bytes"](images=file[tf.newaxis])


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 5, 5, 1), r"shape \(batch, height, width, 3\). Received:\] \[2 5 5 1\]"),
        ((2, 5, 5, 4), r"shape \(batch, height, width, 3\)"),
        ((5, 5, 3), r"shape \(batch, height, width, 3\). Received:\] \[5 5 3\]"),
        ((2, 0, 5, 3), r"2 to 100000000 pixels. Received:\] \[2 0 5 3\]"),
        ((2, 1, 1, 3), r"2 to 100000000 pixels"),
    ],
)
def test_pixels_of_a_wrong_shape_are_named(signatures, shape, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["encode_image"](images=tf.zeros(shape, tf.uint8))


@pytest.mark.parametrize(
    "classes, message",
    [
        ([], r"Class names must be given. Received:\] \[0\]"),
        (["a", "", "b", " _.\u2003!"], r"Class names must each hold words. .* at\] \[1 3\]"),
        (["a", b"\xff"], r"Class names must be UTF-8. .* at\] \[1\]"),
    ],
)
def test_wrong_class_names_are_named(signatures, classes, message):
    values = {
        "images": tf.io.encode_png(exported.picture(0))[tf.newaxis],
        "classes": tf.constant(classes, tf.string),
    }
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["classify_bytes"](**values)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures["encode_classes"](classes=values["classes"])


@pytest.mark.parametrize("text", [b"\xff", b"caf\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_texts_that_are_not_utf_8_are_named(signatures, text):
    texts = tf.constant(["sound \ufffd", text])
    file = tf.io.encode_png(exported.picture(0))[tf.newaxis]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Texts must be UTF-8. .* at\] \[1\]"):
        signatures["encode_text"](texts=texts)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Texts must be UTF-8. .* at\] \[1\]"):
        signatures["similarity_bytes"](images=file, texts=texts)


def test_a_seed_set_after_loading_leaves_the_tokenizer_alone(signatures):
    texts = tf.constant(["a red circle"])
    before = signatures["encode_text"](texts=texts)["embeddings"]
    tf.random.set_seed(1)
    np.testing.assert_array_equal(signatures["encode_text"](texts=texts)["embeddings"], before)


def test_the_metadata_says_what_the_model_is(folder):
    found = json.loads((folder / "shared" / saved_model.METADATA).read_text())
    assert found["license"] == {"code": "Apache-2.0", "weights": "CC0-1.0"}
    assert found["step"] == 7 and found["templates"] == list(TEMPLATES)
    assert found["image"]["size"] == 8 and found["image"]["resize"] == "resize"
    assert found["text"]["length"] == 5 and found["text"]["vocabulary_size"] == 29
    vocabulary = (folder / "vocabulary.model").read_bytes()
    assert found["text"]["vocabulary_sha256"] == hashlib.sha256(vocabulary).hexdigest()
    assert found["model"]["class"] == "Limoe" and found["model"]["config"]["num_experts"] == 4
    assert found["logit_scale"] == pytest.approx(10.0)
    assert found["versions"]["tensorflow"] == tf.__version__


def test_inputs_and_outputs_have_names(signatures):
    forms = {
        name: (set(function.structured_input_signature[1]), set(function.structured_outputs))
        for name, function in signatures.items()
    }
    answers = {"probabilities", "logits", "similarity"}
    for ending in ("", "_bytes"):
        assert forms[f"encode_image{ending}"] == ({"images"}, {"embeddings"})
        assert forms[f"classify{ending}"] == ({"images", "classes"}, answers)
        assert forms[f"similarity{ending}"] == ({"images", "texts"}, {"similarity"})
    assert forms["encode_text"] == ({"texts"}, {"embeddings"})
    assert forms["encode_classes"] == ({"classes"}, {"embeddings"})
