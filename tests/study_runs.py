"""Studies whose numbers a person can check, written as their runs write them."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from run_folders import row, rows, write_run

from studies.reproduction import sns

# --- the convex study

EXACT = [1.0, 1e-2, 1e-4, 1e-8, 1e-13]
Methods = dict[str, tuple[list[float], float]]
"""Label to suboptimalities and seconds a step."""

DEFAULTS: Methods = {
    "Exact Newton": (EXACT, 0.02),
    "Newton-GMRES": ([1.0, 1e-2, 1e-4, 1e-8, 2e-13], 0.005),
    "Newton-CR": ([1.0, 1e-2, 1e-4, 1e-8, 3e-13], 0.004),
}


def convex_study(
    folder: Path,
    changed: Methods | None = None,
    *,
    inner: int = 10,
    accuracies: dict[str, float] | None = None,
    growth: float = 0.0,
    descent: list[float] | None = None,
    descent_seconds: float = 0.1,
    step_size: float = 0.5,
    **summary: Any,
) -> Path:
    """Write a study whose numbers a person can check; each method may be given other ones.

    Each epoch of exact Newton's takes `growth` more of the first one's time than the last.
    """
    common: dict[str, Any] = {"name": "paper_convex", "benchmark": "Gradient descent"}
    for label, (values, seconds) in (DEFAULTS | (changed or {})).items():
        for repeat, factor in enumerate((1.0, 1.1)):
            slower = growth if label == "Exact Newton" else 0.0
            trace = [
                row(
                    i, value, seconds * factor * i * (1 + slower * i),
                    train_accuracy=(accuracies or {}).get(label, 0.8),
                )
                for i, value in enumerate(values)
            ]  # fmt: skip
            write_run(
                folder / f"{label}-{repeat}", trace, label=label, repeat=repeat,
                solver={"name": "gmres", "maxiter": inner}, summary=summary, **common,
            )  # fmt: skip
    values = descent or [0.1**i for i in range(15)]
    trace = [
        row(i, value, descent_seconds * i, step_size=step_size, hvp_count=10.0)
        for i, value in enumerate(values)
    ]
    write_run(folder / "gd", trace, label="Gradient descent", summary=summary, **common)
    return folder


def growing_study(
    folder: Path, exact: Callable[[int], float], krylov: Callable[[int], float] = lambda d: d / 1e5
) -> Path:
    for d in (100, 1000, 10000):
        for label, seconds in (("Exact Newton", exact(d)), ("Newton-CG", krylov(d))):
            trace = rows([1.0, 1e-7], step_seconds=seconds)
            write_run(folder / f"{label}{d}", trace, label=label, n_features=d, name="scaling")
    return folder


# --- Ye and Zhang

ALPHAS = (0.001, 0.1)


def geometric(factor: float, length: int = 400) -> list[float]:
    return [factor**k for k in range(length) if factor**k > 1e-10]


def ye_zhang(
    folder: Path,
    plain: Callable[[float], float],
    accelerated: Callable[[float], float],
    *,
    theta: float | str | None = None,
    **rivals: float,
) -> Path:
    """Write a study in which each method's gap falls by a known factor a step."""
    momentum = {} if theta is None else {"theta": theta}
    made = itertools.count()
    for alpha, seed in itertools.product(ALPHAS, (0, 1)):
        for name, factor in (("newton", plain), ("accelerated_newton", accelerated)):
            curvature = {"name": "regularized_subsampled", "fraction": 0.05, "alpha": alpha}
            write_run(
                folder / str(next(made)), rows(geometric(factor(alpha))), seed=seed,
                name="ye_zhang_2017", label=f"{name} {alpha}", optimizer={"name": name, **momentum},
                hessian_approx=curvature,
            )  # fmt: skip
    for label, seconds in rivals.items():
        write_run(
            folder / label, rows(geometric(0.1), step_seconds=seconds), name="ye_zhang_2017",
            label={"newton": "Exact Newton", "gd": "Gradient descent"}[label],
            optimizer={"name": label},
        )  # fmt: skip
    return folder


# --- DynaNewton

