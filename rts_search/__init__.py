"""The sweep service: command line, spec, searcher, stoppers and driver."""

from typing import TYPE_CHECKING, Any

from rts_search.shadows import check_own

check_own()

if TYPE_CHECKING:
    from rts_search.notebook import Sweep
    from rts_search.notebook import load_model as load_model
    from rts_search.notebook import open_sweep as open  # noqa: A004  (as in rts_search.open)
    from rts_search.notebook import run as run

_PUBLIC = {"Sweep": "Sweep", "load_model": "load_model", "open": "open_sweep", "run": "run"}
__all__ = ["Sweep", "load_model", "open", "run"]


def __dir__() -> list[str]:
    return [*__all__]  # what the Tab key completes


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:  # when it is asked for: `import rts_search` loads nothing
        import warnings

        with warnings.catch_warnings():  # tqdm's, in notebooks, for bars that we do not show
            warnings.filterwarnings("ignore", "IProgress not found")
            from rts_search import notebook

        return getattr(notebook, _PUBLIC[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
