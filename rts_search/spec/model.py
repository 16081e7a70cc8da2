"""The sweep's specification: one typed, validated object, read from YAML."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from results.meanings import OBJECTIVES, direction, is_objective, own_objective
from results.names import unknown
from results.storage import SweepFolder, refuse_secret
from trainables.base import Config
from trainables.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TaskConfig,
    TrainConfig,
    TrialConfig,
    without_unused,
)


class ControlsConfig(Config):
    """The baselines: an arm for each of the `families` at T, and with sgd one at 2T.

    Of the `trials` of each arm the first has the training settings of the spec, the others points
    of the ranges in `search.also`, the same ones for each arm.
    """

    families: list[Literal["sgd", "pugd", "sam", "asam"]] = Field(["sgd", "pugd"], min_length=1)
    trials: int = Field(default=1, ge=1)


Controls = Annotated[
    Annotated[bool, Tag("bool")] | Annotated[ControlsConfig, Tag("ControlsConfig")],
    Discriminator(lambda value: "bool" if isinstance(value, bool) else "ControlsConfig"),
]


class StorageConfig(Config):
    """Where sweeps lie; `follow_links`: also where links lead out of the sweep's folder."""

    path: str = "sweeps"
    follow_links: bool = False

    @field_validator("path")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        return refuse_secret(value)


Storage = Annotated[
    Annotated[str, Tag("str")] | Annotated[StorageConfig, Tag("StorageConfig")],
    Discriminator(
        lambda value: "StorageConfig" if isinstance(value, dict | StorageConfig) else "str"
    ),
]


class SearchConfig(Config):
    """How configurations are proposed. `trials` counts them without the baseline controls.

    `against` is a cost to be minimised beside the objective. `warm_start` names earlier sweeps:
    in the same storage, or by the path or URI of their folder. `share`: the SGD before triggers
    fire is trained once, where it is the same.
    """

    sampler: str = "tpe"
    trials: int = Field(default=32, ge=1)
    seed: int = Field(default=0, ge=0)
    controls: Controls = True
    start_from: Literal["none", "paper"] | list[dict[str, Any]] = "none"
    also: list[str] | dict[str, list[Any]] = Field(default_factory=list)
    objective: str = "val_accuracy"
    against: Literal["gradient_evaluations", "train_seconds"] | None = None
    warm_start: list[str] = Field(default_factory=list)
    share: Literal["auto", False] = "auto"

    @field_validator("objective", mode="before")
    @classmethod
    def _no_test(cls, value: Any) -> Any:
        if "test" in str(value):
            raise ValueError(
                f"{value!r}: test metrics are never an objective, or the test set would be "
                "fitted; use val_accuracy"
            )
        return value

    @field_validator("objective")
    @classmethod
    def _known(cls, value: str) -> str:
        if not is_objective(value):
            raise unknown("objective", value, OBJECTIVES)
        return value

    @property
    def baselines(self) -> ControlsConfig | None:
        """What `controls` asks for, None without any."""
        if isinstance(self.controls, ControlsConfig):
            return self.controls
        return ControlsConfig() if self.controls else None

    @model_validator(mode="after")
    def _something_to_tune(self) -> Self:
        if self.baselines and self.baselines.trials > 1 and not self.also:
            raise ValueError(
                f"controls.trials {self.baselines.trials}: nothing is searched beside the "
                "optimizer's own parameters; name it in search.also, as in [lr], or leave trials "
                "at 1"
            )
        return self

    @field_validator("warm_start")
    @classmethod
    def _no_secret(cls, value: list[str]) -> list[str]:
        return [refuse_secret(name) for name in value]


