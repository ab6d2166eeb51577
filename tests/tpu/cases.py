"""What is trained by the one-device CPU trainer and, lowered for TPU, on meshes of replicas."""

import keras
import numpy as np

from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.train.optimizer import Adafactor, AdamW
from tests.shared import tasks, tiny

STEPS, GLOBAL_BATCH, LEARNING_RATE = 5, 16, 0.01
MESHES = ("data:1;expert:1", "data:4", "expert:4", "data:2;expert:2", "data:2;expert:4")
TWO_BY_TWO = "data:2;expert:2"
MODEL = {"plan": ("sparse", "sparse"), "num_experts": 8, "group_size": 2, "same_expert_init": False}
# What differs from MODEL, and the optimizer.
CASES = {
    "float32": {},
    "adamw": {},
    "two_choices": {"num_choices": 2},
    "recomputed": {"recompute_blocks": True},
    "chunked": {"attention_chunks": 2},
    "collapse": {"routing": "router_per_modality"},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "vlmoe": {"drop_path": 0.3, "layer_scale": 0.5},
    "retrieval": {},
    # Without groups noise depends on the number of replicas.
    "dropless": {"capacity_factor": None, "routing": "router_per_modality", "router_noise": 0.0},
    "frozen": {},
}
# All-to-alls of a call, in pairs: to the experts and back. A loop's body counts once.
PASSES = {
    **dict.fromkeys(CASES, 2),  # forward and backward
    "recomputed": 3,  # forward once more
    "dropless": 5,  # the first round, and a loop over the others whose backward pass recomputes
    "frozen": 3,  # loops over all rounds
}
# All texts of these go to one expert: without dropping it takes several rounds.
COLLAPSED = ("collapse", "dropless")
# Models that are fine-tuned for retrieval.
RETRIEVAL = ("retrieval", "frozen")
# Calls of sparse layers in a step: of VL-MoE's the first block has four streams, the second, with a
# dense feed-forward for pairs, two; a model that is fine-tuned meets each stream once, too.
SPARSE_CALLS = {**dict.fromkeys(CASES, 2), "vlmoe": 6, **dict.fromkeys(RETRIEVAL, 6)}
# What replicas exchange beside float32: the images and texts among which negatives are drawn.
EXCHANGED = {case: {"s32"} for case in RETRIEVAL}


def make_model(case, mesh=None):
    """The model of a case, not compiled; the same values at every call."""
    keras.utils.set_random_seed(0)
    values = {**MODEL, **CASES[case], "expert_mesh": mesh}
    if case in RETRIEVAL:
        mesh, frozen = values.pop("expert_mesh"), case == "frozen"
        return tasks.model("retrieval", freeze_experts=frozen, expert_mesh=mesh, **values)
    if case != "vlmoe":
        return tiny.limoe(**values)
    model = VlMoe(**{**tiny.VLMOE_VALUES, **values})
    # `prepared` gives it the codes: a model without memory cannot take them.
    model.companions = {"codebook": tiny.codebook().sha256}
    return model


def stays(case, name):
    """Whether a weight is to stay as it is."""
    # Codes of patches; nothing is masked when a model is fine-tuned.
    if name.endswith(("patch_codes/centres", "backbone/image_embed/mask_embedding")):
        return True
    if case == "dropless":  # No noise is drawn.
        return name.endswith("router/draws")
    return case == "frozen" and ("/experts/" in name or "/router/" in name)


def make_optimizer(case):
    """Clips every step: the gradient's norm is far above 0.1."""
    if case == "adamw":
        return AdamW(LEARNING_RATE, weight_decay=0.01, global_clipnorm=0.1)
    return Adafactor(LEARNING_RATE, weight_decay=0.001, global_clipnorm=0.1)


def batches(case="float32"):
    """The global batches of the steps."""
    if case in RETRIEVAL:
        model = tasks.model("retrieval")
        return [tasks.batch(model, GLOBAL_BATCH, seed) for seed in range(STEPS)]
    make = tiny.masked_batch if case == "vlmoe" else tiny.batch
    return [make(GLOBAL_BATCH, seed) for seed in range(STEPS)]


def prepared(case, state):
    """Changes the state that a case begins with."""
    if case == "vlmoe":
        state["model/patch_codes/centres"] = tiny.codebook().centres
    if case in COLLAPSED:
        _collapse(state)


def _collapse(state):
    """Sends every text token to expert 3: a norm's shift of 1, a router with a column of tens."""
    for name, value in state.items():
        if name.endswith("feed_forward_norm/beta") and name.startswith("model/"):
            value[:] = 1.0
        if name.endswith("router/kernel_text") and name.startswith("model/"):
            value[:] = 0.0
            value[:, 3] = 10.0


def without_key_biases(named):
    """Leaves out weights whose gradient is nothing but rounding.

    A bias of the keys adds the same to all scores of a query, which the softmax takes away again.
    """
    return {name: value for name, value in named.items() if "key/bias" not in name}


def float32(state):
    """A state as float32 where it is bfloat16, which NumPy's files do not know."""
    return {
        name: value.astype("float32") if value.dtype.name == "bfloat16" else np.array(value)
        for name, value in state.items()
    }
