"""The data sets that a name alone chooses: of LIBSVM, scikit-learn, NIST and MGH, a line each.

They have no YAML files: a configuration gets their keys and defaults from their registration.
Nothing heavy is imported here, for `--help` and shell completion read it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Known:
    """A data set of LIBSVM's site.

    Attributes
    ----------
    task : {"binary", "multiclass", "regression"}
        What the labels are; also the folder of the site.
    summary : str
        One line: what it is, its size.
    train : str
        Name of the file.
    test : str or None
        Name of the test file, where there is one.
    n_features : int or None
        Given where the files alone do not show it, since no sample has the last feature.
    """

    task: Task
    summary: str
    train: str
    test: str | None = None
    n_features: int | None = None


def _adult(k: int, n: int) -> Known:
    summary = f"Census income (UCI Adult), {n:,} x 123 sparse 0/1 features, two classes."
    return Known("binary", summary, f"a{k}a", f"a{k}a.t", 123)


_ADULT = (1605, 2265, 3185, 4781, 6414, 11220, 16100, 22696)  # a9a is embedded

LIBSVM: dict[str, Known] = {
    **{f"a{k}a": _adult(k, n) for k, n in enumerate(_ADULT, 1)},
    "cod-rna": Known(
        "binary", "Non-coding RNA, 59,535 x 8 dense, two classes.", "cod-rna", "cod-rna.t"
    ),
    "covtype": Known(
        "binary",
        "Forest cover, 581,012 x 54 scaled to [0, 1], two classes.",
        "covtype.libsvm.binary.scale.bz2",
    ),
    "gisette": Known(
        "binary",
        "Digits 4 against 9 with probes, 6,000 x 5,000 dense, two classes.",
        "gisette_scale.bz2",
        "gisette_scale.t.bz2",
    ),
    "ijcnn1": Known(
        "binary",
        "Engine misfire (IJCNN 2001), 49,990 x 22, two classes.",
        "ijcnn1.bz2",
        "ijcnn1.t.bz2",
    ),
    "mushrooms": Known(
        "binary", "Edible or poisonous, 8,124 x 112 sparse 0/1 features, two classes.", "mushrooms"
    ),
    "news20": Known(
        "binary",
        "Newsgroups by their words, 19,996 x 1,355,191 sparse, two classes.",
        "news20.binary.bz2",
    ),
    "phishing": Known("binary", "Phishing sites, 11,055 x 68, two classes.", "phishing"),
    "rcv1": Known(
        "binary",
        "Reuters news by their words, 20,242 x 47,236 sparse, two classes.",
        "rcv1_train.binary.bz2",
        "rcv1_test.binary.bz2",
        47236,
    ),
    "real-sim": Known(
        "binary", "Usenet articles, 72,309 x 20,958 sparse, two classes.", "real-sim.bz2"
    ),
    "splice": Known(
        "binary", "Splice junctions of DNA, 1,000 x 60, two classes.", "splice", "splice.t"
    ),
    "w8a": Known(
        "binary",
        "Web pages by their words, 49,749 x 300 sparse 0/1 features, two classes.",
        "w8a",
        "w8a.t",
        300,
    ),
    "letter": Known(
        "multiclass",
        "Printed letters, 15,000 x 16, 26 classes.",
        "letter.scale",
        "letter.scale.t",
    ),
    "mnist": Known(
        "multiclass",
        "Handwritten digits as rows, 60,000 x 780 scaled to [0, 1], ten classes.",
        "mnist.scale.bz2",
        "mnist.scale.t.bz2",
        780,
    ),
    "usps": Known(
        "multiclass",
        "Digits of the US postal service, 7,291 x 256, ten classes.",
        "usps.bz2",
        "usps.t.bz2",
    ),
    "abalone": Known("regression", "Age of shellfish, 4,177 x 8, a regression.", "abalone"),
    "cadata": Known(
        "regression", "House prices in California, 20,640 x 8, a regression.", "cadata"
    ),
    "cpusmall": Known("regression", "Load of a computer, 8,192 x 12, a regression.", "cpusmall"),
    "year_prediction": Known(
        "regression",
        "Year of a song, 463,715 x 90 dense, a regression.",
        "YearPredictionMSD.bz2",
        "YearPredictionMSD.t.bz2",
    ),
}
"""Names of LIBSVM's site, and their files there."""


@dataclass(frozen=True)
class Bundled:
    """A data set inside scikit-learn's wheel.

    Attributes
    ----------
    task : {"binary", "multiclass", "regression"}
        What the targets are.
    scaling : str
        The default: see `Options`.
    summary : str
        One line: what it is, its size.
    """

    task: Task
    scaling: str
    summary: str


