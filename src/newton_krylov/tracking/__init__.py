"""Where runs are tracked. One tracker a file; each registers itself."""

from newton_krylov.tracking import mlflow_tracker, none

__all__ = ["mlflow_tracker", "none"]
