"""A claim: what is about to be tested on new seeds, written down before the first run, and in the
end its verdicts. `claims/<id>.yaml` in a sweep's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from results.meanings import OWN
from results.storage import SweepFolder, read_file
from rts_search.spec.reading import parse, read_yaml
from rts_search.spec.written import LARGEST, dump
from trainables.base import Config
from trainables.config import TrialConfig

CLAIMS = "claims"
DIGITS = 12  # of the hash


class Arm(Config):
    """Runs of one configuration on several seeds. `chosen` says how it came about; its settings are
    the best of `tried` trials, by validation. One that is as long as the winner's gradient
    evaluations has its length in `epochs_for` each candidate."""

    chosen: str
    tried: int = Field(ge=1)
    config: TrialConfig
    epochs_for: dict[str, int] | None = None

    @property
    def untuned(self) -> bool:
        return self.tried == 1

    def on_seed(self, seed: int, winner: str | None) -> TrialConfig:
        """The configuration that is trained on a seed."""
        config = self.config
        if self.epochs_for is not None:
            longest = max(self.epochs_for.values())
            config = config.at_length(self.epochs_for[winner] if winner else longest)
        train = config.train.model_copy(update={"seed": seed})
        return config.model_copy(update={"train": train})


class Seeds(Config):
    """Of the runs that pick the winner, and of each block of those that compare it."""

    pick: list[int]
    blocks: list[list[int]] = Field(min_length=1)

    @property
    def all(self) -> list[int]:
        return [*self.pick, *(seed for block in self.blocks for seed in block)]


class Claim(Config):
    """What is tested: whether the best of the `candidates` beats every one of the `baselines`.

    `metric` is that of the test set: the accuracy, or that of a task of one's own, with its
    direction. `gain` is the smallest one of interest, in that metric; a baseline is given up where
    the chance to establish it falls below `futility`. `alpha` is how often, at most, a claim is
    made although there is nothing. `verifies` is the id of the claim that this one repeats.
    """

    sweep: str
    metric: str = Field(default="test_accuracy", pattern=f"^(test_accuracy|{OWN.pattern})$")
    candidates: dict[str, Arm] = Field(min_length=1)
    baselines: dict[str, Arm] = Field(min_length=1)
    seeds: Seeds
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    gain: float = Field(default=0.005, gt=0)
    futility: float = Field(default=0.1, ge=0, lt=1)
    thorough: bool = False
    rule: str = ""  # how it is decided, in words
    verifies: str | None = None
    written: str  # when
    _read_as: str | None = PrivateAttr(None)
    origin: dict[str, Any] = Field(default_factory=dict)  # versions, commit, hardware, sources

    @model_validator(mode="after")
    def _seeds_once(self) -> Self:
        if len(set(self.seeds.all)) < len(self.seeds.all):
            raise ValueError("a seed stands twice")
        return self

    @property
    def id(self) -> str:
        """A hash of all that it says: a change makes another claim. Of one that was read, of what
        its file says: a later version may know more settings."""
        return self._read_as or hash_of(self.model_dump(mode="json"))

    @property
    def arms(self) -> dict[str, Arm]:
        return {**self.candidates, **self.baselines}


def hash_of(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True)
class StoredClaim:
    """A claim as its file has it; `verdicts` is None until it has come to its end."""

    claim: Claim
    verdicts: Mapping[str, Any] | None


def write_claim(
    folder: SweepFolder, claim: Claim, verdicts: Mapping[str, Any] | None = None
) -> str:
    """Write it into the sweep's folder, whole or not at all; returns the file's place there."""
    place = f"{CLAIMS}/{claim.id}.yaml"
    content = {"claim": claim.model_dump(mode="json"), "id": claim.id, "verdicts": verdicts}
    folder.write(place, dump(content).encode())
    return place


def read_claim(folder: SweepFolder, name: str) -> StoredClaim:
    """Of this id. Raises ValueError, in one line, as `claim_in`."""
    place = f"{CLAIMS}/{name}.yaml"
    return claim_in(folder.read(place, LARGEST).decode(), folder.uri_of(place))


def read_claim_file(path: Path) -> StoredClaim:
    """From anywhere. Raises ValueError, in one line, as `claim_in`."""
    try:
        content = read_file(path, LARGEST).decode()
    except OSError as error:
        raise ValueError(f"claim {str(path)!r} cannot be read: {error.strerror}") from None
    return claim_in(content, str(path))


def claim_in(text: str, where: str) -> StoredClaim:
    """What a claim's file says. Raises ValueError, in one line, for one that is not whole, or was
    changed since it was written."""
    try:
        content = read_yaml(text, stored=True)
        if not isinstance(content.get("claim"), dict) or "id" not in content:
            raise ValueError("it has neither claim nor id")
        claim = parse(Claim, content["claim"])
    except ValueError as error:
        raise ValueError(f"{where} is no claim: {error}") from None
    claim._read_as = hash_of(content["claim"])
    if claim.id != content["id"]:
        raise ValueError(
            f"{where} was changed after it was written: it says {content['id']}, and its content "
            f"is {claim.id}; what was tested is what was written before, so put it back, or make a "
            "new claim with rts-search confirm --new"
        )
    verdicts = content.get("verdicts")
    return StoredClaim(claim, verdicts if isinstance(verdicts, dict) else None)


def claims_in(folder: SweepFolder) -> Iterator[StoredClaim]:
    """A sweep's claims, the earliest first. Raises ValueError, in one line, for one that is not
    whole."""
    names = [name for name in folder.files(CLAIMS) if name.endswith(".yaml")]
    found = [read_claim(folder, name.removesuffix(".yaml")) for name in names]
    yield from sorted(found, key=lambda each: (each.claim.written, each.claim.id))
