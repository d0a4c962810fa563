"""Sweeps."""
from hydra.experimental.callback import Callback


class SweepCallback(Callback):
    """x."""
