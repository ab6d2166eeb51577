"""Small models of all downstream tasks, and examples that they can learn by heart."""

import functools

import numpy as np

from limoe_tf.downstream.image_classes import ImageClassifier
from limoe_tf.downstream.matching import RetrievalModel
from limoe_tf.downstream.questions import QuestionModel
from limoe_tf.downstream.sentence_pairs import SentencePairClassifier
from limoe_tf.downstream.statements import StatementModel
from limoe_tf.model.vlmoe import VlMoe
from tests.shared import tiny

TASKS = {
    "questions": (QuestionModel, {"answers": ("red", "blue", "2", "yes", "no")}),
    "statements": (StatementModel, {}),
    "retrieval": (RetrievalModel, {}),
    "classes": (ImageClassifier, {"class_names": ["a", "b", "c"]}),
    "sentences": (SentencePairClassifier, {}),
}


def backbone(**changes):
    """A function of `name` and `expert_mesh` that makes a small `VlMoe` for fine-tuning."""
    values = {**tiny.VLMOE_VALUES, "plan": ("sparse", "dense"), "masked_heads": False, **changes}
    return functools.partial(VlMoe, **values)


def model(task, *, freeze_experts=True, expert_mesh=None, **changes):
    kind, options = TASKS[task]
    return kind(
        backbone(**changes), freeze_experts=freeze_experts, expert_mesh=expert_mesh, **options
    )


def batch(made, size=8, seed=0):
    """A batch of noise for a model, in NumPy; words 4 to 18, no padding."""
    rng, found = np.random.default_rng([5, seed]), {}
    for name, spec in made.batch_spec(size).items():
        if name == "label":
            found[name] = rng.integers(0, made.num_classes, size)
        elif name == "scores":
            found[name] = np.eye(spec.shape[1])[rng.integers(0, spec.shape[1], size)]
        elif spec.dtype.name == "bool":
            found[name] = np.ones(spec.shape)
        else:
            low, high = (0, 256) if len(spec.shape) == 4 else (4, 19)
            found[name] = rng.integers(low, high, spec.shape)
        found[name] = found[name].astype(spec.dtype.name)
    return found
