"""Keeps the snapshots of a run's spectrum: in its folder, and with its tracker."""

import math
from collections.abc import Callable
from pathlib import Path

from newton_krylov.errors import UserError
from newton_krylov.objectives.base import Objective, Point
from newton_krylov.records.spectrum import SnapshotWriter, read_snapshots
from newton_krylov.records.trace import Measured, Row
from newton_krylov.registry import entry
from newton_krylov.runs.config import RunConfig
from newton_krylov.runs.observer import OWN, Observer
from newton_krylov.runs.runner import Outcome, RunResult


class Watch:
    """Looks at the spectrum along a run as its configuration asks; does nothing where it does not.

    Parameters
    ----------
    config : RunConfig
        Configuration; its `observation` says what to look at.
    objective : Objective
        Objective of the run.
    folder : Path
        The run's, for the files.
    log : callable
        Takes each snapshot, for a tracker.
    last : int
        The last iteration of an earlier process that the run goes on from; -1 for none.

    Raises
    ------
    UserError
        If the objective does not have what is to be looked at, or a file cannot be written.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Objective,
        folder: Path,
        log: Callable[[Measured], None],
        last: int = -1,
    ) -> None:
        self._objective, self._log = objective, log
        self._observer: Observer | None = None
        self._writer: SnapshotWriter | None = None
        if config.observation.every is None:
            return
        own = config.observation.of == OWN
        curvature = (
            config.build("hessian_approx")
            if own
            else entry("hessian_approx", config.observation.of).build({})
        )
        before = [s for s in read_snapshots(folder) if s.iteration <= last] if last >= 0 else []
        self._observer = Observer(
            config.observation,
            objective,
            curvature,
            config.settings.seed,
            before[-1].iteration if before else -1,
        )
        try:
            self._writer = SnapshotWriter(folder, self._observer.top, before)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error

    def step(self, row: Row, point: Point) -> None:
        """Look at a step of the run, if one is due."""
        if self._observer is not None and self._observer.due(row.iteration):
            self._look(row, point)

    def end(self, result: RunResult) -> None:
        """Look at the last step of a run that ended regularly."""
        cut_short = result.outcome.failed or result.outcome is Outcome.INTERRUPTED
        if self._observer is None or not result.rows or cut_short:
            return
        row = result.rows[-1]
        if math.isfinite(row.loss) and self._observer.due(row.iteration, end=True):
            self._look(row, self._objective.at(result.w))

    def _look(self, row: Row, point: Point) -> None:
        assert self._observer is not None and self._writer is not None
        snapshot = self._observer.look(row.iteration, row.seconds, point)
        self._writer(snapshot)
        self._log(snapshot)

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
