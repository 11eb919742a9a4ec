"""What a layer's calibration hands on: second moments of inputs in, rounded weights out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from mixtral.calibrate.compensation import inverse_factor, quantize_compensated
from mixtral.kernels import formats
from mixtral.quantization import QuantizationRecipe, is_low_bit


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounder:
    """Rounds weights to the formats of a recipe and collects what is to be stored."""

    recipe: QuantizationRecipe
    """Formats of the parts."""
    damping: float
    """As in ``CalibrationSettings``."""
    _done: list[tuple[str, Tensor]] = field(default_factory=list)

    def wants(self, *names: str) -> bool:
        """Whether any of these weights gets a low-bit format, so that its inputs matter."""
        return any(is_low_bit(self.recipe.format_of(name)) for name in names)

    def factor(self, moments: Tensor) -> Tensor:
        """Return what ``round`` needs of inputs with these moments, [K, K]."""
        return inverse_factor(moments, damping=self.damping)

    def round(self, name: str, weight: Tensor, factor: Tensor | None) -> Tensor:
        """Round a weight and note it; return what the model computes with from here on.

        Args:
            name: Our name of the weight.
            weight: [N, K].
            factor: From ``factor`` for its inputs; None where not ``wants``.

        Returns:
            [N, K], dtype of ``weight``.
        """
        form = self.recipe.format_of(name)
        if factor is None or not is_low_bit(form):
            self._done.append((name, weight))
            return weight
        packed = quantize_compensated(weight, factor, form)
        self._done.append((name.removesuffix("weight") + "packed", packed))
        rows, cols = weight.shape
        return formats.dequantize(packed, form, rows=rows, cols=cols).to(weight.dtype)

    def take(self) -> Iterator[tuple[str, Tensor]]:
        """Hand over what was noted since the last call, and forget it."""
        while self._done:
            yield self._done.pop(0)


def second_moments(inputs: Iterable[Tensor]) -> Tensor:
    """Return the sum of x x^T over the rows of one or more tensors [T, K], float32, [K, K]."""
    total = None
    for rows in inputs:
        wide = rows.float()
        if total is None:
            total = wide.new_zeros(wide.shape[1], wide.shape[1])
        total.addmm_(wide.T, wide)
    assert total is not None
    return total


def borrowed_moments(own: Tensor, *, num_own: int, layer: Tensor, num_layer: int) -> Tensor:
    """Fill up the moments of an expert that saw few tokens with those of all its layer's tokens.

    Moments of few tokens know nothing of most directions, and rounding by them alone is worse than
    plain rounding. The layer's tokens count as K / 2 tokens, scaled to the size of the expert's
    own. On nano, an expert with 8 to 128 tokens then has half the output error of plain rounding
    in w1 and three quarters of it in w2 (docs/quantization.md).

    Args:
        own: Moments of the expert's tokens, [K, K].
        num_own: Their number.
        layer: Moments of all tokens as if they went to this expert, [K, K].
        num_layer: Their number.
    """
    per_token = layer / max(num_layer, 1)
    own_size, layer_size = own.diagonal().mean(), per_token.diagonal().mean()
    if num_own and own_size > 0 and layer_size > 0:
        per_token = per_token * (own_size / num_own / layer_size)
    return own + per_token * (len(own) / 2)
