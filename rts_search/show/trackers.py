"""TensorBoard, MLflow and W&B, by Tune's own callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Callback

from results.storage import SweepFolder
from rts_search.spec.model import SweepSpec


def make_trackers(spec: SweepSpec, folder: SweepFolder) -> list[Callback]:
    """The callbacks that `loggers` asks for. Raises ValueError for a package that is missing."""
    makers = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
    trackers = []
    for name in spec.loggers:
        try:
            trackers.append(makers[name](spec, folder))
        except (ImportError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"loggers: {name} cannot start ({reason}); pip install 'rts-search[trackers]'"
            ) from None
    return trackers


class Numbers:
    """Shows the newest epoch's numbers to the callback of Tune's that comes after it among a
    class's bases."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        shown = {name: value for name, value in result.items() if name != "epochs"}
        shown["metrics"] = result["epochs"][-1]
        super().log_trial_result(iteration, trial, shown)  # type: ignore[misc]


def _tensorboard(spec: SweepSpec, folder: SweepFolder) -> Callback:
    """Event files under `<sweep>/tensorboard/<trial>`, or here for an object store."""
    from ray.tune.logger import TBXLoggerCallback

    root = folder.local_path or Path(spec.name)

    class TensorBoard(Numbers, TBXLoggerCallback):  # type: ignore[misc]
        def log_trial_start(self, trial: Any) -> None:
            if trial in self._trial_writer:
                self._trial_writer[trial].close()
            directory = root / "tensorboard" / trial.config["assignment"]["trial_id"]
            self._trial_writer[trial] = self._summary_writer_cls(str(directory), flush_secs=10)
            self._trial_result[trial] = {}

    return TensorBoard()


def _mlflow(spec: SweepSpec, folder: SweepFolder) -> Callback:
    """To the server that MLFLOW_TRACKING_URI names, or to MLflow's default in this folder."""
    import os

    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class MLflow(Numbers, MLflowLoggerCallback):  # type: ignore[misc]
        pass

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    return MLflow(tracking_uri=uri, experiment_name=spec.name)


def _wandb(spec: SweepSpec, folder: SweepFolder) -> Callback:
    """To the account that W&B's own settings name (WANDB_API_KEY, WANDB_MODE)."""
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Wandb(Numbers, WandbLoggerCallback):  # type: ignore[misc]
        pass

    return Wandb(project="rts-search", group=spec.name)
