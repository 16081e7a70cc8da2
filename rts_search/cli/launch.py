"""Runs a sweep for the command line: its name, its plan, its end."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console

from results.parts.files import SET_ASIDE, set_aside
from results.storage import SweepFolder
from rts_search.driver.lock import CONTROL, hold_lock, is_locked
from rts_search.notebook import Sweep
from rts_search.spec.changes import check_changes
from rts_search.spec.claim import CLAIMS
from rts_search.spec.folder import SPEC, read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.written import dump

# all that a sweep writes into its folder
OWN = (SPEC, "epochs", "trials", "checkpoints", "trunks", CLAIMS, CONTROL, SET_ASIDE, "tensorboard")


def settle_name(
    spec: SweepSpec, by_name: bool, overwrite: bool, dry_run: bool, go_on: bool = False
) -> SweepSpec:
    """The spec under a name that is free: a name that exists, or is being begun, gets a number.

    One that was asked for by name is refused instead (ValueError), or deleted with `overwrite`;
    to `go_on` with it, the spec must not make its trials incomparable.
    """
    folder = spec.folder
    if _is_free(folder) or ((by_name or go_on) and not folder.exists(SPEC)):
        return spec
    if go_on:
        check_changes(folder, read_spec(folder), spec)
        return spec
    if overwrite:
        if not dry_run:
            from rts_search.search.checks import check_spec

            check_spec(spec)  # nothing is deleted for a sweep that cannot run
            with hold_lock(folder):  # not under a running driver
                for entry in OWN:  # other files there are somebody's
                    folder.delete(entry)
        return spec
    if by_name:
        raise ValueError(
            f"sweep {spec.name!r} exists in {spec.storage_path}; go on with it: rts-search resume "
            f"{folder.argument()}; or replace it: add --overwrite"
        )
    number = 2
    while not _is_free(SweepFolder(spec.storage_path, f"{spec.name}-{number}")):
        number += 1
    return spec.model_copy(update={"name": f"{spec.name}-{number}"})


def _is_free(folder: SweepFolder) -> bool:
    return not folder.exists(SPEC) and not is_locked(folder)


def put_aside(folder: SweepFolder, files: Sequence[str]) -> None:
    """Set parts of the ledger aside that cannot be read, while no driver runs the sweep."""
    with hold_lock(folder):
        for file in files:
            print(f"{file} is set aside: {folder.uri_of(set_aside(folder, file))}")


def print_plan(spec: SweepSpec, preset: Sequence[str] = ()) -> None:
    """`--dry-run`: what the preset says of itself, the resolved spec and what would be trained,
    after all checks. Nothing is downloaded."""
    from rts_search.search.checks import check_spec, search_space
    from rts_search.search.warm_start import warm_start
    from rts_search.shadows import check_here
    from rts_search.stopping.stopper import describe_stop, make_stopper
    from rts_search.trials.trial import controls

    check_here()  # as the sweep would
    notes = check_spec(spec, download=False)
    begun = spec.folder.exists(SPEC)
    notes += warm_start(spec, search_space(spec), begun).lines
    print("".join(f"# {line}\n" for line in preset), end="")
    print(dump(spec.model_dump(mode="json")), end="")
    stopper = make_stopper(spec)
    longest = sum(stopper.rungs) if stopper.by_schedule else spec.train.epochs
    lines = [
        f"{spec.search.trials} configurations of {spec.space} by {spec.search.sampler}, "
        f"at most {spec.search.trials * longest} epochs"
    ]
    if asked := spec.search.baselines:
        arms = {c.control: c.total_epochs for c in controls(spec)}
        named = ", ".join(f"{arm} T={epochs}" for arm, epochs in arms.items())
        each = f"{asked.trials} of each arm: " if asked.trials > 1 else ""
        lines.append(f"controls, never stopped: {each}{named}")
    lines.append(describe_stop(spec))
    budgets = {k: v for k, v in spec.budget.model_dump().items() if v is not None}
    if budgets:
        named = " or ".join(f"{key} {value:g}" for key, value in budgets.items())
        lines.append(f"ends early at {named}")
    lines.append(f"ledger {spec.folder.uri}")
    print("\n".join(f"# {line}" for line in lines + notes))


def launch(
    spec: SweepSpec,
    address: str | None,
    verbose: bool,
    accept_changes: bool = False,
    new: bool = False,
    thawed: Collection[str] = (),
) -> None:
    """Run or resume a sweep, then say what came out; exit code 130 if it was interrupted, 1 if
    nothing came of it.

    A sweep that its budget ended is finished, though it can go on with a larger one. Raises
    TakenError, a ValueError, while another driver has it, or if it is not `new` though it should.
    """
    from rts_search.answers.standing import nothing_came
    from rts_search.cluster.session import prepare_environment

    prepare_environment(address, verbose)
    # loading torch and Ray, the data and Ray's start take ten seconds and more
    print(f"sweep {spec.name}: checks the spec, loads the data, starts Ray …", flush=True)
    from rts_search.run import SweepResult, run_sweep
    from rts_search.show.console import make_console

    console, folder = make_console(), spec.folder
    try:
        result = run_sweep(spec, console, address, verbose, accept_changes, new, thawed)
    except KeyboardInterrupt as signal:  # outside of Tune's loop
        if not folder.exists(SPEC):
            raise
        result = SweepResult(folder, interrupted=str(signal) or "interrupted by SIGINT")
    if result.interrupted:
        print(f"{result.interrupted}: everything so far is kept")
        print(f"go on with: rts-search resume {folder.argument()}")
        raise SystemExit(130)
    print_end(Sweep(folder), console)
    if result.used_up:
        print(f"\n{result.used_up}; nothing is left to do, unless it is raised:")
        print(f"  rts-search resume {folder.argument()} {result.used_up.option}")
    if reason := result.mistake or nothing_came(Sweep(folder)):
        raise SystemExit(f"rts-search: {reason}")


def print_end(sweep: Sweep, console: Console) -> None:
    """The best configurations against the controls, and what to do next, on 24 lines."""
    from rts_search.answers.audit import print_in_short
    from rts_search.answers.standing import print_without_weights, without_weights
    from rts_search.claims.words import outlook
    from rts_search.show.ranking import print_ranking
    from rts_search.show.tables import print_spent

    # where a configuration takes lines of its own, fewer
    ranking = sweep.ranking(top=5 if console.width >= 120 else 2)
    print_ranking(console, ranking)
    print_spent(console, sweep.summary())
    print_in_short(console, sweep)
    print_without_weights(console, sweep, without_weights(sweep))
    commands = [f"best {sweep.argument} --top 10" + ("" if ranking.trials else " --all")]
    if ranking.trials:
        deviation = ranking.reruns.deviation if ranking.reruns else None
        winner = sweep.folder.argument(ranking.trials[0]["trial_id"])
        commands += [f"show {winner}", outlook(sweep.argument, deviation, ranking.metric)]
    for number, command in enumerate(commands):
        print(f"{'' if number else 'next:':6}rts-search {command}")
