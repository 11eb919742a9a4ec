"""Activation checkpointing: keep the input of each layer, run the layer again for its gradient.

Training deep nets with sublinear memory cost, arXiv:1604.06174. Random noise inside a layer is
drawn again from the same state, so the second run equals the first.
"""

from functools import partial

from torch.utils.checkpoint import checkpoint

from mixtral.model import Transformer


def checkpoint_activations(model: Transformer) -> None:
    """Make every decoder layer of a model forget what lies between its input and its output.

    In place; names of parameters do not change. A ``RouterRecorder`` sees each layer a second time
    in the backward pass, so read it before.
    """
    for layer in model.model.layers:
        # The instance's own forward goes before the class's; hooks stay outside.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