PATH = [1.0, 1e-1, 5e-3, 1e-5, 1e-10]
"""d / 2n is 1e-2 here (20 features, 1000 samples): reached with the third row."""


def dyna_study(
    folder: Path, *, passes: float = 0.6, seconds: float = 0.01, test: bool = True
) -> Path:
    """Write a study; DynaNewton's steps take some passes and seconds, Newton's two and 0.02."""
    each = {"DynaNewton": (passes, seconds), "Exact Newton": (2.0, 0.02), "SGD": (1.0, 0.5)}
    for label, (reads, time) in each.items():
        gaps = PATH if label != "SGD" else [1.0, 5e-3, 2e-3]
        trace = [
            row(
                k, gap, time * k, data_passes=reads * k, hessian_count=reads * k / 2,
                test_loss=0.4 + gap if test else math.nan,
            )
            for k, gap in enumerate(gaps)
        ]  # fmt: skip
        write_run(folder / label, trace, name="dynanewton_2016", label=label)
    return folder


def multiplier_study(folder: Path, cost: Callable[[float], float]) -> Path:
    for c in (0.0, 1.0, 10.0):
        optimizer = {"name": "dynanewton", "multiplier": c, "schedule": "geometric"}
        trace = [row(k, gap, 0.1 * k, data_passes=cost(c) * k) for k, gap in enumerate(PATH)]
        write_run(
            folder / f"c{c}", trace, name="dynanewton_2016_multiplier", label="DynaNewton",
            optimizer=optimizer,
        )  # fmt: skip
    return folder


# --- the network

ACCURACIES = {
    "Adam (the paper's gradient descent)": 0.95,
    "SGD": 0.7,
    "Paper's Newton, layer 1": 0.14,
    "Paper's Newton, layer 4": 0.3,
    "Paper's Newton, layers 1, 2, 4": 0.11,
    "Newton, layer 1": 0.33,
    "Newton, layers 1, 2, 4": 0.4,
    "Newton, all layers": 0.75,
}


def run_of(folder: Path, label: str, accuracy: float, minutes: float = 4.0, **config: Any) -> None:
    trace = [
        row(
            epoch, math.nan, 15.0 * minutes * epoch, loss=2.3 - 0.1 * epoch,
            train_accuracy=0.1 + (accuracy - 0.1) * epoch / 4, test_accuracy=0.1,
        )
        for epoch in range(5)
    ]  # fmt: skip
    settings = {"name": "paper_nonconvex", "optimizer": {"name": "layerwise_newton"}} | config
    write_run(folder, trace, label=label, optimum=None, reason="4 epochs", **settings)


# --- transport

Runs = dict[str, tuple[int, float]]
"""Label to iterations and seconds."""

TRANSPORT: Runs = {sns.SNS: (30, 0.1), sns.WHOLE: (30, 0.3), sns.SINKHORN: (60_000, 60.0)}


def transport_trace(iterations: int, seconds: float) -> list[Any]:
    """Return a start, a middle that is at machine accuracy and an end."""
    middle = row(iterations - 1, 1e-16, 0.9 * seconds)
    return [row(0, 0.1, 0.0), middle, row(iterations, 0.0, seconds)]


def transport_study(
    folder: Path, study: str, runs: Runs, *, n: int = 500, converged: bool = True, **config: Any
) -> None:
    for label, (iterations, seconds) in runs.items():
        ended = "converged" if converged or label != sns.SINKHORN else "limit"
        write_run(
            folder / study / str(config) / label, transport_trace(iterations, seconds), label=label,
            name=study, reason=f"{ended} by the test", n_features=n + len(str(config)),
            summary={
                "outcome": ended,
                "dataset": {"name": "transport", "n_samples": n, "n_features": n,
                            "checksum": f"{study}{config.get('dataset')}"},
            },
            **config,
        )  # fmt: skip


def assignment(folder: Path, changed: Runs | None = None) -> None:
    source = {"name": "transport", "source": "random_assignment"}
    transport_study(folder, sns.STUDY, TRANSPORT | (changed or {}), dataset=source)
