"""Run folders with known contents, written as a run writes them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from newton_krylov.records.trace import Row, TraceWriter

OPTIMUM = 0.25


def row(iteration: int, suboptimality: float, seconds: float, **columns: Any) -> Row:
    values: dict[str, Any] = {
        "loss": OPTIMUM + suboptimality,
        "grad_norm": math.sqrt(abs(suboptimality)),
        "train_accuracy": 0.8,
        "test_accuracy": 0.7,
        "test_loss": 0.4,
        "step_size": 1.0 if iteration else math.nan,
        "inner_iterations": 3 if iteration else 0,
        "function_count": iteration + 1.0,
        "gradient_count": iteration + 1.0,
        "hvp_count": 3.0 * iteration,
        "hessian_count": 0.0,
        "data_passes": 1.0 + 5.0 * iteration,
        "step_seconds": 0.0,
    }
    return Row(
        iteration=iteration, suboptimality=suboptimality, seconds=seconds, **(values | columns)
    )


def rows(
    suboptimalities: Sequence[float], *, step_seconds: float = 0.01, **columns: Any
) -> list[Row]:
    return [row(i, value, step_seconds * i, **columns) for i, value in enumerate(suboptimalities)]


def write_run(
    folder: Path,
    trace: Sequence[Row],
    *,
    label: str = "Newton-CG",
    status: str = "finished",
    reason: str = "10 epochs",
    optimum: float | None = OPTIMUM,
    n_features: int = 20,
    summary: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    folder.mkdir(parents=True)
    writer = TraceWriter(folder / "trace.csv")
    for each in trace:
        writer(each)
    writer.close()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "a-study",
                "label": label,
                "seed": 0,
                "repeat": 0,
                "benchmark": None,
                "dataset": {"name": "made-up", "n_features": n_features},
                "loss": {"name": "logistic", "l2": 0.01},
                "solver": {"name": "cg", "rtol": 1e-5},
                **config,
            }
        )
    )
    described = {
        "label": label,
        "status": status,
        "outcome": "limit" if status == "finished" else None,
        "reason": reason,
        "optimum": optimum,
        "dtype": "float64",
        "dataset": {
            "name": "made-up",
            "n_samples": 1000,
            "n_features": n_features,
            "checksum": f"made-up-{n_features}",
        },
    }
    (folder / "summary.json").write_text(json.dumps(described | (summary or {})))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11"}))
    return folder
