import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from run_folders import rows, write_run

from newton_krylov.records.spectrum import Snapshot, SnapshotWriter
from newton_krylov.report.spectrum import draw_spectrum


def observed(folder: Path, snapshots: Sequence[Snapshot], **config: object) -> Path:
    write_run(folder, rows([1.0, 0.1, 0.01]), **config)
    writer = SnapshotWriter(folder, max(len(s.values) for s in snapshots), snapshots)
    writer.close()
    return folder


def snapshot(
    iteration: int,
    values: Sequence[float] = (3.0, -1.0),
    trace: float = 4.0,
    nodes: Sequence[float] = (-1.0, 0.0, 3.0),
) -> Snapshot:
    shares = [1 / len(nodes) for _ in nodes]
    residuals = [0.01 * abs(value) for value in values]
    return Snapshot(iteration, 0.1, values, residuals, trace, 0.2, 9, 0.1, nodes, shares)


@pytest.mark.parametrize(
    "snapshots",
    [
        [snapshot(k) for k in range(12)],
        [snapshot(0)],
        [snapshot(0, values=[]), snapshot(1, values=[])],
        [snapshot(0, trace=math.nan, nodes=[]), snapshot(4, trace=math.nan, nodes=[])],
        [snapshot(0, nodes=[]), snapshot(1)],
        [snapshot(0, values=[0.0, 0.0], trace=0.0, nodes=[0.0])],
        [snapshot(0, values=[1e6, 1e-6], trace=1e6), snapshot(1, values=[5.0, 1e-9], trace=1.0)],
        [snapshot(0, values=[math.nan, math.nan]), snapshot(1)],
    ],
    ids=["all", "one", "no pairs", "pairs alone", "a density", "zero", "decades", "nan"],
)
def test_whatever_was_seen_is_drawn(tmp_path: Path, snapshots: Sequence[Snapshot]) -> None:
    (file,) = draw_spectrum(observed(tmp_path / "run", snapshots))
    assert file == tmp_path / "run" / "figures" / "spectrum.png"
    assert file.stat().st_size > 5000


def test_equal_snapshots_give_equal_files(tmp_path: Path) -> None:
    first, second = (
        draw_spectrum(observed(tmp_path / name, [snapshot(0), snapshot(2)]))[0].read_bytes()
        for name in "ab"
    )
    assert first == second


def test_a_run_that_was_not_observed_has_no_figure(tmp_path: Path) -> None:
    assert draw_spectrum(write_run(tmp_path / "run", rows([1.0]))) == []
    nothing = Snapshot(0, 0.0, [], [], math.nan, math.nan, 0, 0.0)
    assert draw_spectrum(observed(tmp_path / "other", [nothing])) == []
