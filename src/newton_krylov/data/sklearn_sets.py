"""The small real sets that lie inside scikit-learn's wheel."""

import hashlib
from collections.abc import Callable

import numpy as np

from newton_krylov.data.catalogue import SKLEARN
from newton_krylov.data.prepare import RawData, Samples
from newton_krylov.data.sources import source


def _reader(name: str) -> Callable[[], RawData]:
    """Return a function of its own for a name."""
    bundled = SKLEARN[name]

    def read() -> RawData:
        import sklearn
        import sklearn.datasets

        loader = f"load_{name}"
        X, y = getattr(sklearn.datasets, loader)(return_X_y=True)
        X = np.ascontiguousarray(X, dtype=np.float64)
        return RawData(
            train=Samples(X, y),
            test=None,
            task=bundled.task,
            n_classes=0 if bundled.task == "regression" else len(np.unique(y)),
            source=f"scikit-learn {sklearn.__version__}, sklearn.datasets.{loader}",
            fingerprint=hashlib.sha256(X.tobytes() + y.tobytes()).hexdigest(),
        )

    read.__doc__ = bundled.summary
    read.__qualname__ = f"sklearn.{name}"  # distinguishes one registered function from another
    return read


for _name, _bundled in SKLEARN.items():
    source(_name, scaling=_bundled.scaling, test_fraction=0.2)(_reader(_name))
