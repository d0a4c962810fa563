"""The estimators take samples, targets and weights in whatever a caller has them."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import scipy.sparse as sp
import torch

from newton_krylov import (
    NewtonKrylovClassifier,
    NewtonKrylovClassifierCV,
    NewtonKrylovRegressor,
    NewtonKrylovRegressorCV,
)
from newton_krylov.data.sparse import csr_to_torch

_DRAW = np.random.default_rng(0)
# Eighths are exact in half precision and in bfloat16.
X = np.round(_DRAW.normal(size=(40, 3)) * 8) / 8
LABELS = (X[:, 0] + _DRAW.normal(size=40) > 0).astype(int)
COUNTS = np.round(np.abs(X[:, 1])) + 1
WEIGHTS = np.round(_DRAW.uniform(1, 5, 40))
OFFSET = np.round(_DRAW.normal(size=40) * 8) / 8
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
TENSOR = torch.tensor(X)


def _read_only() -> Any:
    found = X.copy()
    found.flags.writeable = False
    return found


def _twice() -> Any:
    """Halves that are to be added, and an explicit zero."""
    at, half = np.nonzero(X), X[np.nonzero(X)] / 2
    rows, columns = (np.concatenate([part, part, [0]]) for part in at)
    values = np.concatenate([half, half, [0.0]])
    return sp.coo_array((values, (rows, columns)), shape=X.shape)


def _wide_indices() -> Any:
    csr = sp.csr_array(X)
    parts = (csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64))
    return sp.csr_array(parts, shape=X.shape)


SAMPLES = {
    "half": X.astype(np.float16), "long double": X.astype(np.longdouble),
    "big end": X.astype(">f8"),
    "fortran": np.asfortranarray(X), "reversed": np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "read only": _read_only(), "objects": X.astype(object), "texts": X.astype(str),
    "lists": X.tolist(), "masked": np.ma.array(X), "frame": FRAME, "dict": FRAME.to_dict("list"),
    "nullable": FRAME.astype("Float64"), "arrow": FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "table": pyarrow.Table.from_pandas(FRAME), "categories": FRAME.astype("category"),
    "levels": FRAME.set_axis(pd.MultiIndex.from_product([["k"], ["a", "b", "c"]]), axis=1),
    "sparse frame": FRAME.astype(pd.SparseDtype(float, 0.0)), "bfloat16": TENSOR.bfloat16(),
    "half tensor": TENSOR.half(), "leaf": TENSOR.clone().requires_grad_(),
    "torch's csr": csr_to_torch(sp.csr_array(X), torch.float64),
    "torch's coo": TENSOR.to_sparse_coo(),
    "twice": _twice(), "wide indices": _wide_indices(), "csr matrix": sp.csr_matrix(X),
    **{form: getattr(sp, f"{form}_array")(X) for form in ("csc", "lil", "dok", "dia", "bsr")},
}  # fmt: skip


def _fitted(samples: Any = X, y: Any = None, v: Any = WEIGHTS, offset: Any = OFFSET) -> list[Any]:
    """Fit a classifier to labels and a regressor to counts."""
    labels, counts = (LABELS, COUNTS) if y is None else y
    return [
        NewtonKrylovClassifier(l2=0.1).fit(samples, labels, v),
        NewtonKrylovRegressor("poisson", l2=0.1).fit(samples, counts, v, offset),
    ]


_PLAIN = [model.coef_ for model in _fitted()]


def _equal(models: Any) -> None:
    for model, coef in zip(models, _PLAIN, strict=True):
        assert np.allclose(model.coef_, coef, rtol=0, atol=1e-7)  # sparse samples are not centred


@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_are_the_plain_array_s(kind: str) -> None:
    found = _fitted(SAMPLES[kind])
    _equal(found)
    for model, plain in zip(found, _fitted(), strict=True):
        assert np.allclose(model.predict(SAMPLES[kind]), plain.predict(X), rtol=1e-6)


FORMS = {
    "list": lambda v: v.tolist(), "float16": lambda v: v.astype(np.float16),
    "objects": lambda v: v.astype(object), "series": lambda v: pd.Series(v, index=range(60, 100)),
    "nullable": lambda v: pd.Series(v).convert_dtypes(), "categories": pd.Categorical,
    "arrow": pyarrow.array, "tensor": torch.tensor, "texts": lambda v: v.astype(str),
    "bfloat16": lambda v: torch.tensor(v).bfloat16(),
    "leaf": lambda v: torch.tensor(v.astype(float), requires_grad=True),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_targets_weights_and_offsets_are_the_plain_array_s(form: str) -> None:
    made = FORMS[form]
    _equal(_fitted(y=(made(LABELS), made(COUNTS))))
    _equal(_fitted(v=made(WEIGHTS), offset=made(OFFSET)))


def test_cross_validation_takes_tensors() -> None:
    for model, y, more in (
        (NewtonKrylovClassifierCV, LABELS, {}),
        (NewtonKrylovRegressorCV, COUNTS, {"offset": torch.tensor(OFFSET).bfloat16()}),
    ):
        made = model(lambdas=[0.1], cv=2)
        found = made.fit(TENSOR.bfloat16(), torch.tensor(y), torch.tensor(WEIGHTS), **more)
        plain = model(lambdas=[0.1], cv=2).fit(X, y, WEIGHTS, *([OFFSET] if more else []))
        assert np.allclose(found.coef_, plain.coef_, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (["u", "v"] * 20, "column 'a' of X holds str and no numbers, such as 'u'"),
        ([1, "x"] * 20, "column 'a' of X holds object and no numbers, such as 'x'"),
        ([[1]] * 40, "column 'a' of X holds object and no numbers"),
        (pd.date_range("2020", periods=40), "column 'a' of X holds datetime64"),
        (pd.to_timedelta(range(40), unit="D"), "column 'a' of X holds timedelta64"),
        ([None, 1.0] * 20, "contains NaN"),
    ],
)
def test_a_column_without_numbers_is_named(column: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NewtonKrylovRegressor().fit(FRAME.assign(a=column), COUNTS)


def test_targets_and_offsets_that_are_none_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="a regression's targets are numbers"):
        NewtonKrylovRegressor().fit(X, ["low", "high"] * 20)
    with pytest.raises(ValueError, match="offset is sparse"):
        NewtonKrylovRegressor("poisson").fit(X, COUNTS, offset=sp.csr_array(OFFSET[:, None]))


def test_frames_and_columns_of_polars_are_the_plain_array_s() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(FRAME)
    decimals = frame.select(polars.all().cast(polars.Decimal(12, 4)))
    for samples in (frame, frame.lazy(), decimals, frame.select(polars.all().cast(polars.Float32))):
        _equal(_fitted(samples))
    for model, plain in zip(_fitted(frame), _fitted(), strict=True):
        assert list(model.feature_names_in_) == ["a", "b", "c"]
        assert np.allclose(model.predict(frame), plain.predict(X), rtol=1e-12)
        with pytest.raises(ValueError, match="must be in the same order"):
            model.predict(frame.select("c", "b", "a"))
    columns = [polars.Series(values) for values in (LABELS, COUNTS, WEIGHTS, OFFSET)]
    _equal(_fitted(frame, columns[:2], *columns[2:]))
    names = columns[0].replace_strict({0: "no", 1: "yes"})
    for labels in (names, names.cast(polars.Categorical), names.cast(polars.Enum(["yes", "no"]))):
        found = NewtonKrylovClassifier(l2=0.1).fit(frame, labels, WEIGHTS)
        assert list(found.classes_) == ["no", "yes"]
        _equal([found, _fitted()[1]])


@pytest.mark.parametrize("kind", ["text", "category", "date"])
def test_a_column_of_another_library_without_numbers_is_named(kind: str) -> None:
    polars = pytest.importorskip("polars")
    column = {
        "text": polars.Series(["u", "v"] * 20),
        "category": polars.Series(["u", "v"] * 20, dtype=polars.Categorical),
        "date": polars.Series(pd.date_range("2020", periods=40)),
    }[kind]
    frame = polars.from_pandas(FRAME).with_columns(a=column)
    for samples in (frame, frame.to_arrow()):
        with pytest.raises(ValueError, match=r"column 'a' of X holds .* and no numbers, such as"):
            NewtonKrylovRegressor().fit(samples, COUNTS)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([None, *["u", "v"] * 19, "u"], "a target is missing in row 1"),
        (["u", np.nan, *["u", "v"] * 19], "a target is missing in row 2"),
        ([1, "u"] * 20, "y mixes texts and other values"),
    ],
)
def test_labels_that_are_missing_or_mixed_are_one_sentence(labels: Any, says: str) -> None:
    for y in (np.array(labels, dtype=object), labels):
        for model in (NewtonKrylovClassifier(), NewtonKrylovClassifierCV()):
            with pytest.raises(ValueError, match=says):
                model.fit(X, y)
