"""Prints the cost of a model without building it: parameters, FLOPs, bytes.

python -m tpu_jobs.describe --size=H/14 --num_experts=32
python -m tpu_jobs.describe --size=VL-MoE-BASE --num_experts=32
"""

import dataclasses
import json
import os
from typing import Any

from absl import app, flags

from limoe_tf import checks
from limoe_tf.model import counts, sizes
from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.tpu import stateless
from tpu_jobs import errors, usage

_NAMES = (*sizes.NAMES, *sizes.VLMOE_NAMES)
_SIZE = flags.DEFINE_string("size", None, "named architecture, such as B/16 or VL-MoE-BASE")
_NUM_EXPERTS = flags.DEFINE_integer("num_experts", 32, "experts in each sparse block")
_NUM_CHOICES = flags.DEFINE_integer("num_choices", 1, "experts per token in a block")
_CAPACITY_FACTOR = flags.DEFINE_float(
    "capacity_factor",
    1.05,
    "slots of the experts, as a multiple of tokens times choices; 1 if none is dropped",
)
_PLAN = flags.DEFINE_string(
    "plan", None, "'dense', or the sparse blocks counted from 0: 1,3,5; default: those of the size"
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "side in pixels; default: that of the size")
_TEXT_LENGTH = flags.DEFINE_integer("text_length", None, "tokens of a text; default: 16, or 96")
_VOCABULARY_SIZE = flags.DEFINE_integer(
    "vocabulary_size", None, "pieces in the vocabulary; default: 32,000, or 64,000"
)
_EMBEDDING_SIZE = flags.DEFINE_integer(
    "embedding_size", None, "size of an embedding; default: the width"
)
_JSON = flags.DEFINE_string("json", None, "file to write the same numbers to")


def plan_from_text(text: str, *, depth: int) -> tuple[str, ...]:
    """Reads the value of --plan.

    Args:
      text: "dense", or numbers of blocks separated by commas.
      depth: number of blocks.

    Returns:
      Tuple of `depth` strings, "dense" or "sparse".

    Raises:
      ValueError: if the text is neither, or there is no block of that number.
    """
    if text == "dense":
        return sizes.plan_of(depth, ())
    try:
        blocks = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(
            f"`plan` must be 'dense' or numbers of blocks such as 1,3,5. Received: plan={text!r}"
        ) from None
    return sizes.plan_of(depth, blocks)


def describe(architecture: counts.Architecture) -> dict[str, Any]:
    """Returns the counts of an architecture as a dict that can be written as JSON."""
    return {
        "architecture": dataclasses.asdict(architecture),
        "parameters": counts.parameters(architecture),
        "forward_flops_per_pair": counts.forward_flops(architecture),
        "bytes": counts.state_bytes(architecture),
    }


