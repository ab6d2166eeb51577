"""Exports a SavedModel that needs TensorFlow and TensorFlow Text, but not this package."""

import json
import os
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_text

from limoe_tf import checks, companions
from limoe_tf.data import images
from limoe_tf.data.labels import checked_templates
from limoe_tf.data.words import Vocabulary
from limoe_tf.export import downstream
from limoe_tf.export.signatures import Readers, Signatures
from limoe_tf.mesh import shards
from limoe_tf.train.optimizer import is_expert

# Where TensorFlow's loaders expect additional files.
METADATA = os.path.join("assets.extra", "metadata.json")


def export(
    model: keras.Model,
    vocabulary: Vocabulary,
    path: str | os.PathLike,
    *,
    templates: Sequence[str] = ("{}",),
    resize: str = "resize",
    weights_license: str = "unspecified",
    facts: dict[str, Any] | None = None,
    jit_compile: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes a SavedModel and, inside it, its metadata as `METADATA`.

    It computes in float32 whatever the model's policy, on one device whatever its mesh, and drops
    no token, so that results do not depend on the rest of a batch. `Signatures` lists the functions
    of a model that embeds; one of `limoe_tf.downstream` has those of its method `signatures`. The
    folder appears when it is complete.

    Args:
      model: `Limoe`, `TwoTower` or a `FineTuned` of them or of `VlMoe`.
      vocabulary: `data.words.Vocabulary` of the model's size.
      path: folder to write, local or in a bucket (`gs://`).
      templates: prompts for classes, each with "{}" in place of the name; stored in the model.
      resize: see `data.images.evaluation_image`.
      weights_license: license of the weights.
      facts: dict of additional entries of the metadata, such as the training step.
      jit_compile: whether XLA compiles the model where it is served, at the first request of each
        of a few sizes. Meant for GPUs; answers then agree to rounding whatever else is in a batch.
      overwrite: whether an existing SavedModel at `path` is replaced.

    Returns:
      The metadata, a dict.

    Raises:
      ValueError: if `path` exists, the model is neither for images and texts nor for a task, the
        vocabulary does not match it or is not the one with which it was trained, a template has no
        "{}", or there are templates for a model that does not embed.
      TypeError: if `facts` is not JSON-serializable.
    """
    path = os.fspath(path).rstrip("/")
    check_free(path, overwrite=overwrite)
    checks.one_of("resize", resize, images.EVALUATION_RESIZES)
    if not _has_task(model) and len(model.modalities) < 2:
        raise ValueError(
            "`model` must embed images and texts to be exported. "
            f"Received: a model of modalities={model.modalities}"
        )
    templates = list(checked_templates(templates))
    if templates != ["{}"] and not _embeds(model):
        raise ValueError(
            "`templates` are for models that embed images and texts. "
            f"Received: {templates} for {type(model).__name__}"
        )
    if (vocabulary.size, vocabulary.text_length) != (model.vocabulary_size, model.text_length):
        raise ValueError(
            f"`vocabulary` must have the model's {model.vocabulary_size} pieces and text_length="
            f"{model.text_length}. Received: {vocabulary.size} pieces, text_length="
            f"{vocabulary.text_length}"
        )
    companions.check(model, vocabulary=vocabulary)
    metadata = {
        **_described(model, vocabulary, templates, resize),
        "jit_compile": jit_compile,
        "license": {"code": "Apache-2.0", "weights": weights_license},
        **(facts or {}),
    }
    text = json.dumps(metadata, indent=2, allow_nan=False) + "\n"
    partial = f"{path}.{os.getpid()}.partial"
    options = {"templates": templates, "resize": resize, "jit_compile": jit_compile}
    try:
        _write(dropless_float32(model), vocabulary, partial, **options)
        tf.io.gfile.makedirs(os.path.dirname(os.path.join(partial, METADATA)))
        with tf.io.gfile.GFile(os.path.join(partial, METADATA), "w") as file:
            file.write(text)
        if tf.io.gfile.exists(path):
            tf.io.gfile.rmtree(path)
        tf.io.gfile.rename(partial, path)
    finally:
        if tf.io.gfile.exists(partial):
            tf.io.gfile.rmtree(partial)
    return metadata


def check_free(path: str, *, overwrite: bool = False) -> None:
    """Checks that a path does not exist, or is a SavedModel that may be overwritten.

    Raises:
      ValueError: if not.
    """
    checks.plain_path("path", path)
    if tf.io.gfile.exists(path):
        is_model = tf.io.gfile.exists(os.path.join(path, "saved_model.pb"))
        if not (overwrite and is_model):
            rule = "be a SavedModel to be overwritten" if overwrite else "not exist yet"
            raise ValueError(f"`path` must {rule}. Received: path={path!r}")


def dropless_float32(model: keras.Model) -> keras.Model:
    """Returns the model as it is exported: float32, on one device, without a capacity limit.

    Args:
      model: as of `export`, on any mesh.
    """
    alone = type(model).from_config(_dropless_float32(model.get_config()))
    for source, target in zip(model.weights, alone.weights, strict=True):
        value = source.value
        if is_expert(source.path):
            value = shards.as_whole(value, model.expert_mesh)
        value = value.read() if isinstance(value, shards.Whole) else tf.convert_to_tensor(value)
        target.assign(tf.cast(value, target.dtype))
    return alone


def _dropless_float32(config):
    """Returns the constructor values of the model, and within them those of its backbone."""
    changed = {**config, "dtype": "float32"}
    if "backbone" in config:
        backbone = config["backbone"]
        changed["backbone"] = {**backbone, "config": _dropless_float32(backbone["config"])}
    else:
        changed["inference_capacity_factor"] = None
    return changed


def _has_task(model):
    return hasattr(model, "signatures")


def _embeds(model):
    return hasattr(model, "embedding_size")


def _write(model, vocabulary, path, *, templates, resize, jit_compile):
    readers = Readers(vocabulary, size=model.image_size, resize=resize)
    found = {}
    if _embeds(model):
        signatures = Signatures(model, readers, templates=templates, jit_compile=jit_compile)
        found.update(signatures.all())
    if _has_task(model):
        for name, signature in model.signatures().items():
            found[name] = downstream.traceable(signature, readers, jit_compile=jit_compile)
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, specs) in found.items():
        archive.add_endpoint(name, function, input_signature=specs)
    archive.write_out(path, verbose=False)


def _described(model, vocabulary, templates, resize):
    embedding = {}
    if _embeds(model):
        embedding = {
            "templates": templates,
            "embedding_size": model.embedding_size,
            "logit_scale": float(model.logit_scale()),
        }
    return {
        "image": {
            "size": model.image_size,
            "resize": resize,
            "method": "bilinear, without antialiasing; aspect ratio not kept",
            "max_pixels": images.MAX_PIXELS,
        },
        "text": {
            "length": model.text_length,
            "lowered": True,
            "vocabulary_size": vocabulary.size,
            "vocabulary_sha256": vocabulary.sha256,
        },
        **embedding,
        "parameters": model.num_parameters,
        "model": {"class": type(model).__name__, "config": model.get_config()},
        "versions": {
            "tensorflow": tf.__version__,
            "tensorflow_text": tensorflow_text.__version__,
            "keras": keras.__version__,
        },
    }
