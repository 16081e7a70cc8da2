"""Loss landscapes against a slow, obvious reference in float64, on trials that were trained."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from results.export import plain
from results.storage import SweepFolder
from rts_search.notebook import Sweep, load_model, open_sweep
from rts_search.report.data import read
from rts_search.report.landscape import Grid, Walk, images_of, measure, usual
from rts_search.report.surfaces import landscape
from rts_search.train import train_one
from tests.rts_search.cli.calling import cli
from tests.rts_search.report.ledgers import reported
from trainables.config import TrialConfig
from trainables.models import build_model
from trainables.state import load_data

CONFIG: dict[str, Any] = {
    "data": {"name": "digits", "train_size": 200, "test_size": 50, "validation_fraction": 0.25},
    "model": {"name": "tests.trainables.test_weights:own_net", "args": {"width": 5}},
    "train": {"epochs": 2, "batch_size": 50, "seed": 3, "device": "cpu", "lr": 0.3},
    "optimizer": {"family": "sgd"},
}
SMALL = Grid(points=5, directions=2)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """run0000 is of a model with a convolution and batch norm, of one's own; run0001 and run0002
    are built in, the latter perturbed; run0003 has no weights."""
    folder = tmp_path_factory.mktemp("landscape")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTS_SEARCH_CACHE", str(folder / "cache"))
        for change in ({}, {"model": {"name": "mlp", "args": {"width": 6, "depth": 1}}}):
            (folder / "c.yaml").write_text(json.dumps(CONFIG | change))
            train_one(folder / "c.yaml", None, [], str(folder), "s")
        for _ in range(2):
            train_one(folder / "c.yaml", None, ["optimizer.family=pugd"], str(folder), "s")
        (folder / "s" / "checkpoints" / "run0003" / "weights.pt").unlink()
        yield open_sweep("s", folder)


def reference(sweep: Sweep, name: str, grid: Grid, *moves: tuple[float, int]) -> float:
    """The mean loss so far along these directions, step by step."""
    kept = torch.load(f"{sweep.uri}/checkpoints/{name}/weights.pt", weights_only=True)
    config = TrialConfig.model_validate_json(kept["config"])
    model = build_model(config.model, 10, tuple(kept["image_shape"]))
    model.load_state_dict(kept["final"])
    model.double().eval()
    weights = [p for p in model.parameters() if p.dim() > 1]
    generator = torch.Generator().manual_seed(grid.seed)
    drawn = [
        [torch.randn(w.shape, generator=generator).double() for w in weights]
        for _ in range(grid.directions)
    ]
    for place, weight in enumerate(weights):
        start = weight.detach().clone()
        moved = start.clone()
        for step, direction in moves:
            for k in range(len(start)):  # a filter
                own = drawn[direction][place][k]
                size = math.sqrt(float((start[k] ** 2).sum()) / float((own**2).sum()))
                moved[k] += step * size * own
        weight.data = moved
    data = load_data(config.data, torch.device("cpu"))
    images, labels = data.train_images, data.train_labels
    if grid.on == "validation":
        images, labels = data.validation_images, data.validation_labels
    mean, std = (torch.tensor(kept[k]).double().view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        logits = model((images.double() / 255 - mean) / std).numpy()
    top = logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(1)) + top[:, 0]
    return float((losses - logits[range(len(logits)), labels.numpy()]).mean())


@pytest.mark.parametrize("name", ["run0000", "run0002"])
@pytest.mark.parametrize("on", ["train", "validation"])
def test_every_loss_is_that_of_weights_moved_by_hand(sweep: Sweep, name: str, on: str) -> None:
    grid = Grid(on=on, points=5, directions=3, seed=4, reach=0.5)
    (found,) = measure(sweep, [name], grid)
    assert grid.steps == [-0.5, -0.25, 0, 0.25, 0.5]
    for k, line in enumerate(found.lines):
        wanted = [reference(sweep, name, grid, (step, k)) for step in grid.steps]
        assert line == pytest.approx(wanted, rel=2e-5)
    for b, row in zip(grid.steps, found.plane, strict=True):
        wanted = [reference(sweep, name, grid, (a, 0), (b, 1)) for a in grid.steps]
        assert row == pytest.approx(wanted, rel=2e-5)
    assert len({*found.lines[0], *found.lines[1]}) == 9  # every point is another, but the weights


def test_at_the_weights_it_is_the_loss_that_the_ledger_has(sweep: Sweep) -> None:
    names = ["run0000", "run0001", "run0002"]
    for name, found in zip(
        names, measure(sweep, names, replace(SMALL, on="validation")), strict=True
    ):
        recorded = sweep.epochs(name).to_pylist()[-1]["val_loss"]
        half = found.grid.points // 2
        assert found.loss == recorded  # to the bit
        assert {line[half] for line in found.lines} == {recorded}  # and still after all moves
        assert found.plane[half] == found.lines[0]  # the plane's axes are the first directions
        assert [row[half] for row in found.plane] == found.lines[1]
        assert found.images == found.of == 50


def test_trials_have_the_same_directions_and_the_same_command_the_same_figure(sweep: Sweep) -> None:
    names = ["run0001", "run0002"]
    one, again = (measure(sweep, names, SMALL) for _ in range(2))
    assert one == again
    assert plain(landscape(one).to_plotly_json()) == plain(landscape(again).to_plotly_json())
    assert measure(sweep, names, Grid(points=5, directions=2, seed=1)) != one
    longer = measure(sweep, names, Grid(points=5, directions=3))
    assert [each.lines[:2] for each in longer] == [each.lines for each in one]
    walks = [walk(sweep, name) for name in names]
    first, second = (next(each.directions()) for each in walks)
    for a, b, w, v in zip(first, second, walks[0].origin, walks[1].origin, strict=True):
        assert not torch.equal(w, v)
        torch.testing.assert_close(unit(a), unit(b))  # the draw is one
        torch.testing.assert_close(a.norm(dim=1), w.norm(dim=1))  # in each one's own norms


def walk(sweep: Sweep, name: str) -> Walk:
    model = load_model(f"{sweep.uri}/checkpoints/{name}")
    return Walk(model, images_of(model.config, SMALL)[0], 0)


def unit(direction: Tensor) -> Tensor:
    return direction / direction.flatten(1).norm(dim=1, keepdim=True)


def test_biases_and_batch_norm_stay(sweep: Sweep) -> None:
    from tests.trainables.test_weights import own_net

    model = load_model(f"{sweep.uri}/checkpoints/run0000", model=own_net)
    moving = Walk(model, images_of(model.config, SMALL)[0], 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ways = [*islice(moving.directions(), 2)]
    moving.loss((0.5, ways[0]), (-0.5, ways[1]))
    moved = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert moved == {"network.0.weight", "network.5.weight"}
    moving.loss()
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())


def test_a_filter_of_zeros_stays() -> None:
    from rts_search.report.landscape import filters_like

    weight = torch.ones(3, 2, 2, 2)
    weight[1] = 0
    found = filters_like(torch.randn(3, 2, 2, 2), weight)
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([8**0.5, 0, 8**0.5])


def test_images_are_drawn_class_by_class_and_are_never_those_of_the_test_set(sweep: Sweep) -> None:
    config = load_model(f"{sweep.uri}/checkpoints/run0001").config
    (images, labels), of = images_of(config, Grid(images=60))
    data = load_data(config.data, torch.device("cpu"))
    assert (len(images), len(labels), of) == (60, 60, 150)
    assert labels.bincount().min() >= 5
    assert all((data.train_images == image).flatten(1).all(1).any() for image in images)
    assert torch.equal(images_of(config, Grid(images=60))[0][0], images)
    assert not torch.equal(images_of(config, Grid(images=60, seed=1))[0][0], images)
    whole, _ = images_of(config, Grid(on="validation"))
    assert torch.equal(whole[0], data.validation_images)
    with pytest.raises(ValueError, match=r"on 'test' is not one of train, validation"):
        Grid(on="test")


def test_sharpness_in_words(sweep: Sweep) -> None:
    grid = Grid(points=9, directions=4, reach=0.8)
    (found,) = measure(sweep, ["run0001"], grid)
    assert found.near == 0.4
    base = reference(sweep, "run0001", grid)
    rises = [
        (reference(sweep, "run0001", grid, (0.4, k)) + reference(sweep, "run0001", grid, (-0.4, k)))
        / 2
        - base
        for k in range(4)
    ]
    assert found.rises == pytest.approx(rises, rel=1e-3)
    told = [float(word) for word in re.findall(r"\d\.[\d.]*\d", str(found).partition(":")[2])]
    wanted = [base, 0.4, sum(rises) / 4, min(rises), max(rises)]
    assert told == pytest.approx(wanted, rel=6e-3)
    assert str(found).startswith("run0001: training loss ")
    assert str(found).endswith("over 4 directions)")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"points": 20}, "points must be odd and at least 3, one of them at the weights, not 20"),
        ({"points": 1}, "points must be odd"),
        ({"directions": 1}, "directions must be at least 2, a plane's, not 1"),
        ({"images": 0}, "images must be at least 1"),
        ({"reach": 0.0}, "reach above 0"),
        ({"reach": math.inf}, "reach above 0"),
        ({"seed": -1}, "seed at least 0"),
    ],
)
def test_a_grid_that_is_none(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Grid(**given)


def test_a_trial_without_weights_names_those_that_have_them(sweep: Sweep) -> None:
    wanted = "run0003 has no kept weights; of s, those that have: run0000, run0001, run0002$"
    with pytest.raises(ValueError, match=wanted):
        measure(sweep, ["run0001", "run0003"], SMALL)
    with pytest.raises(ValueError, match="unknown trial 'run9'"):
        measure(sweep, ["run9"], SMALL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_another_users_sweep_runs_only_if_it_is_trusted(sweep: Sweep) -> None:
    folder = Path(sweep.uri)
    told: list[str] = []
    measure(sweep, ["run0000"], SMALL, say=told.append)
    assert told[0].startswith("runs model tests.trainables.test_weights:own_net from ")
    os.chown(folder, 12345, 12345)
    try:
        for name in ("run0000", "run0001"):  # whose data.root may hold pickles
            with pytest.raises(ValueError, match=r"belongs to user 12345: .* add --trust"):
                measure(sweep, [name], SMALL)
            assert len(measure(sweep, [name], SMALL, trust=True)) == 1
    finally:
        os.chown(folder, os.geteuid(), os.getegid())


def test_weights_of_another_model_than_the_ledgers(sweep: Sweep) -> None:
    own, other = (Path(sweep.uri, "checkpoints", f"run000{k}", "weights.pt") for k in (1, 0))
    kept = own.read_bytes()
    try:
        own.write_bytes(other.read_bytes())
        with pytest.raises(ValueError, match=r"your own model .* is not imported at a file's word"):
            measure(sweep, ["run0001"], SMALL)
        content = torch.load(own, weights_only=True)
        torch.save(content | {"config": content["config"].replace(":own_net", ":other")}, own)
        with pytest.raises(ValueError, match=r"is not imported at a file's word"):
            measure(sweep, ["run0001"], SMALL)
    finally:
        own.write_bytes(kept)
    content = torch.load(own, weights_only=True)
    changed = content["config"].replace('"train_size":200', '"train_size":180')
    assert changed != content["config"]
    try:
        torch.save(content | {"config": changed}, own)
        with pytest.raises(ValueError, match=r"of other data or another model than the ledger's"):
            measure(sweep, ["run0001"], SMALL)
    finally:
        own.write_bytes(kept)


def test_the_figure(sweep: Sweep) -> None:
    measured = measure(sweep, ["run0000", "run0001"], Grid(points=5, directions=3, images=60))
    figure = landscape(measured)
    assert figure.layout.title.text == (
        "Mean loss over 60 of 150 training images; 3 random directions, seed 0"
    )
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    bands = [trace for trace in lines if trace.fill == "toself"]
    means = [trace for trace in lines if trace.fill is None]
    planes = [trace for trace in figure.data if trace.type == "contour"]
    assert [trace.name for trace in means] == ["run0000", "run0001"]
    for each, band, mean, plane in zip(measured, bands, means, planes, strict=True):
        values = np.array(each.lines)
        assert mean.y == pytest.approx(values.mean(0), rel=1e-4)
        assert band.y == pytest.approx([*values.max(0), *values.min(0)[::-1]], rel=1e-4)
        assert np.array(plane.z) == pytest.approx(np.log10(np.array(each.plane)), abs=1e-4)
        assert plane.coloraxis == "coloraxis"  # one for all
    assert len({(p.contours.start, p.contours.end, p.contours.size) for p in planes}) == 1
    lowest = min(min(map(min, each.plane)) for each in measured)
    assert figure.layout.coloraxis.cmin == pytest.approx(math.log10(lowest))


def test_a_loss_that_is_no_number_leaves_a_gap(sweep: Sweep) -> None:
    (found,) = measure(sweep, ["run0001"], Grid(points=3, directions=2, reach=1e30))
    assert not math.isfinite(found.lines[0][0])
    text = json.dumps(plain(landscape([found]).to_plotly_json()), allow_nan=False)
    assert json.loads(text)["data"]


def test_the_command(
    sweep: Sweep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = str(sweep.folder.storage)
    asked = ("plot", "landscape", "s", "--storage", storage, "--points", "5")
    done = cli(*asked, "--trials", "run0001,run0002", "--images", "60")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"run0002: training loss [\d.]+; 0.5 away it rises by ", done.out)
    page = (tmp_path / "s-landscape.html").read_text()
    assert "of 150 training images; 5 random directions, seed 0" in page
    assert "run0001: training loss" in page
    done = cli(*asked, "-o", "a.json")  # by itself the best whose weights are kept
    assert done.code == 0
    names = [
        each["name"] for each in json.loads(Path("a.json").read_text())["data"] if "name" in each
    ]
    assert len(names) == 1
    for arguments, words in {
        ("--on", "test"): "on 'test' is not one of train, validation",
        ("--trials", "run0003"): "run0003 has no kept weights; of s, those that have: run0000",
    }.items():
        done = cli(*asked, *arguments)
        assert done.code == 2
        assert words in done.err
        assert "Traceback" not in done.err
    for arguments, words in {
        ("--images", "9"): "plot curves takes no --images, which is of the landscape",
        ("--trials", "run0001"): "no --trials, which is of the landscape and the history",
        ("--trust",): "plot curves takes no --trust, which is of the landscape",
    }.items():
        done = cli("plot", "curves", "s", "--storage", storage, *arguments)
        assert done.code == 2
        assert words in done.err


def test_weights_in_a_bucket(sweep: Sweep, s3_storage: str) -> None:
    folder = SweepFolder(s3_storage, "s")
    for path in Path(sweep.uri).rglob("*"):
        if path.is_file():
            folder.write(str(path.relative_to(sweep.uri)), path.read_bytes())
    assert measure(Sweep(folder), ["run0002"], SMALL) == measure(sweep, ["run0002"], SMALL)


def test_without_a_browser_nothing_is_measured(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent")
    done = cli("plot", "landscape", sweep.uri, "--trials", "run0001", "-o", "a.svg")
    assert (done.code, done.out) == (2, "")
    assert "none is found: install one" in done.err


def test_a_name_may_come_twice_and_without_weights_there_is_none(
    sweep: Sweep, tmp_path: Path
) -> None:
    assert len(measure(sweep, ["run0001", "run0001"], SMALL)) == 1
    ranked = [trial.name for trial in read(sweep).best]
    assert usual(read(sweep)) == [next(name for name in ranked if name != "run0003")]
    with pytest.raises(ValueError, match=r"r keeps no weights of a trial \(checkpoint.keep_top\)"):
        usual(read(reported(tmp_path)))


def test_the_help_has_the_defaults() -> None:
    told = " ".join(cli("plot", "--help").out.replace("│", " ").split())
    for name, value in asdict(Grid()).items():
        found = re.search(rf"--{name} .*?Default: ([\w.]+)\.", told)
        assert found is not None
        assert found[1] == (value if isinstance(value, str) else f"{value:g}")
