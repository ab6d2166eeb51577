"""Learning rates of fine-tuning: higher for the head, lower for the first blocks."""

from limoe_tf import checks


def rate_factors(
    *, depth: int, head_factor: float = 1.0, layer_decay: float = 1.0
) -> dict[str, float]:
    """Returns the `rate_factors` of `train.optimizer.AdamW` for a model with a backbone.

    Args:
      depth: L, blocks of the backbone.
      head_factor: of what does not belong to the backbone.
      layer_decay: factor of the last block against what is behind it, of each block against the
        next one, and of embeddings against the first block.

    Reference: https://arxiv.org/abs/2106.08254, appendix (layer-wise decay);
      https://arxiv.org/abs/2111.02358, appendix (20 times the rate for the head of VQA).
    """
    checks.positive_int("depth", depth)
    checks.number_in("layer_decay", layer_decay, 0, 1)
    factors = {"^(?!backbone/)": checks.number_in("head_factor", head_factor, 0)}
    if layer_decay < 1:
        factors["^backbone/(image|text)_embed/"] = layer_decay ** (depth + 1)
        factors.update(
            {f"^backbone/.*block_{n:02d}/": layer_decay ** (depth - n) for n in range(depth)}
        )
    return factors
