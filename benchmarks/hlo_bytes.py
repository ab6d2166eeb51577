"""Bytes to and from HBM of each part of a compiled TPU program, from the text of its HLO."""

import collections
import re

from limoe_tf.tpu import hlo, traffic

# Parts, by a pattern of the operation's name; the first match counts.
PARTS = {
    "router": r"/router",
    "experts": r"/experts",
    "assign": r"(^|/)assign(_\d+)?/",
    "dispatch": r"(^|/)dispatch(_\d+)?/",
    "combine": r"(^|/)combine(_\d+)?/",
    "auxiliary losses": r"(^|/)observe(_\d+)?/",
    "rest of the sparse layers": r"/moe",
    "dense MLP": r"/mlp",
    "norms": r"norm(_\d+)?/",
    "attention": r"/attention",
    "embeddings": r"_embed",
}
ALL_TO_ALL, AHEAD, REST = "all-to-all", "prefetch copies", "optimizer and rest"


def part_of(instruction: hlo.Instruction) -> str:
    """Returns the name of the part of the model that an instruction belongs to."""
    if instruction.kind.startswith("all-to-all"):
        return ALL_TO_ALL
    if instruction.kind in traffic.AHEAD:
        return AHEAD
    fits = (part for part, pattern in PARTS.items() if re.search(pattern, instruction.operation))
    return next(fits, REST)


def by_part(text: str) -> tuple[dict[str, int], int]:
    """Returns bytes by part, the largest first, and those of them around the rows of gathers.

    Args:
      text: of an optimized program.
    """
    sums, around = collections.Counter(), 0
    for moved in traffic.moved(hlo.read(text)):
        sums[part_of(moved.instruction)] += moved.bytes
        around += moved.around
    return dict(sums.most_common()), around
