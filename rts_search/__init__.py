"""The sweep service: command line, spec, searcher, stoppers and driver."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rts_search.shadows import check_own

check_own()

if TYPE_CHECKING:
    from rts_search.notebook import Sweep
    from rts_search.notebook import load_model as load_model
    from rts_search.notebook import open_sweep as open  # noqa: A004  (as in rts_search.open)
    from trainables.own.task import searchable as searchable

_PUBLIC = {
    "Sweep": ("rts_search.notebook", "Sweep"),
    "load_model": ("rts_search.notebook", "load_model"),
    "open": ("rts_search.notebook", "open_sweep"),
    "searchable": ("trainables.own.task", "searchable"),
}
__all__ = ["Sweep", "load_model", "open", "searchable"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:  # when it is asked for: `import rts_search` loads nothing
        module, own = _PUBLIC[name]
        return getattr(import_module(module), own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
