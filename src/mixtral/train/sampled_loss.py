"""The next-token loss against a sample of the vocabulary, for small models with a large one.

In a model as small as nano the head costs more than all layers: each token that is learned is
compared with 32,768 words. Sampled softmax (arXiv:1412.2007, section 3) compares it with the words
that the step has and some drawn at random, which stand for all others. Held-out loss is always
measured against the whole vocabulary.
"""

import math

import torch
from torch import Tensor

from mixtral.train.losses import linear_cross_entropy

_BIAS_COLUMNS = 8  # one would do; rows of a whole number of vectors are faster


def sampled_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, words: Tensor, num_sampled: int
) -> Tensor:
    """Estimate ``linear_cross_entropy`` from the step's words and a sample of the others.

    The words that are drawn, uniformly and without repeats, count as often as there are others for
    each: the expected sum of exponentials is that of the whole vocabulary. Draws from PyTorch's
    default generator.

    Args:
        hidden: [T, D], float32, bfloat16 or float64.
        weight: Output head, [V, D], same dtype; only rows that are compared get a gradient.
        targets: Word to predict at each row, [T], int64; -1 leaves a row out.
        words: Words that are always compared, any shape, int64; targets need not be among them.
        num_sampled: How many of the other words are drawn; all of them where they are fewer.

    Returns:
        Scalar float32 (float64 for float64), in nats: the loss itself where all words are compared.
    """
    is_kept = torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device)
    is_kept[words.flatten()] = True
    is_kept[targets[targets >= 0]] = True
    kept, others = is_kept.nonzero()[:, 0], (~is_kept).nonzero()[:, 0]
    drawn = others[torch.randperm(len(others))[:num_sampled].to(others.device)]
    rows = torch.cat([kept, drawn])
    place = torch.full_like(is_kept, -1, dtype=torch.int64)
    place[rows] = torch.arange(len(rows), device=rows.device)
    # A column of ones beside the states meets one with the logarithm of how often a word counts.
    bias = weight.new_zeros(len(rows), _BIAS_COLUMNS)
    bias[len(kept) :, 0] = math.log(max(1, len(others)) / max(1, len(drawn)))
    ones = torch.nn.functional.pad(hidden, (0, _BIAS_COLUMNS), value=1.0)
    compared = torch.cat([weight.index_select(0, rows), bias], dim=1)
    found = torch.where(targets >= 0, place[targets.clamp(min=0)], -1)
    return linear_cross_entropy(ones, compared, found)
