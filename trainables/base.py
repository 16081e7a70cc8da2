"""The base of every configuration type: frozen, typed, unknown keys refused."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LONGEST = 1_000  # characters


class Config(BaseModel):
    """A frozen, validated configuration object; unknown keys are errors, numbers are finite, whole
    ones below 2³¹ but for those in `wide`, which are below 2⁶³, and texts fit into a message."""

    wide: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _holdable(cls, value: Any, info: ValidationInfo) -> Any:
        bits = 63 if info.field_name in cls.wide else 31
        if type(value) is int and abs(value) >= 2**bits:
            raise ValueError(f"{value}: whole numbers are below 2^{bits} = {2**bits:,}")
        if isinstance(value, str) and len(value) > LONGEST:
            raise ValueError(f"a text of {len(value):,} characters: it has {LONGEST:,} at most")
        return value
