"""A sweep opened in this process: by its driver, up to the moment when Ray would start, and by
all that reads."""

from __future__ import annotations

import io
from typing import NoReturn

import pytest
from rich.console import Console

from results.storage import SweepFolder
from rts_search import runner
from rts_search.driver import control
from rts_search.spec.changes import resumed_spec
from rts_search.spec.model import SweepSpec


class RayWouldStart(Exception):
    pass


def resume_until_ray(folder: SweepFolder, spec: SweepSpec | None = None) -> bool:
    """What `resume` does before it trains; False if nothing is left to train. Raises what it does.

    `spec` is what the sweep begins with where it has no spec yet.
    """

    def would_start(*_: object) -> NoReturn:
        raise RayWouldStart

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "ray_session", would_start)
        patch.setattr(control, "CLAIM_SECONDS", 0.0)  # no other driver is near
        try:
            asked = resumed_spec(folder, []) if spec is None else spec
            runner.run_sweep(asked, Console(file=io.StringIO(), width=200))
        except RayWouldStart:
            return True
    return False
