"""Parameters, FLOPs and memory of a model, computed from its constructor values alone."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from limoe_tf import checks
from limoe_tf.model.sizes import checked_plan, experts_of_modalities
from limoe_tf.tokens import num_masked

# Adafactor keeps a full second moment when an axis it would average over is shorter than this.
_SHORTEST_FACTORED_AXIS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The constructor values that decide a model's cost; one router and one expert pool a block.

    Raises:
      ValueError: if two values do not fit each other.
    """

    width: int
    depth: int
    plan: tuple[str, ...]
    num_heads: int
    hidden_width: int
    patch_size: int
    image_size: int
    num_experts: int
    num_choices: int = 1
    capacity_factor: float | None = 1.05
    text_length: int = 16
    vocabulary_size: int = 32_000
    embedding_size: int | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type is int:
                checks.positive_int(field.name, getattr(self, field.name))
        if len(self.plan) != self.depth:
            raise ValueError(
                f"`plan` must have one entry for each of depth={self.depth} blocks. "
                f"Received: plan={self.plan}"
            )
        for kind in self.plan:
            checks.one_of("plan", kind, ("dense", "sparse"))
        if self.num_choices > self.num_experts:
            raise ValueError(
                f"`num_choices` must be between 1 and num_experts={self.num_experts}. "
                f"Received: num_choices={self.num_choices}"
            )
        if self.capacity_factor is not None and not self.capacity_factor > 0:
            raise ValueError(
                "`capacity_factor` must be above 0. "
                f"Received: capacity_factor={self.capacity_factor}"
            )
        if self.embedding_size is not None:
            checks.positive_int("embedding_size", self.embedding_size)
        self._check_divides("num_heads", "width")
        self._check_divides("patch_size", "image_size")

    def _check_divides(self, divisor, name):
        if getattr(self, name) % getattr(self, divisor):
            raise ValueError(
                f"`{name}` must be divisible by {divisor}={getattr(self, divisor)}. "
                f"Received: {name}={getattr(self, name)}"
            )

    @property
    def image_tokens(self) -> int:
        """Number of patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_size(self) -> int:
        """Z, the size of an embedding: `embedding_size`, or the width if that is None."""
        return self.embedding_size or self.width


class Weight(NamedTuple):
    """One variable: its name, its shape, and its axis of experts, if there is one."""

    name: str
    shape: tuple[int, ...]
    expert_axis: int | None = None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def _block_weights(name, kind, architecture):
    d, f, e = architecture.width, architecture.hidden_width, architecture.num_experts
    for part in ("norm_1/scale", "norm_1/bias", "norm_2/scale", "norm_2/bias"):
        yield Weight(f"{name}/{part}", (d,))
    for part in ("query", "key", "value", "output"):
        yield Weight(f"{name}/attention/{part}/kernel", (d, d))
        yield Weight(f"{name}/attention/{part}/bias", (d,))
    mlp = {"kernel_in": (d, f), "bias_in": (f,), "kernel_out": (f, d), "bias_out": (d,)}
    if kind == "dense":
        yield from (Weight(f"{name}/mlp/{part}", shape) for part, shape in mlp.items())
    else:
        yield Weight(f"{name}/router/kernel", (d, e), expert_axis=1)
        for part, shape in mlp.items():
            yield Weight(f"{name}/experts/{part}", (e, *shape), expert_axis=0)


def weights(architecture: Architecture) -> list[Weight]:
    """Lists every variable of the one-tower model.

    Args:
      architecture: Architecture.

    Returns:
      List of Weight.
    """
    d, z = architecture.width, architecture.output_size
    listed = [
        Weight("image/patch/kernel", (3 * architecture.patch_size**2, d)),
        Weight("image/patch/bias", (d,)),
        Weight("image/positions", (architecture.image_tokens, d)),
        Weight("text/embeddings", (architecture.vocabulary_size, d)),
        Weight("text/positions", (architecture.text_length, d)),
    ]
    for index, kind in enumerate(architecture.plan):
        listed.extend(_block_weights(f"block_{index:02d}", kind, architecture))
    listed += [Weight("norm/scale", (d,)), Weight("norm/bias", (d,))]
    listed += [Weight(f"{stream}/head/kernel", (d, z)) for stream in ("image", "text")]
    return [*listed, Weight("logit_scale_log", ())]


def parameters(architecture: Architecture) -> dict[str, int]:
    """Counts the parameters.

    Args:
      architecture: Architecture.

    Returns:
      Dict of `total`; `per_token` (of the experts of a block only the K that a token is routed to;
      the whole vocabulary table, as the paper counts); and `routers`.
    """
    listed = weights(architecture)
    experts = sum(weight.size for weight in listed if "/experts/" in weight.name)
    total = sum(weight.size for weight in listed)
    unused = architecture.num_experts - architecture.num_choices
    return {
        "total": total,
        "per_token": total - experts // architecture.num_experts * unused,
        "routers": sum(weight.size for weight in listed if "/router/" in weight.name),
    }


def forward_flops(architecture: Architecture) -> dict[str, int]:
    """Counts the floating-point operations of one forward pass of one pair, 2 for a multiply-add.

    Only matrix products count. The overhead is what sparse blocks add to dense ones of the same
    width: experts compute every slot, filled or not (K * C times a dense MLP, before slots are
    rounded to whole numbers), and the routers; without a capacity, what the tokens need. Dispatch
    and combine have no matrix products.

    Args:
      architecture: Architecture.

    Returns:
      Dict of `image`, `text` (dense), `sparse_experts`, `sparse_routers` and `total`.
    """
    d, f, z = architecture.width, architecture.hidden_width, architecture.output_size
    n_image, n_text = architecture.image_tokens, architecture.text_length

    def dense(num_tokens):
        return _dense_blocks(num_tokens, architecture.depth, d, f) + 2 * d * z

    # Tokens of a pair, once for each sparse block.
    passes = architecture.plan.count("sparse") * (n_image + n_text)
    factor = 1.0 if architecture.capacity_factor is None else architecture.capacity_factor
    parts = {
        "image": dense(n_image) + n_image * 2 * 3 * architecture.patch_size**2 * d,
        "text": dense(n_text),
        "sparse_experts": round(passes * 4 * d * f * (architecture.num_choices * factor - 1)),
        "sparse_routers": passes * 2 * d * architecture.num_experts,
    }
    return {**parts, "total": sum(parts.values())}


def _dense_blocks(num_tokens, depth, d, f):
    """Counts the operations of dense blocks on a sequence that attends to itself."""
    return depth * num_tokens * (8 * d**2 + 4 * d * f + 4 * num_tokens * d)


def vlmoe_forward_flops(values: Mapping[str, Any]) -> dict[str, int]:
    """Counts the operations of one forward pass of `VlMoe` on a pair, an image and a text.

    As `forward_flops`; heads compute masked places alone.

    Args:
      values: of the constructor, all of them, as of `VlMoe.get_config`.

    Returns:
      Dict of `text`, `image`, `pair` (dense), `heads`, `sparse_experts`, `sparse_routers` and
      `total`.
    """
    d, f = values["width"], values["hidden_width"]
    patches = (values["image_size"] // values["patch_size"]) ** 2
    of_text, of_image = values["text_length"] + 1, patches + 1
    embedding = patches * 2 * 3 * values["patch_size"] ** 2 * d

    def dense(num_tokens):
        return _dense_blocks(num_tokens, values["depth"], d, f)

    outputs = 3 * values["patch_size"] ** 2
    if values["patch_targets"] == "codes":
        outputs = values["num_codes"]
    hidden = [values[name] for name in ("word_share", "pair_word_share")]
    words = sum(num_masked(share, values["text_length"] - 1) for share in hidden)
    shares = [values[name] for name in ("patch_share", "pair_patch_share")]
    masked = sum(num_masked(share, patches) for share in shares)
    plan = checked_plan(values["plan"], values["depth"])
    experts = experts_of_modalities(values["num_experts"], plan)
    passes = routers = 0
    for modality, length in (("text", of_text), ("image", of_image)):
        for block, count in experts[modality].items():
            fused = block >= values["depth"] - values["fused_blocks"]
            tokens = (1 if fused else 2) * length
            passes += tokens
            routers += tokens * 2 * d * count
    capacity = 1.0 if values["capacity_factor"] is None else values["capacity_factor"]
    factor = values["num_choices"] * capacity - 1
    parts = {
        "text": dense(of_text),
        "image": dense(of_image) + embedding,
        "pair": dense(of_text + of_image) + embedding,
        "heads": words * 2 * d * (d + values["vocabulary_size"]) + masked * 2 * d * outputs,
        "sparse_experts": round(passes * 4 * d * f * factor),
        "sparse_routers": routers,
    }
    return {**parts, "total": sum(parts.values())}


def second_moment_size(weight: Weight) -> int:
    """Counts the values that Adafactor stores of one variable's second moment.

    The two longest axes are averaged away, one at a time, unless the shorter of them has fewer
    than 32 entries; the axis of experts is never averaged over.

    Args:
      weight: Weight.

    Returns:
      Number of values.

    Reference: https://arxiv.org/abs/1804.04235, with the changes of
    https://arxiv.org/abs/2106.04560, section 3.4.
    """
    axes = sorted(n for axis, n in enumerate(weight.shape) if axis != weight.expert_axis)
    if len(axes) < 2 or axes[-2] < _SHORTEST_FACTORED_AXIS:
        return weight.size
    return weight.size // axes[-1] + weight.size // axes[-2]


def state_bytes(architecture: Architecture) -> dict[str, int]:
    """Counts the bytes of a training run's state, between two steps.

    Args:
      architecture: Architecture.

    Returns:
      Dict of `weights` (float32), `adafactor` (bfloat16 first moment, factored float32 second
      moment) and `adamw` (two float32 moments).
    """
    listed = weights(architecture)
    total = sum(weight.size for weight in listed)
    second_moments = sum(second_moment_size(weight) for weight in listed)
    return {"weights": 4 * total, "adafactor": 2 * total + 4 * second_moments, "adamw": 8 * total}
