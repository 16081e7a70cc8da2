"""How long an epoch takes: as earlier sweeps in the storage say, or a short probe."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from results.database import ask
from results.query import list_sweeps
from results.schema import records
from results.storage import SweepFolder
from results.views import literal
from rts_search.cluster.layout import Layout
from rts_search.spec.folder import read_spec
from rts_search.spec.model import SweepSpec
from rts_search.spec.provenance import hardware
from trainables.config import OptimizerConfig

if TYPE_CHECKING:
    from trainables.data import DeviceData

TRIAL_SECONDS = 0.2  # Tune's, with a reused worker
PROBE_SECONDS, ROUNDS = 6.0, 3  # of timed training, for each kind of epoch
# settings of training that change no epoch's cost
FREE = {"epochs", "lr", "momentum", "dampening", "nesterov", "weight_decay", "seed", "schedule_by"}


@dataclass(frozen=True)
class Speed:
    """Seconds: of training an epoch, of its validation, of a run's test, of beginning a trial."""

    sgd: float
    perturbed: float
    evaluation: float
    test: float
    trial: float
    source: str


def make_speed(
    spec: SweepSpec, layout: Layout, earlier: list[str], data: DeviceData, probe: bool
) -> Speed | None:
    """From the `earlier` sweeps, which `like_sweeps` gives, else by a probe if that is wanted."""
    device = device_type(spec, layout)
    # a completed run is tested twice: with its final and with its best weights
    tests = 2 * len(data.test_labels) / len(data.validation_labels)
    if (found := earlier_speed(spec, earlier, device, tests)) is not None or not probe:
        return found
    return probe_speed(spec, layout.threads, device, tests)


def device_type(spec: SweepSpec, layout: Layout) -> str:
    """`cpu`, `cuda` or `mps`: where the trials of a layout will train."""
    from trainables.state import resolve_device

    if spec.train.device != "auto":
        return spec.train.device.partition(":")[0]
    here = resolve_device("auto").type
    return "cuda" if layout.gpu else "cpu" if here == "cuda" else here


def like_sweeps(spec: SweepSpec) -> list[str]:
    """Earlier sweeps in the storage whose epochs cost what this one's will, newest first."""
    dated = [(each.updated, each.name) for each in list_sweeps(spec.storage_path) if each.updated]
    return [name for _, name in sorted(dated, reverse=True) if _is_like(spec, name)]


def _is_like(spec: SweepSpec, name: str) -> bool:
    try:
        other = read_spec(SweepFolder(spec.storage_path, name))
    except ValueError:  # none, or of another version
        return False
    as_fast = {"root", "download", "validation_seed", "label_noise", "label_noise_seed"}
    return (
        other.data.model_dump(exclude=as_fast) == spec.data.model_dump(exclude=as_fast)
        and other.model == spec.model
        and other.train.model_dump(exclude=FREE) == spec.train.model_dump(exclude=FREE)
        and (other.resources.cpu, other.resources.gpu) == (spec.resources.cpu, spec.resources.gpu)
    )


def earlier_speed(spec: SweepSpec, sweeps: list[str], device: str, tests: float) -> Speed | None:
    """As the newest of these sweeps has it that ran on such a device and hardware, or None."""
    sql = (
        "SELECT avg(e.train_seconds) FILTER (NOT perturbing AND epoch > 1) AS sgd, "
        "avg(e.train_seconds) FILTER (perturbing AND epoch > 1) AS perturbed, "
        "avg(e.eval_seconds) AS evaluation, "
        "(SELECT median(epoch(ended - started) - epoch_seconds) FROM trials WHERE retries = 0) "
        "AS begin FROM epochs e JOIN trials t USING (sweep, trial_id) "
        f"WHERE config_batch_size = {spec.train.batch_size} "
        f"AND hardware = {literal(hardware())} AND split_part(device, ':', 1) = {literal(device)}"
    )
    for name in sweeps:
        (row,) = records(ask(spec.storage_path, sql, sweeps=[name]))
        sgd, perturbed = row["sgd"], row["perturbed"]
        if sgd is None and perturbed is None:
            continue
        sgd = perturbed / 2 if sgd is None else sgd
        perturbed = 2 * sgd if perturbed is None else perturbed
        evaluation, begin = row["evaluation"], row["begin"]
        begin = TRIAL_SECONDS if begin is None else max(0.0, begin)
        source = f"sweep {name}"
        return Speed(sgd, perturbed, evaluation, tests * evaluation, begin, source)
    return None


