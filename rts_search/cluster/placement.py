"""Places a sweep's trials on the nodes, and their data."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from results.storage import SweepFolder
from rts_search.cluster.layout import Layout, Node, explain, has, make_layout
from rts_search.cluster.session import Session
from rts_search.spec.model import ResourcesConfig, SweepSpec
from trainables.data.share import SharedData

NODES_SECONDS = 300.0
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECURITY_TOKEN",
    "AWS_SESSION_TOKEN",
)


@dataclass(frozen=True)
class Placement:
    """`shared` is the dataset for nodes that lack its files, on a cluster that was joined."""

    layout: Layout
    shared: SharedData | None
    lines: tuple[str, ...]  # what a user should know of it

    def trainable(self) -> Any:
        """The Trainable for Tune, with its resources."""
        from ray import tune
        from ray.tune.execution import class_cache

        from trainables.tune import TrialRunner

        # else Tune sends the driver's keys to the workers in a setting that Ray logs and shows;
        # workers have those of their node
        class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
        ours: Any = TrialRunner
        if self.shared is not None:  # where Ray goes under, a driver with objects in it does too
            ours = tune.with_parameters(TrialRunner, shared=self.shared)
        found = tune.with_resources(ours, {"cpu": self.layout.cpu, "gpu": self.layout.gpu})
        # what the dashboard and `ps` show
        found.__name__ = found.__qualname__ = TrialRunner.__name__
        return found


def place(
    spec: SweepSpec,
    folder: SweepFolder,
    session: Session,
    say: Callable[[str], None],
    poll: Callable[[], None],
) -> Placement:
    """Check the nodes, measure a trial where `gpu: auto` asks for it, and lay the trials out.
    While it waits for nodes it polls.

    Raises ValueError, in one line, if nodes cannot see the storage or if no trial fits.
    """
    nodes, lines, share = list(session.nodes), [], 1.0
    if session.joined:
        from rts_search.cluster.nodes import check_nodes

        nodes = wait_for_nodes(spec.resources, nodes, say, poll)
        check_nodes(folder, nodes)
    if spec.resources.gpu == "auto" and any(node.gpus for node in nodes):
        from rts_search.cluster.gpu_share import probe

        if spec.task is not None:
            lines.append("a trial of a task of your own has a GPU to itself; see resources.gpu")
        else:
            usage = probe(spec)
            share = usage.share()
            lines.append(str(usage))
    layout = make_layout(spec.resources, nodes, share, can_grow=session.joined)
    lines.append(explain(layout, nodes))
    return Placement(layout, _shared(spec, session), tuple(lines))


def wait_for_nodes(
    resources: ResourcesConfig,
    nodes: list[Node],
    say: Callable[[str], None],
    poll: Callable[[], None],
) -> list[Node]:
    """The nodes once a trial fits on one of them, or after some minutes.

    A head is up before its nodes are. With `resources.concurrent` there is nothing to wait for:
    the trials themselves ask for nodes.
    """
    from rts_search.cluster.nodes import alive_nodes

    gpu = 0.0 if resources.gpu == "auto" else float(resources.gpu)
    deadline, told = time.monotonic() + NODES_SECONDS, False
    while not (resources.concurrent or any(node.fits(resources.cpu, gpu) for node in nodes)):
        if time.monotonic() > deadline:
            break
        if not told:
            say(
                f"no node has {resources.cpu:g} CPU and {gpu:g} GPU for a trial yet, Ray has "
                f"{has(nodes)}: waiting up to {NODES_SECONDS / 60:g} min for one to join"
            )
            told = True
        time.sleep(1.0)
        poll()
        nodes = alive_nodes()
    return nodes


def _shared(spec: SweepSpec, session: Session) -> SharedData | None:
    if not session.joined or spec.task is not None:
        return None
    from rts_search.cluster.data import share_data

    return share_data(spec.data)
