"""The small real sets that lie inside scikit-learn's wheel."""

import hashlib
from collections.abc import Callable

import numpy as np

from newton_krylov.data.dataset import Task
from newton_krylov.data.prepare import RawData, Samples
from newton_krylov.data.sources import source


def _bunch(loader: str, task: Task) -> RawData:
    import sklearn
    import sklearn.datasets

    load: Callable[..., tuple[np.ndarray, np.ndarray]] = getattr(sklearn.datasets, loader)
    X, y = load(return_X_y=True)
    X = np.ascontiguousarray(X, dtype=np.float64)
    return RawData(
        train=Samples(X, y),
        test=None,
        task=task,
        n_classes=0 if task == "regression" else len(np.unique(y)),
        source=f"scikit-learn {sklearn.__version__}, sklearn.datasets.{loader}",
        fingerprint=hashlib.sha256(X.tobytes() + y.tobytes()).hexdigest(),
    )


@source("breast_cancer", scaling="standardize", test_fraction=0.2)
def breast_cancer() -> RawData:
    """Wisconsin breast cancer, 569 x 30 dense, two classes."""
    return _bunch("load_breast_cancer", "binary")


@source("digits", scaling="maxabs", test_fraction=0.2)
def digits() -> RawData:
    """Handwritten digits, 1,797 x 64 (8 x 8 images as rows), ten classes."""
    return _bunch("load_digits", "multiclass")


@source("wine", scaling="standardize", test_fraction=0.2)
def wine() -> RawData:
    """Wines by chemical analysis, 178 x 13 dense, three classes."""
    return _bunch("load_wine", "multiclass")


@source("iris", scaling="standardize", test_fraction=0.2)
def iris() -> RawData:
    """Iris flowers, 150 x 4 dense, three classes."""
    return _bunch("load_iris", "multiclass")


@source("diabetes", scaling="standardize", test_fraction=0.2)
def diabetes() -> RawData:
    """Diabetes progression, 442 x 10 dense, a regression."""
    return _bunch("load_diabetes", "regression")