def perturbed_shares(spec: SweepSpec, sweeps: list[str]) -> dict[str, float]:
    """The mean share of perturbed epochs in complete schedules of these sweeps, by trigger."""
    if not sweeps:
        return {}
    sql = (
        "SELECT config_trigger AS trigger, avg(share) AS share FROM (SELECT sweep, trial_id, rung, "
        "avg(perturbing::INT) AS share FROM epochs GROUP BY sweep, trial_id, rung "
        "HAVING count(*) = any_value(total_epochs)) JOIN trials USING (sweep, trial_id) "
        "WHERE control IS NULL AND config_trigger IN ('variance', 'cosine', 'gap') GROUP BY 1"
    )
    rows = records(ask(spec.storage_path, sql, sweeps=sweeps))
    return {row["trigger"]: row["share"] for row in rows}


def probe_speed(spec: SweepSpec, threads: int, device: str, tests: float) -> Speed | None:
    """Train some steps of SGD and PUGD here and now, in turns; None without such a device."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            probes = [Probe(spec, family, device) for family in ("sgd", "pugd")]
            times = [[probe.train() for probe in probes] for _ in range(ROUNDS)]
            evaluation = min(probes[0].evaluate() for _ in range(ROUNDS))
    finally:
        torch.set_num_threads(before)
    sgd, perturbed = (min(column) for column in zip(*times, strict=True))
    source = f"a probe on {device}, {threads} thread{'s' if threads > 1 else ''}"
    trial = TRIAL_SECONDS + probes[1].build_seconds
    return Speed(sgd, max(sgd, perturbed), evaluation, tests * evaluation, trial, source)


class Probe:
    """A run of which as many steps are timed as some seconds allow; times are of whole epochs.

    What is set up lazily, in the first step, is not counted.
    """

    def __init__(self, spec: SweepSpec, family: str, device: str) -> None:
        from trainables.state import TrainingState, load_data, resolve_device

        train = spec.train.model_copy(update={"epochs": ROUNDS + 2, "device": device})
        rule = OptimizerConfig.model_validate({"family": family})
        config = spec.base.model_copy(update={"train": train, "optimizer": rule})
        load_data(config.data, resolve_device(device))  # once a worker
        started = time.perf_counter()
        self.run = TrainingState(config)
        self.build_seconds = time.perf_counter() - started
        self.data, self.epoch, self.steps = self.run.data, 0, min(2, self.run.steps_per_epoch)
        self.train()
        step = self.train() / self.run.steps_per_epoch
        affordable = int(PROBE_SECONDS / ROUNDS / step)
        self.steps = max(self.steps, min(affordable, self.run.steps_per_epoch))

    def train(self) -> float:
        from trainables.loop import EVAL_BATCH, train_epoch

        images = self.steps * self.run.config.train.batch_size
        self.run.data = self.data.first(images, EVAL_BATCH)
        self.epoch += 1
        started = time.perf_counter()
        train_epoch(self.run, self.epoch)
        return (time.perf_counter() - started) * self.run.steps_per_epoch / self.steps

    def evaluate(self) -> float:
        from trainables.loop import EVAL_BATCH, evaluate

        images, labels = self.data.validation_images, self.data.validation_labels
        started = time.perf_counter()
        evaluate(self.run, images[:EVAL_BATCH], labels[:EVAL_BATCH])
        part = min(EVAL_BATCH, len(labels)) / len(labels)
        return (time.perf_counter() - started) / part
