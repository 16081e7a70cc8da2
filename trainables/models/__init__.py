"""Networks by name. Names load lazily."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.models.build import build_model as build_model
    from trainables.models.build import model_names as model_names


def __getattr__(name: str) -> Any:
    if name not in ("build_model", "model_names"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables.models import build

    return getattr(build, name)
