"""How much text a calibration reads and how it rounds."""

from dataclasses import dataclass

from mixtral.validation import require_int, require_positive_number


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSettings:
    """Settings of a calibration.

    Raises:
        ConfigError: A field is outside its allowed values.
    """

    min_tokens: int = 16_384
    """Tokens to read at least, if the text has them."""
    max_tokens: int = 131_072
    """Tokens to read at most, however few an expert has seen."""
    min_tokens_per_expert: int = 1_024
    """Tokens that each expert shall see; reading goes on until then. An expert with fewer borrows
    from the other tokens of its layer, and the report names it."""
    tokens_per_pass: int = 4_096
    """Tokens of one pass through a layer; more is a little faster and takes more memory."""
    damping: float = 0.01
    """Added to the diagonal of the second moments, relative to its mean (GPTQ, section 3.3)."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("min_tokens", "min_tokens_per_expert", "tokens_per_pass"):
            require_int(f"calibration {name}", getattr(self, name), low=1)
        require_int("calibration max_tokens", self.max_tokens, low=self.min_tokens)
        require_positive_number("calibration damping", self.damping)
