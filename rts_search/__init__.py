"""The sweep service: command line, spec, searcher, stoppers and driver."""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rts_search.shadows import check_own

check_own()

if TYPE_CHECKING:
    from rts_search.notebook import Sweep
    from rts_search.notebook import load_model as load_model
    from rts_search.notebook import open_sweep as open  # noqa: A004  (as in rts_search.open)
    from rts_search.notebook import run as run
    from trainables.own.task import searchable as searchable

_PUBLIC = {
    "Sweep": ("rts_search.notebook", "Sweep"),
    "load_model": ("rts_search.notebook", "load_model"),
    "open": ("rts_search.notebook", "open_sweep"),
    "run": ("rts_search.notebook", "run"),
    "searchable": ("trainables.own.task", "searchable"),
}
__all__ = ["Sweep", "load_model", "open", "run", "searchable"]


def __dir__() -> list[str]:
    return [*__all__]  # what the Tab key completes


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:  # when it is asked for: `import rts_search` loads nothing
        module, own = _PUBLIC[name]
        with warnings.catch_warnings():  # tqdm's, in notebooks, for bars that we do not show
            warnings.filterwarnings("ignore", "IProgress not found")
            return getattr(import_module(module), own)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
