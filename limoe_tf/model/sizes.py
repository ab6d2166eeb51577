"""The named architectures, one table: plain values for the constructor of a model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from limoe_tf import checks


class Size(NamedTuple):
    """One row of the table; `sparse_blocks` counts from 0."""

    depth: int
    width: int
    hidden_width: int
    num_heads: int
    patch_size: int
    image_size: int
    sparse_blocks: tuple[int, ...]


def _every_second(depth):
    return tuple(range(1, depth, 2))


# The paper gives H/14 twelve sparse blocks, placed unevenly, block 18 among them; the other eleven
# are this project's choice. B and smaller follow the paper's figures (every second block), L too.
_H14_SPARSE = (3, 7, 11, 15, 18, 21, 23, 25, 27, 29, 30, 31)

# "S" is 12 x 384 in LiT and "Scaling Vision Transformers", and 8 x 512 in V-MoE. The paper does not
# say which of them its S is, so both are here: plain "S" is the former.
_TABLE = {
    "tiny": Size(4, 128, 512, 4, 8, 64, _every_second(4)),
    "S/32": Size(12, 384, 1536, 6, 32, 224, _every_second(12)),
    "S/16": Size(12, 384, 1536, 6, 16, 224, _every_second(12)),
    "V-MoE-S/32": Size(8, 512, 2048, 8, 32, 224, _every_second(8)),
    "V-MoE-S/16": Size(8, 512, 2048, 8, 16, 224, _every_second(8)),
    "B/32": Size(12, 768, 3072, 12, 32, 224, _every_second(12)),
    "B/16": Size(12, 768, 3072, 12, 16, 224, _every_second(12)),
    "L/32": Size(24, 1024, 4096, 16, 32, 224, _every_second(24)),
    "L/16": Size(24, 1024, 4096, 16, 16, 224, _every_second(24)),
    "H/14": Size(32, 1280, 5120, 16, 14, 224, _H14_SPARSE),
}

NAMES = tuple(_TABLE)
# VL-MoE's, by name: a size, and how many of its last blocks have a feed-forward for pairs.
_VLMOE = {
    "vlmoe-tiny": (Size(4, 128, 512, 4, 16, 64, _every_second(4)), 1),
    "VL-MoE-SMALL": (Size(8, 384, 1536, 6, 16, 224, _every_second(8)), 1),
    "VL-MoE-BASE": (Size(12, 768, 3072, 12, 16, 224, _every_second(12)), 2),
}
VLMOE_NAMES = tuple(_VLMOE)
BLOCK_KINDS = ("dense", "sparse")


def plan_of(depth: int, sparse_blocks: Sequence[int]) -> tuple[str, ...]:
    """Returns the plan in which the blocks with these indices are sparse.

    Args:
      depth: number of blocks.
      sparse_blocks: indices of the sparse blocks, from 0; empty for a dense model.

    Returns:
      Tuple of "dense" or "sparse" for each block.

    Raises:
      ValueError: if an index is out of range, or given twice.
    """
    for block in sparse_blocks:
        checks.integer_in("sparse_blocks", block, 0, depth - 1)
    if len(set(sparse_blocks)) != len(sparse_blocks):
        raise ValueError(
            f"`sparse_blocks` must name each block once. Received: sparse_blocks={sparse_blocks}"
        )
    return tuple("sparse" if block in sparse_blocks else "dense" for block in range(depth))


def constructor_values(size: str) -> dict[str, Any]:
    """Returns the constructor arguments of a named architecture.

    Args:
      size: one of `NAMES`: "B/16" is width B with patches of 16 pixels.

    Returns:
      Dict of `width`, `depth`, `plan`, `num_heads`, `hidden_width`, `patch_size`, `image_size`.

    Raises:
      ValueError: if there is no such size.

    Reference: LIMoE, https://arxiv.org/abs/2206.02770; widths and depths from "Scaling Vision
    Transformers", https://arxiv.org/abs/2106.04560, and V-MoE, https://arxiv.org/abs/2106.05974.
    """
    return _values(_TABLE[checks.one_of("size", size, NAMES)])


def vlmoe_values(size: str) -> dict[str, Any]:
    """Returns the constructor arguments of a named `VlMoe`.

    Args:
      size: one of `VLMOE_NAMES`.

    Returns:
      As `constructor_values`, and `fused_blocks`.

    Raises:
      ValueError: if there is no such size.

    Reference: https://arxiv.org/abs/2303.07226; 6 sparse blocks of BASE are those that make the
      1.9 billion parameters that its authors name.
    """
    row, fused_blocks = _VLMOE[checks.one_of("size", size, VLMOE_NAMES)]
    return {**_values(row), "fused_blocks": fused_blocks}


def _values(row):
    return {
        "width": row.width,
        "depth": row.depth,
        "plan": plan_of(row.depth, row.sparse_blocks),
        "num_heads": row.num_heads,
        "hidden_width": row.hidden_width,
        "patch_size": row.patch_size,
        "image_size": row.image_size,
    }


def checked_plan(plan: Sequence[str] | None, depth: int) -> tuple[str, ...]:
    """Returns the plan as a tuple; every second block is sparse if it is None."""
    checks.positive_int("depth", depth)
    if plan is None:
        return tuple(BLOCK_KINDS[number % 2] for number in range(depth))
    plan = tuple(plan)
    for kind in plan:
        checks.one_of("plan", kind, BLOCK_KINDS)
    if len(plan) != depth:
        raise ValueError(
            f"`plan` must have an entry for each of depth={depth} blocks. Received: plan={plan}"
        )
    return plan


def checked_experts(
    num_experts: int | Sequence[int], plan: Sequence[str], *, pools: int = 1
) -> dict[int, int]:
    """Returns how many experts each pool of each sparse block has.

    Args:
      num_experts: of a sparse block, or a sequence of a number for each sparse block of the plan.
      plan: "dense" or "sparse" for each block.
      pools: number of pools into which a block's experts are divided evenly.

    Returns:
      dict of experts by the block's index, from 0.

    Raises:
      ValueError: if there are not as many numbers as sparse blocks, or one cannot be divided.
    """
    blocks = [index for index, kind in enumerate(plan) if kind == "sparse"]
    several = isinstance(num_experts, (tuple, list))
    numbers = tuple(num_experts) if several else (num_experts,) * len(blocks)
    if len(numbers) != len(blocks):
        raise ValueError(
            f"`num_experts` must be one number, or one for each of {len(blocks)} sparse blocks. "
            f"Received: num_experts={num_experts}"
        )
    for experts in numbers:
        if checks.positive_int("num_experts", experts) % pools:
            raise ValueError(
                "`num_experts` must be even where each modality has experts of its own. "
                f"Received: num_experts={experts}"
            )
    return {block: experts // pools for block, experts in zip(blocks, numbers)}


def experts_of_modalities(
    num_experts: int | Sequence[int] | Mapping[str, int | Sequence[int]], plan: Sequence[str]
) -> dict[str, dict[int, int]]:
    """Returns how many experts each modality has in each sparse block, where each has its own.

    Args:
      num_experts: see `checked_experts`, of each modality; or a dict of such by modality.
      plan: "dense" or "sparse" for each block.

    Returns:
      dict by modality of dicts of experts by the block's index, from 0.

    Raises:
      ValueError: if a dict names other modalities; see `checked_experts`.
    """
    if not isinstance(num_experts, Mapping):
        num_experts = dict.fromkeys(("image", "text"), num_experts)
    if set(num_experts) != {"image", "text"}:
        raise ValueError(
            "`num_experts` of modalities must be a dict of 'image' and 'text'. "
            f"Received: num_experts={num_experts}"
        )
    return {name: checked_experts(num_experts[name], plan) for name in ("image", "text")}
