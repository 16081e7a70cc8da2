"""`best --as`: the best configuration as YAML for `train`, or as Python for a loop of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from results.meanings import metric_of
from results.names import unknown
from results.ranking import Ranking
from results.schema import json_object
from rts_search.show.console import clean
from rts_search.show.tables import describe_trial, number
from rts_search.spec.reading import parse
from rts_search.spec.written import dump
from trainables.config import TrialConfig
from trainables.schedules import AfterConfig, Schedule

FORMS = ("yaml", "python")
OURS = "trainables.triggers"  # what rts_search.optim hands on
LINE = 100  # characters
LOSSES = "float(loss_sum) / images, validation_loss(model)"
NO_LOSSES = "math.nan, math.nan"
WITHOUT_LOSSES = ("variance", "cosine")  # the triggers that do not look at them


def check_form(form: str) -> None:
    """Raises ValueError for a form that there is not."""
    if form not in FORMS:
        raise unknown("form of --as", form, FORMS)


def winner(ranking: Ranking, form: str) -> str:
    """The best configuration in a form of FORMS. Raises ValueError if there is none.

    Of what a ledger says, which may be another's, nothing but checked values gets into it, and
    comments of one line.
    """
    if not ranking.trials:
        raise ValueError("no trial has completed its whole schedule yet: there is no best one")
    row = ranking.trials[0]
    content = json_object(row["config_json"])
    if not content:
        raise ValueError(
            f"{row['sweep']}/{row['trial_id']} has no configuration in the ledger: there is "
            "nothing to write"
        )
    config = parse(TrialConfig, content)
    said = [
        f"{row['sweep']}/{row['trial_id']}, the best of {ranking.ranked} by "
        f"{metric_of(ranking.metric)}, {number(row['mean'])}: {describe_trial(row)}"
    ]
    if form == "yaml":
        said.append("rts-search train FILE.yaml trains it")
        return _comments(said) + dump(config.model_dump(mode="json"))
    train, named = config.train, ", ".join(f"{what} {name}" for what, name in config.named.items())
    said += [
        f"{named}, batches of {train.batch_size}, seed {train.seed}, "
        f"precision {row['precision'] or train.precision}",
        "docs/optimizer.md has autocast, gradient scaling, accumulation, clipping and more",
    ]
    return _comments(said) + "\n".join(snippet(config)) + "\n"


def _comments(lines: Iterable[str]) -> str:
    return "".join(f"# {' '.join(clean(line).split())}\n" for line in lines)


def snippet(config: TrialConfig) -> list[str]:
    """The training loop of a configuration, as lines of Python: the steps of `trainables.loop`,
    with no more than this configuration needs."""
    loop = Loop(config)
    body = loop.lines()
    text = "\n".join(body)
    modules = [f"import {name}" for name in ("math", "torch") if f"{name}." in text]
    gap = [""] if modules and loop.names() else []
    return [*modules, *gap, *loop.imports(), "", *body]


class Loop:
    """What a configuration's loop has that others' have not."""

    def __init__(self, config: TrialConfig) -> None:
        self.train, self.rule, self.epochs = config.train, config.optimizer, config.train.epochs
        trigger = self.rule.trigger
        self.watches = trigger.watches
        # where it does not, the firing epoch is known, whatever the number of steps
        self.first = 1 if self.watches else trigger.first_epoch(self.epochs, 1)
        self.plain = self.first > self.epochs
        self.switches = self.watches or 1 < self.first <= self.epochs
        made = trigger.make(self.epochs, 1)
        self.monitor = (made.needs_norms, made.needs_cosines) if self.watches else (False, False)
        self.losses = self.watches and trigger.name not in WITHOUT_LOSSES
        self.freezes = self.train.batch_norm == "freeze" and not self.plain
        self.after = AfterConfig() if self.plain else self.rule.after
        self.own_lr = self.after != AfterConfig()
        schedules = {"radius": self.rule.radius, "scale": self.rule.scale}
        schedules = {} if self.plain else schedules
        self.moving = {k: s for k, s in schedules.items() if s.strategy != "constant"}
        self.still = {k: s(0.0) for k, s in schedules.items() if k not in self.moving}

    def names(self) -> list[str]:
        """What it needs of `rts_search.optim`."""
        kind = type(self.rule.trigger)
        wanted = {
            "AfterConfig": self.own_lr,
            "Schedule": bool(self.moving),
            self.optimizer()[0]: not self.plain,
            "BatchNormFreezer": self.freezes,
            "EpochObservation": self.watches,
            "GradientMonitor": any(self.monitor),
            kind.__name__: self.watches and kind.__module__ == OURS,
        }
        return sorted(name for name, needed in wanted.items() if needed)

    def imports(self) -> list[str]:
        kind, names = type(self.rule.trigger), self.names()
        theirs = self.watches and kind.__module__ != OURS
        lines = [f"from {kind.__module__} import {kind.__name__}"] if theirs else []
        if not names:
            return lines
        line = f"from rts_search.optim import {', '.join(names)}"
        if len(line) <= LINE:
            return [*lines, line]
        return [*lines, "from rts_search.optim import (", *_indented(f"{n}," for n in names), ")"]

    def optimizer(self) -> tuple[str, dict[str, Any]]:
        """The optimizer's class and its settings."""
        train, rule = self.train, self.rule
        asked: dict[str, Any] = {"lr": train.lr, "momentum": train.momentum}
        asked |= {"dampening": train.dampening} if train.dampening else {}
        asked |= {"weight_decay": train.weight_decay}
        asked |= {"nesterov": True} if train.nesterov else {}
        if self.plain:
            return "torch.optim.SGD", asked
        if rule.family in ("sam", "asam"):
            eta = {"eta": rule.eta} if rule.family == "asam" else {}
            return rule.family.upper(), {**asked, "rho": rule.effective_rho, **eta}
        return "RTS", {**asked, **self.still}

    def lines(self) -> list[str]:
        """The function, and the constants before it."""
        parameters, told = "model, criterion, batches", "`batches`: a DataLoader, or the like"
        if self.losses:
            parameters += ", validation_loss"
            told += "; `validation_loss(model)`: a mean over images"
        return [
            f"EPOCHS = {self.epochs}",
            *(f"{name} = {_call(schedule)}" for name, schedule in self.moving.items()),
            *([f"after = {_call(self.after)}"] if self.own_lr else []),
            "",
            "",
            f"def train({parameters}):",
            f'    """{told}."""',
            *_indented(self.setup()),
            "    for epoch in range(1, EPOCHS + 1):",
            *_indented(_indented(self.epoch())),
        ]

    def setup(self) -> list[str]:
        name, settings = self.optimizer()
        lines = [
            "steps = len(batches)",
            f"optimizer = {name}(",
            "    model.parameters(),",
            *(f"    {key}={value!r}," for key, value in settings.items()),
            ")",
        ]
        if self.freezes:
            lines.append("batch_norm = BatchNormFreezer(model)")
        if self.watches:
            lines.append(f"trigger = {_call(self.rule.trigger)}.make(EPOCHS, steps)")
        if any(self.monitor):
            norms, cosines = self.monitor
            lines += [
                "device = next(model.parameters()).device",
                f"monitor = GradientMonitor(steps, {norms=}, {cosines=}, device=device)",
            ]
        return lines

    def epoch(self) -> list[str]:
        lines = ["model.train()"]
        if self.switches:
            perturbing = "trigger.perturbing(epoch)" if self.watches else f"epoch >= {self.first}"
            lines.append(f"optimizer.perturbing = {perturbing}")
            first = "trigger.firing_epoch" if self.watches else str(self.first)
            if self.own_lr:
                lines.append(f"fired = ({first} - 1) / EPOCHS if optimizer.perturbing else None")
        if self.losses:
            lines.append("loss_sum, images = 0.0, 0")
        lines.append("for step, (x, y) in enumerate(batches):")
        lines += _indented(self.step())
        if self.watches:
            lines.append(f"losses = {LOSSES if self.losses else NO_LOSSES}")
            lines.append(f"seen = {'monitor.read()' if any(self.monitor) else '[], []'}")
            lines.append("trigger.observe(EpochObservation(epoch, *seen, *losses))")
        return lines

    def step(self) -> list[str]:
        in_epoch = " + step / steps" if self.train.schedule_by == "step" else ""
        share = "(0.5 * (1.0 + math.cos(math.pi * progress)))"
        if self.own_lr:
            share = f"after.lr_share(progress, {'fired' if self.switches else '0.0'})"
        frozen = ", batch_norm.frozen()" if self.freezes else ""
        second = [
            f"with optimizer.perturbed(){frozen}:  # at w + ε",
            "    optimizer.zero_grad()",
            "    criterion(model(x), y).backward()",
        ]
        if self.switches:
            second = ["if optimizer.perturbing:", *_indented(second)]
        return [
            f"progress = (epoch - 1{in_epoch}) / EPOCHS",
            "for group in optimizer.param_groups:",
            f'    group["lr"] = {self.train.lr!r} * {share}',
            *(f"optimizer.{name} = {name}(progress)" for name in self.moving),
            "optimizer.zero_grad()",
            "loss = criterion(model(x), y)",
            "loss.backward()",
            *([] if self.plain else second),
            "optimizer.step()",
            *(["monitor.observe(optimizer.gradient)"] if any(self.monitor) else []),
            *(["loss_sum += loss.detach() * len(y)", "images += len(y)"] if self.losses else []),
        ]


def _call(config: Any) -> str:
    """As in `Schedule(strategy='cos', beta_min=0.1, beta_max=1.0)`: what is not by default."""
    given = {
        key: value
        for key, value in config.model_dump().items()
        if isinstance(config, Schedule) or value != type(config).model_fields[key].default
    }
    texts = {k: f'"{v}"' if isinstance(v, str) else repr(v) for k, v in given.items()}
    told = ", ".join(f"{key}={text}" for key, text in texts.items())
    return f"{type(config).__name__}({told})"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