SKLEARN: dict[str, Bundled] = {
    "breast_cancer": Bundled(
        "binary", "standardize", "Wisconsin breast cancer, 569 x 30 dense, two classes."
    ),
    "digits": Bundled(
        "multiclass",
        "maxabs",
        "Handwritten digits, 1,797 x 64 (8 x 8 images as rows), ten classes.",
    ),
    "wine": Bundled(
        "multiclass", "standardize", "Wines by chemical analysis, 178 x 13 dense, three classes."
    ),
    "iris": Bundled("multiclass", "standardize", "Iris flowers, 150 x 4 dense, three classes."),
    "diabetes": Bundled(
        "regression", "standardize", "Diabetes progression, 442 x 10 dense, a regression."
    ),
}
"""Names of scikit-learn's data sets; `sklearn.datasets.load_NAME` loads them."""


_NIST = "nist_strd.json"


@cache
def nist_tables() -> dict[str, dict[str, Any]]:
    """Return the tables of NIST's certified problems of nonlinear regression.

    Returns
    -------
    dict
        Problem to `difficulty`, both starts, the certified parameters with their standard
        deviations, the certified residual sum of squares and standard deviation, and the data.
    """
    text = (resources.files("newton_krylov.data") / "files" / _NIST).read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def nist_summary(problem: str) -> str:
    """Return a line on one of NIST's problems."""
    table = nist_tables()[problem]
    return (
        f"NIST's certified curve fit {problem}: {len(table['certified'])} parameters, "
        f"{len(table['y'])} observations, {table['difficulty']} difficulty."
    )


MGH: dict[str, str] = {
    name: f"Moré, Garbow and Hillstrom's problem {number}, {words}: {n} parameters."
    for name, number, words, n in (
        ("rosenbrock", 1, "Rosenbrock", 2),
        ("freudenstein_roth", 2, "Freudenstein and Roth", 2),
        ("powell_badly_scaled", 3, "Powell badly scaled", 2),
        ("brown_badly_scaled", 4, "Brown badly scaled", 2),
        ("beale", 5, "Beale", 2),
        ("jennrich_sampson", 6, "Jennrich and Sampson", 2),
        ("helical_valley", 7, "helical valley", 3),
        ("bard", 8, "Bard", 3),
        ("gaussian", 9, "Gaussian", 3),
        ("meyer", 10, "Meyer", 3),
        ("gulf", 11, "Gulf research and development", 3),
        ("box", 12, "Box three-dimensional", 3),
        ("powell_singular", 13, "Powell singular", 4),
        ("wood", 14, "Wood", 4),
        ("kowalik_osborne", 15, "Kowalik and Osborne", 4),
        ("brown_dennis", 16, "Brown and Dennis", 4),
        ("osborne_1", 17, "Osborne 1", 5),
        ("biggs", 18, "Biggs EXP6", 6),
        ("osborne_2", 19, "Osborne 2", 11),
        ("watson", 20, "Watson", 6),
        ("extended_rosenbrock", 21, "extended Rosenbrock", 20),
        ("extended_powell", 22, "extended Powell singular", 20),
        ("penalty_1", 23, "penalty I", 10),
        ("penalty_2", 24, "penalty II", 10),
        ("variably_dimensioned", 25, "variably dimensioned", 10),
        ("trigonometric", 26, "trigonometric", 10),
        ("brown_almost_linear", 27, "Brown almost-linear", 10),
        ("discrete_boundary", 28, "discrete boundary value", 10),
        ("discrete_integral", 29, "discrete integral equation", 10),
        ("broyden_tridiagonal", 30, "Broyden tridiagonal", 10),
        ("broyden_banded", 31, "Broyden banded", 10),
        ("linear_full_rank", 32, "linear, full rank", 10),
        ("linear_rank_1", 33, "linear, rank 1", 10),
        ("linear_rank_1_zeros", 34, "linear, rank 1, zero columns and rows", 10),
        ("chebyquad", 35, "Chebyquad", 8),
    )
}
"""Names of the test problems of Moré, Garbow and Hillstrom (1981), and a line on each."""


def summaries() -> dict[str, str]:
    """Return a line on every data set that has no YAML file, by name."""
    downloaded = {
        name: f"{known.summary.rstrip('.')} (downloaded on first use)."
        for name, known in LIBSVM.items()
    }
    certified = {f"nist_{problem}": nist_summary(problem) for problem in nist_tables()}
    tests = {f"mgh_{problem}": line for problem, line in MGH.items()}
    return downloaded | {name: one.summary for name, one in SKLEARN.items()} | certified | tests
