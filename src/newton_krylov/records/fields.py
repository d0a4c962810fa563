"""The solution of an equation as a run left it, and the file that keeps it."""

import zipfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from newton_krylov.files import atomic_write, is_regular

FIELDS = "fields.npz"


@dataclass(frozen=True)
class Fields:
    """Numbers at points of the plane; the file has them in single precision.

    Attributes
    ----------
    points : ndarray, shape (n, 2)
        Where.
    solution, error, residual : ndarray, shape (n,)
        u, u minus the known solution, and the equation's residual.
    """

    points: NDArray[np.float64]
    solution: NDArray[np.float64]
    error: NDArray[np.float64]
    residual: NDArray[np.float64]

    def write(self, folder: Path) -> None:
        """Write the file in a run's folder."""
        with atomic_write(folder / FIELDS) as stream:
            arrays = {name: array.astype(np.float32) for name, array in vars(self).items()}
            np.savez_compressed(stream, **arrays)


def read_fields(folder: Path) -> Fields | None:
    """Read the file in a run's folder.

    Parameters
    ----------
    folder : Path
        Folder of the run.

    Returns
    -------
    Fields or None
        None where there is none.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    path = folder / FIELDS
    if not path.exists():
        return None
    names = [field.name for field in fields(Fields)]
    if not is_regular(path):
        raise ValueError(f"{path} is not a regular file")
    try:
        with np.load(path, allow_pickle=False) as found:
            return Fields(**{name: found[name].astype(np.float64) for name in names})
    except (OSError, KeyError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not hold the fields of a solution") from error
