"""PUGD, RTS, SAM and ASAM on flat buffers, and what a training loop needs beside them."""

from trainables.optim.batch_norm import BatchNormFreezer
from trainables.optim.families import ASAM, RTS, SAM
from trainables.optim.loss_scale import LossScale
from trainables.optim.monitor import GradientMonitor
from trainables.optim.perturbed import PerturbedSGD

__all__ = ["ASAM", "RTS", "SAM", "BatchNormFreezer", "GradientMonitor", "LossScale", "PerturbedSGD"]