class StopConfig(Config):
    """Early stopping. Rungs are at T/etaᵏ epochs, where 1/eta of the trials go on; none is below
    `first_rung` (default: `stopping.rungs`).

    With `fidelity: schedule` rungs are complete schedules; with `epoch` they are epochs of one run.
    With `clock: firing` rungs are 2, 6, 18, … perturbed epochs (eta 3 by default), and a trial is
    judged there by what it gains on the sgd control. A trial whose trigger has yet to fire is not
    judged, unless `judge_unfired`. A share `audit` goes on whatever the stopper says.
    """

    policy: Literal["asha", "hyperband", "median", "none"] = "asha"
    fidelity: Literal["schedule", "epoch"] = "epoch"
    first_rung: int | None = Field(default=None, ge=1)
    eta: float = Field(default=4, ge=1.01, le=1000)  # nearer rungs are millions
    clock: Literal["epoch", "firing"] = "epoch"
    judge_unfired: bool = False
    audit: float = Field(default=0.05, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _eta_of_clock(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("clock") == "firing":
            return {"eta": 3, **value}
        return value

    @model_validator(mode="after")
    def _clock_has_a_run(self) -> Self:
        if self.clock == "epoch":
            return self
        if self.policy == "none":
            raise ValueError(
                "clock firing says when trials are judged, and with policy none none is: "
                "use policy asha, or leave clock out"
            )
        if self.fidelity == "schedule":
            raise ValueError(
                "clock firing counts the perturbed epochs of one run, and with fidelity schedule a "
                "trial has several: use fidelity epoch"
            )
        if self.judge_unfired:
            raise ValueError("clock firing starts at firing: judge_unfired goes with clock epoch")
        return self

    @property
    def by_schedule(self) -> bool:
        """Whether rungs are complete schedules."""
        return self.fidelity == "schedule" and self.policy != "none"


class ResourcesConfig(Config):
    """Per trial; `gpu: auto` is what a trial's memory takes where there are GPUs. `concurrent`
    caps trials. A trial with no epoch for `patience_minutes` is taken for hanging, and retried."""

    cpu: float = Field(default=1, gt=0, le=1e6)
    gpu: float | Literal["auto"] = "auto"
    concurrent: int | None = Field(default=None, ge=1)
    retries: int = Field(default=2, ge=0)
    patience_minutes: float | None = Field(default=30, gt=0, le=1e6)

    @field_validator("gpu")
    @classmethod
    def _gpu(cls, value: float | str) -> float | str:
        if isinstance(value, float) and (value < 0 or (value > 1 and value != int(value))):
            raise ValueError(f"gpu {value} is neither a fraction in 0–1 nor a whole number")
        return value


class BudgetConfig(Config):
    """What the sweep may cost, resumes included; it ends at whichever comes first.

    A gradient evaluation is one forward and backward pass over a batch: SGD pays 1 a step, a
    perturbed step 2. `target` ends the sweep when a completed trial's objective reaches it.
    """

    wide = frozenset({"gradient_evaluations"})

    hours: float | None = Field(default=None, gt=0, le=1e6)
    epochs: int | None = Field(default=None, ge=1)
    gradient_evaluations: int | None = Field(default=None, ge=1)
    target: float | None = None


class CheckpointConfig(Config):
    """How often an unfinished trial is saved, of how many trials and of how many controls the
    weights are kept (the best of each), and what the snapshots of shared SGD may take. With
    `keep_stopped` a stopped trial can be thawed."""

    every_seconds: float = Field(default=10, ge=0, le=1e9)
    keep_top: int = Field(default=3, ge=0)
    keep_stopped: bool = False
    trunk_mb: int = Field(default=2000, ge=0)


class SweepSpec(Config):
    """A sweep as asked for. `data`, `model`, `train` and `optimizer` are what all trials share;
    a `task` takes the place of data and model, and has its own objective."""

    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    storage: Storage = "sweeps"
    task: TaskConfig | None = None
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    space: str = "rts"
    search: SearchConfig = SearchConfig()
    stop: StopConfig = StopConfig()
    resources: ResourcesConfig = ResourcesConfig()
    budget: BudgetConfig = BudgetConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    loggers: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(default_factory=list)

    @field_validator("storage")
    @classmethod
    def _no_secret(cls, value: str | StorageConfig) -> str | StorageConfig:
        return refuse_secret(value) if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(dump(self))

    @model_validator(mode="before")
    @classmethod
    def _objective_of_task(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("task"), dict):
            return value
        search = value.get("search", {})
        if not isinstance(search, dict) or "objective" in search:
            return value
        with suppress(ValidationError):  # which its own field will say
            task = TaskConfig.model_validate(value["task"])
            return value | {"search": search | {"objective": objective_of(task)}}
        return value

    @model_validator(mode="after")
    def _one_objective(self) -> Self:
        asked, task = self.search.objective, self.task
        if task is None and ":" in asked:
            raise ValueError(f"search.objective {asked} is of a task of your own: set task")
        if task is not None and asked != objective_of(task):
            raise ValueError(
                f"search.objective {asked}: a task's objective is in task.objective and "
                "task.direction; leave search.objective out"
            )
        _ = self.base  # what does not go together
        return self

    @property
    def storage_path(self) -> str:
        """The folder or URI that holds the sweep's folder."""
        return self.storage if isinstance(self.storage, str) else self.storage.path

    @property
    def follow_links(self) -> bool:
        """Whether the sweep may write and delete where links lead out of its folder."""
        return isinstance(self.storage, StorageConfig) and self.storage.follow_links

    @property
    def folder(self) -> SweepFolder:
        """Where the sweep lies."""
        return SweepFolder(self.storage_path, self.name, self.follow_links)

    @property
    def base(self) -> TrialConfig:
        """The configuration that the space's proposals are laid over."""
        return TrialConfig(
            task=self.task,
            data=self.data,
            model=self.model,
            train=self.train,
            optimizer=self.optimizer,
        )

    @property
    def named(self) -> dict[str, str]:
        """As a trial's, and the space."""
        return {**self.base.named, "space": self.space}

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return direction(self.search.objective)


def objective_of(task: TaskConfig | None) -> str:
    """What a task's trials are searched by; without one, by default."""
    return own_objective(task.objective, task.direction) if task else "val_accuracy"


def patience_seconds(spec: SweepSpec) -> float | None:
    minutes = spec.resources.patience_minutes
    return None if minutes is None else 60 * minutes
