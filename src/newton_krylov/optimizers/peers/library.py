"""What running another library's optimizer takes: its import, its threads, its callbacks."""

import contextvars
import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from newton_krylov.errors import UnsupportedError
from newton_krylov.optimizers.base import Step, Steps

BREAKDOWNS = (ArithmeticError, ValueError, np.linalg.LinAlgError)
"""What a library raises where its numbers give out: the end of a run, not a crash."""


def load(module: str) -> ModuleType:
    """Import a module that only the peers need.

    Parameters
    ----------
    module : str
        Dotted name.

    Returns
    -------
    ModuleType
        The module.

    Raises
    ------
    UnsupportedError
        If its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UnsupportedError(
            f"the peers from other libraries need the package '{package}' ({error}): "
            "pip install newton-krylov"
        ) from error


class Conditions:
    """The conditions a library runs under: no warnings, and where asked one BLAS thread.

    SciPy's and NumPy's OpenBLAS keep their own threads, which spin on the cores that torch's
    threads want, and the other way round. Where BLAS sees vectors only, its threads cannot pay
    for that: on a9a with two cores, L-BFGS-B takes 25 ms with one and 250 ms with two.

    Parameters
    ----------
    one_blas_thread : bool
        Whether to hold OpenBLAS to one thread.
    """

    def __init__(self, *, one_blas_thread: bool) -> None:
        controller = load("threadpoolctl").ThreadpoolController().select(internal_api="openblas")
        self._limit = partial(controller.limit, limits=1 if one_blas_thread else None)

    @contextmanager
    def __call__(self) -> Iterator[list[warnings.WarningMessage]]:
        """Enter them; yields the list of the warnings that the library gives meanwhile."""
        with warnings.catch_warnings(record=True) as caught, self._limit():
            warnings.simplefilter("always")
            yield caught


def resumable(run: Callable[[Callable[[Step], Any]], str], conditions: Conditions) -> Steps:
    """Turn a library's run that calls back at every iteration into a generator of its steps.

    The run is suspended inside its callback for as long as the consumer looks at the step, and
    abandoned there when the generator is closed. It is a greenlet: its own stack in the same
    thread. A second thread would do too, but torch keeps a team of OpenMP threads for every
    thread that computes, and with two teams on the cores SciPy's Newton-CG was measured to take
    1.5 times as long.

    Parameters
    ----------
    run : callable
        Takes the function to call with every step; returns why the library ended.
    conditions : Conditions
        Entered while the library runs, left while it is suspended.

    Yields
    ------
    Step
        With `seconds` between two callbacks, in which nothing but the library ran.

    Returns
    -------
    str
        What `run` returned.
    """
    greenlet = load("greenlet")
    emit = greenlet.getcurrent().switch
    worker = greenlet.greenlet(partial(run, emit))
    # NumPy's error state, for one, is a context variable; a greenlet starts without any.
    worker.gr_context = contextvars.copy_context()
    try:
        while True:
            with conditions():
                start = time.perf_counter()
                result = worker.switch()
                seconds = time.perf_counter() - start
            if worker.dead:
                return str(result)
            yield replace(result, seconds=seconds)
    finally:
        if not worker.dead:
            worker.throw()
