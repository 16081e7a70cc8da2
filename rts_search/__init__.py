"""The sweep service: command line, spec, searcher, stoppers and driver."""

from typing import TYPE_CHECKING, Any

from rts_search.shadows import check_own

check_own()

if TYPE_CHECKING:
    from rts_search.notebook import Sweep
    from rts_search.notebook import load_model as load_model
    from rts_search.notebook import open_sweep as open  # noqa: A004  (as in rts_search.open)

_PUBLIC = {"Sweep": "Sweep", "load_model": "load_model", "open": "open_sweep"}
__all__ = ["Sweep", "load_model", "open"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:  # when it is asked for: `import rts_search` loads nothing
        from rts_search import notebook

        return getattr(notebook, _PUBLIC[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