def table(size: str, description: dict[str, Any]) -> str:
    """Returns the description as a readable table.

    Args:
      size: name of the architecture.
      description: as `describe` returns it.
    """
    values = description["architecture"]
    flops, memory = description["forward_flops_per_pair"], description["bytes"]
    image_tokens = (values["image_size"] // values["patch_size"]) ** 2
    dense_flops = flops["image"] + flops["text"]
    sparse_blocks = values["plan"].count("sparse")
    lines = [
        f"{size}: {values['depth']} blocks of width {values['width']}, {sparse_blocks} sparse",
        f"a pair has {image_tokens} image tokens and {values['text_length']} text tokens",
    ]
    if sparse_blocks:
        lines.append(
            f"each sparse block has {values['num_experts']} experts; each token is routed to "
            f"{values['num_choices']}; capacity factor {values['capacity_factor']}"
        )
    lines += ["", "parameters"]
    for name, count in description["parameters"].items():
        lines.append(f"  {name.replace('_', ' '):<16}{count / 1e6:>12,.2f} M {count:>18,}")
    lines += ["", "forward FLOPs of a pair (a multiply-add counts 2)"]
    for name, count in flops.items():
        lines.append(
            f"  {name.replace('_', ' '):<16}{count / 1e9:>12,.2f} G {count / dense_flops:>17.1%}"
        )
    lines += [
        "  (percent of image and text of the dense model)",
        "",
        "memory of the training state",
    ]
    for name, count in memory.items():
        lines.append(f"  {name:<16}{count / 2**30:>12,.2f} GiB {count:>16,}")
    return "\n".join(lines)


def describe_vlmoe(size: str, **values: Any) -> dict[str, Any]:
    """Returns the counts of a VL-MoE as a dict that can be written as JSON.

    Args:
      size: one of `sizes.VLMOE_NAMES`.
      **values: constructor values that differ.
    """
    with stateless.without_memory():
        model = VlMoe.from_size(size, **values)
    heads = sum(part.count_params() for part in (model.word_head, model.patch_head))
    config = model.get_config()
    return {
        "size": size,
        "architecture": {"width": model.width, "plan": model.plan, "fused": model.fused_blocks},
        "parameters": {"without_heads": model.num_parameters - heads, "heads": heads},
        "forward_flops": counts.vlmoe_forward_flops(config),
    }


def vlmoe_table(description: dict[str, Any]) -> str:
    """Returns what `describe_vlmoe` does as a readable table."""
    values, flops = description["architecture"], description["forward_flops"]
    lines = [
        f"{description['size']}: {len(values['plan'])} blocks of width {values['width']}, "
        f"{values['plan'].count('sparse')} sparse, {values['fused']} with a feed-forward for pairs",
        "",
        "parameters",
    ]
    for name, count in description["parameters"].items():
        lines.append(f"  {name.replace('_', ' '):<16}{count / 1e6:>12,.2f} M {count:>18,}")
    lines += ["", "forward FLOPs of a pair, an image and a text (a multiply-add counts 2)"]
    for name, count in flops.items():
        lines.append(f"  {name.replace('_', ' '):<16}{count / 1e9:>12,.2f} G")
    return "\n".join(lines)


def _vlmoe_values():
    given = {
        "image_size": _IMAGE_SIZE.value,
        "text_length": _TEXT_LENGTH.value,
        "vocabulary_size": _VOCABULARY_SIZE.value,
    }
    if _EMBEDDING_SIZE.value is not None:
        raise ValueError("--embedding_size is for models that contrast.")
    if _PLAN.value is not None:
        depth = sizes.vlmoe_values(_SIZE.value)["depth"]
        given["plan"] = plan_from_text(_PLAN.value, depth=depth)
    return {
        "num_experts": _NUM_EXPERTS.value,
        "num_choices": _NUM_CHOICES.value,
        "capacity_factor": _CAPACITY_FACTOR.value,
        "num_codes": 512,
        **{name: value for name, value in given.items() if value is not None},
    }


def _architecture():
    if _SIZE.value is None:
        raise ValueError(f"--size must be given: one of {', '.join(_NAMES)}.")
    checks.one_of("size", _SIZE.value, _NAMES)
    values = sizes.constructor_values(_SIZE.value)
    if _PLAN.value is not None:
        values["plan"] = plan_from_text(_PLAN.value, depth=values["depth"])
    if _IMAGE_SIZE.value is not None:
        values["image_size"] = _IMAGE_SIZE.value
    return counts.Architecture(
        **values,
        num_experts=_NUM_EXPERTS.value,
        num_choices=_NUM_CHOICES.value,
        capacity_factor=_CAPACITY_FACTOR.value,
        text_length=_TEXT_LENGTH.value or 16,
        vocabulary_size=_VOCABULARY_SIZE.value or 32_000,
        embedding_size=_EMBEDDING_SIZE.value,
    )


@errors.in_one_line
def main():
    if _SIZE.value in sizes.VLMOE_NAMES:
        description = describe_vlmoe(_SIZE.value, **_vlmoe_values())
        print(vlmoe_table(description))
    else:
        description = describe(_architecture())
        print(table(_SIZE.value, description))
    if _JSON.value:
        os.makedirs(os.path.dirname(os.path.abspath(_JSON.value)), exist_ok=True)
        with open(_JSON.value, "w", encoding="utf-8") as file:
            json.dump({"size": _SIZE.value, **description}, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    app.run(main, flags_parser=usage.parse_flags)
