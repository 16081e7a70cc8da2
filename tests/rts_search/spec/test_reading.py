"""The sweep's spec: what it reads, and one exact line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from optuna.trial import FixedTrial

from rts_search.search.checks import check_sampler, search_space
from rts_search.spec.folder import changed
from rts_search.spec.model import SweepSpec
from rts_search.spec.reading import (
    load_preset,
    load_spec,
    parse,
    preset_words,
    presets,
    read_yaml,
)
from rts_search.spec.written import dump
from rts_search.stopping.stopper import make_stopper
from search_spaces.registry import start_points
from search_spaces.space import accepted, apply
from trainables.config import TrialConfig

EXAMPLE = """
name: fashion-rts
storage: sweeps
data: {name: fashion_mnist, root: path/to/fashion-mnist, train_size: 10000}
model: {name: cnn}
train: {epochs: 27, batch_size: 100, lr: 0.1, momentum: 0.9, weight_decay: 0.0005, seed: 42}
space: rts
search: {sampler: tpe, trials: 48, seed: 0, controls: true, start_from: paper}
stop: {policy: asha, first_rung: 3, eta: 3}
resources: {cpu: 1, gpu: 0, concurrent: 2}
budget: {hours: 2}
"""

SETTINGS = (
    "budget, checkpoint, data, loggers, model, name, optimizer, resources, search, space, stop, "
    "storage, task, train"
)
TRAIN = (
    "batch_norm, batch_size, channels_last, compile, dampening, device, drop_last, epochs, lr, "
    "momentum, nesterov, precision, schedule_by, seed, weight_decay"
)

# what was written: the line that it gets
GOLDEN = {
    # unknown keys
    "trian: {lr: 1}": f"unknown setting 'trian': did you mean 'train'? known: {SETTINGS}",
    "qqq: 1": f"unknown setting 'qqq': known: {SETTINGS}",
    "train: {lrr: 1}": f"unknown setting in train 'lrr': did you mean 'lr'? known: {TRAIN}",
    "budget: {hour: 2}": (
        "unknown setting in budget 'hour': did you mean 'hours'? known: epochs, "
        "gradient_evaluations, hours, target"
    ),
    "optimizer: {trigger: {name: variance, gama: 1}}": (
        "unknown setting in optimizer.trigger 'gama': did you mean 'gamma'? known: gamma, k, name"
    ),
    "optimizer: {radius: {strategie: cos}}": (
        "unknown setting in optimizer.radius 'strategie': did you mean 'strategy'? "
        "known: beta_max, beta_min, strategy"
    ),
    # unknown names
    "stop: {policy: ashaa}": (
        "unknown stop.policy 'ashaa': did you mean 'asha'? known: asha, hyperband, median, none"
    ),
    "search: {objective: val_acc}": (
        "search.objective: unknown objective 'val_acc': did you mean 'val_accuracy'? known: "
        "val_accuracy, val_loss, train_loss, train_accuracy"
    ),
    "optimizer: {family: rtss}": (
        "unknown optimizer.family 'rtss': did you mean 'rts'? known: sgd, pugd, rts, sam, asam"
    ),
    "optimizer: {trigger: {name: varianse}}": (
        "optimizer.trigger: unknown trigger 'varianse': did you mean 'variance'? known: epoch, "
        "always, never, variance, cosine, gap"
    ),
    "loggers: [tensorbord]": (
        "unknown loggers.0 'tensorbord': did you mean 'tensorboard'? known: tensorboard, mlflow, "
        "wandb"
    ),
    "search: {start_from: papers}": (
        "unknown search.start_from 'papers': did you mean 'paper'? known: none, paper; "
        "search.start_from: 'papers': input should be a valid list"
    ),
    # values out of range or of the wrong type
    "train: {epochs: 0}": "train.epochs: 0: input should be greater than or equal to 1",
    "train: {lr: .inf}": "train.lr: inf: input should be a finite number",
    "train: {lr: fast}": (
        "train.lr: 'fast': input should be a valid number, unable to parse string as a number"
    ),
    "train: {epochs: 2.5}": (
        "train.epochs: 2.5: input should be a valid integer, got a number with a fractional part"
    ),
    "data: {validation_fraction: 1}": "data.validation_fraction: 1: input should be less than 1",
    "budget: {hours: 0}": "budget.hours: 0: input should be greater than 0",
    "stop: {eta: 1}": "stop.eta: 1: input should be greater than or equal to 1.01",
    "resources: {gpu: 1.5}": (
        "resources.gpu: gpu 1.5 is neither a fraction in 0–1 nor a whole number"
    ),
    "resources: {gpu: -1}": (
        "resources.gpu: gpu -1.0 is neither a fraction in 0–1 nor a whole number"
    ),
    "train: {channels_last: maybe}": (
        "train.channels_last: 'maybe': input should be a valid boolean, unable to interpret "
        "input; unknown train.channels_last 'maybe': known: auto"
    ),
    "name: a/b": "name: 'a/b': string should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'",
    "train:": "train: a mapping of settings is needed, but it is empty",
    "train: []": "train: a mapping of settings is needed, not list",
    # not 1 or 0
    "search: {trials: true}": "search.trials: true: a number is needed",
    "budget: {hours: false}": "budget.hours: false: a number is needed",
    # settings that do not go together
    "train: {nesterov: true, momentum: 0}": (
        "train: nesterov needs momentum above 0 and dampening 0"
    ),
    "optimizer: {family: sam, radius: 2}": (
        "optimizer: family sam has radius 1 and scale 1; use family rts"
    ),
    "optimizer: {family: sgd, trigger: {name: always}}": (
        "optimizer: family sgd has the trigger never; use family rts for another"
    ),
    "optimizer: {rho: 0.1}": "optimizer: rho belongs to sam and asam, not to family rts",
    "optimizer: {radius: {alpha_start: 2, alpha_end: 0, shape: inverse}}": (
        "optimizer.radius: an inverse schedule needs alpha_start and alpha_end above 0"
    ),
    "optimizer: {trigger: {name: epoch}}": (
        "optimizer.trigger: the epoch trigger needs either epoch or fraction"
    ),
    # the test set decides nothing
    **{
        f"search: {{objective: {metric}}}": (
            f"search.objective: '{metric}': test metrics are never an objective, or the test set "
            "would be fitted; use val_accuracy"
        )
        for metric in ("test_accuracy", "test_loss", "best_test_accuracy")
    },
    # no mapping, no YAML
    "- a": "a mapping of settings is needed, not list",
    "just words": "a mapping of settings is needed, not str",
    "false": "a mapping of settings is needed, not bool",
    "[]": "a mapping of settings is needed, not list",
    # what YAML would drop
    "train: {lr: 1}\nmodel: {}\ntrain: {epochs: 3}": (
        "not valid YAML: line 3: 'train' stands twice, first in line 1"
    ),
    "model: {args: {width: 1, width: 2}}": (
        "not valid YAML: line 1: 'width' stands twice, first in line 1"
    ),
    "train: {lr: 1}\n---\ntrain: {lr: 2}": (
        "not valid YAML: line 2: expected a single document in the stream: but found another "
        "document"
    ),
    "train: &a [*a]": "not valid YAML: an *alias is within its &anchor",
    # paths
    "storage: $NOT_SET/x": ("storage: '$NOT_SET/x': the environment variable $NOT_SET is not set"),
    "search: {warm_start: ['~nobody-of-that-name/x']}": (
        "search.warm_start: '~nobody-of-that-name/x': there is no such home folder; write ./~ for "
        "a file"
    ),
    "storage:": "storage: None: input should be a valid string",
    # several problems, one line
    "stop: {eta: 0}\ntrain: {epochs: 0}": (
        "train.epochs: 0: input should be greater than or equal to 1; "
        "stop.eta: 0: input should be greater than or equal to 1.01"
    ),
}


@pytest.mark.parametrize("text", GOLDEN)
def test_bad_input_gets_one_exact_line(text: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 the whole message is compared
        load_spec(text)
    assert str(raised.value) == GOLDEN[text]


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\tx: 1", "name: \x01"])
def test_bad_yaml_is_one_line_that_names_the_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^.*spec\.yaml: not valid YAML: .*$") as raised:
        load_spec(path)
    assert "\n" not in str(raised.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ValueError, match=f"spec '{missing}' cannot be read: No such file"):
        load_spec(missing)
    with pytest.raises(ValueError, match=f"spec '{tmp_path}' is a folder, not a file"):
        load_spec(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: \xe9t\xe9")
    with pytest.raises(ValueError, match=f"^spec '{path}' is not UTF-8 text$"):
        load_spec(path)


def test_the_example_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(EXAMPLE)
    spec = load_spec(path)
    assert spec == load_spec(EXAMPLE)
    assert spec == SweepSpec.model_validate(
        {
            "name": "fashion-rts",
            "storage": "sweeps",
            "data": {
                "name": "fashion_mnist",
                "root": "path/to/fashion-mnist",
                "train_size": 10_000,
            },
            "model": {"name": "cnn"},
            "train": {
                "epochs": 27,
                "batch_size": 100,
                "lr": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "seed": 42,
            },
            "space": "rts",
            "search": {
                "sampler": "tpe",
                "trials": 48,
                "seed": 0,
                "controls": True,
                "start_from": "paper",
            },
            "stop": {"policy": "asha", "first_rung": 3, "eta": 3},
            "resources": {"cpu": 1, "gpu": 0, "concurrent": 2},
            "budget": {"hours": 2},
        }
    )
    written = spec.model_dump(exclude_unset=True)
    assert written["resources"] == {"cpu": 1, "gpu": 0, "concurrent": 2}
    assert make_stopper(spec).rungs[:2] == [3, 9]


def test_nothing_asked_for_is_said_so() -> None:
    assert load_spec("{}") == SweepSpec()
    for text in ("", "# nothing but a comment", "null"):
        with pytest.raises(ValueError, match=r"^a mapping of settings is needed, but it is empty$"):
            load_spec(text)


def test_a_spec_survives_yaml_and_json() -> None:
    spec = load_spec(EXAMPLE)
    assert SweepSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec


def test_base_is_what_all_trials_share() -> None:
    spec = load_spec(EXAMPLE, ["optimizer.family=sam"])
    assert spec.base == TrialConfig(
        data=spec.data, model=spec.model, train=spec.train, optimizer=spec.optimizer
    )
    assert spec.base.optimizer.family == "sam"


@pytest.mark.parametrize(
    ("objective", "direction"),
    [
        ("val_accuracy", "maximize"),
        ("train_accuracy", "maximize"),
        ("val_loss", "minimize"),
        ("train_loss", "minimize"),
    ],
)
def test_losses_are_minimised(objective: str, direction: str) -> None:
    assert load_spec(f"search: {{objective: {objective}}}").direction == direction


def test_overrides_are_yaml_and_make_groups() -> None:
    spec = load_spec(
        EXAMPLE,
        [
            "train.lr=0.05",
            "search.controls=false",
            "name=other",
            "data.train_size=null",
            "optimizer.radius={alpha_start: 2, alpha_end: 0.5}",
            "optimizer.trigger.name=gap",
            "optimizer.trigger.mu=3",
            "loggers=[tensorboard]",
            "data.root=a=b",
        ],
    )
    assert (spec.train.lr, spec.train.epochs, spec.name) == (0.05, 27, "other")
    assert spec.search.controls is False
    assert (spec.data.train_size, spec.data.root) == (None, "a=b")
    assert (spec.optimizer.radius(0), spec.optimizer.radius(1)) == pytest.approx((2, 0.5))
    assert spec.optimizer.trigger.model_dump()["mu"] == 3
    assert spec.loggers == ["tensorboard"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "--set 'train.lr' is not of the form a.b=c"),
        ("=3", "--set '=3' is not of the form a.b=c"),
        ("name.x=3", "--set 'name.x=3': name is a value, not a group of settings"),
        (
            "train.lr=[",
            "--set 'train.lr=[': '[' is not valid YAML: while parsing a flow node: expected the "
            "node content, but found '<stream end>'",
        ),
        (
            "loggers=[tensorboard] # x",
            "--set 'loggers=[tensorboard] # x': '[tensorboard] # x' is not valid YAML: '# x' would "
            "be dropped",
        ),
        (
            "train.lr=0.1 # x",
            "train.lr: '0.1 # x': input should be a valid number, unable to parse string as a "
            "number",
        ),
        ("train.lrr=1", GOLDEN["train: {lrr: 1}"]),
        ("train.epochs=0", GOLDEN["train: {epochs: 0}"]),
        ("train=3", "train: a mapping of settings is needed, not int"),
    ],
)
def test_bad_overrides_get_one_exact_line(override: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011 the whole message is compared
        load_spec(EXAMPLE, [override])
    assert str(raised.value) == message


TEXTS = [
    "123456",
    "010",
    "1e3",
    "2024-05-01",
    "on",
    "no",
    "true",
    "0x1F",
    "1_000",
    "1_",
    "1:30",
    ".5",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_that_is_asked_for_stays_as_it_was_written(text: str) -> None:
    for source, overrides in (
        (f"data: {{root: {text}}}\nmodel: {{name: {text}}}", []),
        (f"data: {{root: '{text}'}}\nmodel: {{name: \"{text}\"}}", []),
        ("{}", [f"data.root={text}", f"model.name='{text}'"]),
    ):
        spec = load_spec(source, overrides)
        assert (spec.data.root, spec.model.name) == (text, text)
    if text not in ("1:30", ".5"):  # no names of sweeps
        assert load_spec("{}", [f"name={text}"]).name == text


def test_an_override_is_the_whole_rest_of_the_argument() -> None:
    for text in ("/run #3", "a: b", "[x]", "50% & more", "*", "a=b"):
        assert load_spec("{}", [f"data.root={text}"]).data.root == text


def test_numbers_are_read_as_people_write_them() -> None:
    spec = load_spec(
        """
        train: {epochs: 1e2, batch_size: 010, lr: 1e-3, seed: 32.0, weight_decay: .5}
        model: {args: {width: 1e1, depth: 1_000, mode: on, gain: '1e3', day: 2024-05-01}}
        search: {also: {lr: [1e-3, 1e-2]}, start_from: [{lr: 1E-3, family: rts}]}
        """,
        ["budget.epochs=1e6", "search.trials=1.2e1", "stop.eta=4e0"],
    )
    train = spec.train
    assert (train.epochs, train.batch_size, train.lr, train.seed) == (100, 10, 0.001, 32)
    assert (train.weight_decay, spec.budget.epochs, spec.search.trials) == (0.5, 10**6, 12)
    assert spec.model.args == {
        "width": 10, "depth": 1000, "mode": "on", "gain": "1e3", "day": "2024-05-01"
    }  # fmt: skip
    assert type(spec.model.args["width"]) is int
    assert spec.search.also == {"lr": [0.001, 0.01]}
    assert spec.search.start_from == [{"lr": 0.001, "family": "rts"}]
    assert load_spec("model: {pretrained: true}").model.pretrained is True
    assert load_spec("data: {root: null}").data.root is None
    assert load_spec("train: {<<: {lr: 1, epochs: 2}, lr: 3}").train.lr == 3


def test_booleans_are_read_as_people_write_them_and_are_no_numbers() -> None:
    for text, value in (("on", True), ("Yes", True), ("true", True), ("no", False), ("OFF", False)):
        spec = load_spec(f"search: {{controls: {text}}}", [f"data.augment={text}"])
        assert (spec.search.controls, spec.data.augment) == (value, value)
    for setting in ("train.lr", "train.epochs", "data.train_size", "stop.eta"):
        with pytest.raises(ValueError, match=f"^{setting}: true: a number is needed"):
            load_spec("{}", [f"{setting}=true"])


def test_paths_are_those_of_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DISK", "/disk")
    spec = load_spec(
        "storage: $DISK/s\ndata: {root: ~}\nsearch: {warm_start: [demo, '~/s/a']}",
        ["model.pretrained=${DISK}/w.pt"],
    )
    assert (spec.storage, spec.data.root) == ("/disk/s", "/home/me")
    assert (spec.model.pretrained, spec.search.warm_start) == (
        "/disk/w.pt", ["demo", "/home/me/s/a"]
    )  # fmt: skip
    assert parse(TrialConfig, read_yaml("data: {root: ~/d}")).data.root == "/home/me/d"
    # a stored spec was expanded where it was asked for
    assert parse(SweepSpec, {"data": {"root": "$NOT_SET"}}).data.root == "$NOT_SET"


TRICKY = [
    "1e3",
    "1e-3",
    "010",
    "on",
    "null",
    "2024-05-01",
    "0o17",
    "1_0",
    "~",
    "",
    "a # b",
    "é",
    "1:2",
]


def test_what_is_written_down_is_read_back() -> None:
    """By both loaders: a stored spec, and the one that `--dry-run` prints or a job takes along."""
    args = {f"k{i}": text for i, text in enumerate(TRICKY)}
    args |= {"number": 1e-5, "whole": 12, "none": None, "list": [1e20, *TRICKY]}
    spec = SweepSpec.model_validate({"model": {"args": args}, "data": {"root": "a b"}})
    text = dump(spec.model_dump(mode="json"))
    assert load_spec(text) == parse(SweepSpec, read_yaml(text, stored=True)) == spec
    old = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    assert parse(SweepSpec, read_yaml(old, stored=True)) == spec


def test_a_stored_spec_drops_nothing_either() -> None:
    with pytest.raises(ValueError, match="line 2: 'name' stands twice, first in line 1"):
        read_yaml("name: a\nname: b", stored=True)


PRESETS = ["demo", "paper", "paper-100", "paper-200", "paper-cifar100", "quick"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound(name: str) -> None:
    spec = load_preset(name)
    assert spec.name == name
    space = search_space(spec)
    check_sampler(spec.search.sampler, space, spec.stop.policy)
    assert start_points(space, spec.search.start_from)
    assert make_stopper(spec).rungs
    assert load_preset(name, ["search.trials=5"]).search.trials == 5


@pytest.mark.parametrize("name", ["demo", "quick"])
def test_the_first_presets_perturb_in_most_trials(name: str) -> None:
    spec = load_preset(name)
    space, known = search_space(spec), start_points(search_space(spec), spec.search.start_from)
    draws = [FixedTrial(point) for point in known] + list(accepted(space))
    triggers = [apply(space, trial, spec.base).optimizer.trigger for trial in draws]
    fires = [
        not trigger.watches and trigger.first_epoch(spec.train.epochs, 10) <= spec.train.epochs
        for trigger in triggers
    ]
    assert sum(fires) >= 2 / 3 * len(fires)  # whatever the run does


def test_a_preset_takes_another_space_without_the_points_of_its_own() -> None:
    assert load_preset("quick", ["space=mine:space"]).search.start_from == "none"
    asked = ["space=mine:space", "search.start_from=paper"]
    assert load_preset("quick", asked).search.start_from == "paper"


def test_the_papers_presets_pin_what_decides_a_result() -> None:
    paper = load_preset("paper")
    assert (paper.train.precision, paper.train.schedule_by) == ("fp32", "epoch")
    assert (paper.data.crop_padding, paper.stop.policy) == (0, "none")
    siblings = {
        "paper-cifar100": {"data.name": ("cifar10", "cifar100")},
        "paper-100": {"train.epochs": (400, 100)},
        "paper-200": {"train.epochs": (400, 200)},
    }
    for name, difference in siblings.items():
        assert changed(paper, load_preset(name)) == difference
        assert preset_words(name)[0].startswith("The preset paper ")
        assert preset_words(name)[1:] == preset_words("paper")
    assert any("differs from the paper" in line for line in preset_words("paper"))


def test_the_presets_are_listed_and_others_refused() -> None:
    assert presets() == PRESETS
    with pytest.raises(
        ValueError,
        match=r"^unknown preset 'papr': did you mean 'paper'\? known: demo, .*, quick$",
    ):
        load_preset("papr")


def test_allowed_values_are_told_as_yaml_has_them() -> None:
    with pytest.raises(ValueError, match=r"unknown search\.share 'true': known: auto, false"):
        parse(SweepSpec, {"search": {"share": True}})
