"""`run`, `sweep`, `compare` and `verdict` from a program."""

import contextlib
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import scipy.sparse
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import newton_krylov as nk
from newton_krylov.calls.given import kept, named
from newton_krylov.data import Table, load_dataset
from newton_krylov.data.prepare import fold_rows
from newton_krylov.errors import ConfigError, DataError, UserError

WORDS = {"dataset": "breast_cancer", "tracking": "none", "dataset.scaling": "standardize"}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_call_is_the_command(place: Path) -> None:
    found = nk.run(**WORDS, solver={"name": "gmres", "restart": 20}, stop={"epochs": 4})
    rows = (found.folder / "trace.csv").read_text().splitlines()
    assert len(found.trace) == len(rows) - 1 == 5
    assert found.trace["loss"].tolist() == [float(row.split(",")[1]) for row in rows[1:]]
    assert found.config["solver"]["restart"] == 20
    assert json.loads((found.folder / "summary.json").read_text()) == found.summary
    assert found.weights.shape == (30,)
    assert found.folder.parents[1] == place / "outputs"
    assert "<table" in found._repr_html_()
    assert "data:image/png;base64," in found._repr_html_()


def test_a_sweep_compares_and_a_comparison_takes_its_results() -> None:
    found = nk.sweep(**WORDS, solver=["cr", "cg"], seed=[0, 1])
    assert len(found.frame) == 4
    assert found.frame["solver.name"].tolist() == ["cr", "cr", "cg", "cg"]
    assert found.frame["seed"].tolist() == [0, 1, 0, 1]
    assert len(found.table) == 2
    assert found.page is not None
    assert found.page.exists()
    for record in found.records:
        record.summary["load_average"] = [10.0 * record.cores] * 2
    assert "The machine was busy" in str(found)
    alone = nk.run(**WORDS, solver="minres")
    both = nk.compare(alone, found, found.folder, out="both")
    assert len(both.frame) == 5  # what is given twice is there once
    assert len(both.studies) == 1
    assert Path("both/comparison.html").exists()


def test_mistakes_are_sentences_and_nothing_ends_the_process() -> None:
    for words, sentence in (
        ({"solver": "crr"}, "did you mean 'cr'"),
        ({"solver.rtoll": 1}, "solver.rtoll"),
        ({"experiment": "peers"}, "call sweep"),
        ({"dataset": {"data": 3}}, "should be a data frame"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            nk.run(**words)
    with pytest.raises(ConfigError, match="launcher"):
        nk.sweep(**{"hydra/sweeper": "basic", "hydra/launcher": "joblib"}, seed=[0, 1])
    with pytest.raises(ConfigError, match="needs runs"):
        nk.compare()
    with pytest.raises(DataError, match=r"\(n, d\)"):
        nk.run(dataset=(np.ones(3), np.ones(4)))
    with pytest.raises(DataError, match="X holds"):
        nk.run(dataset=(np.array([[object()]]), np.ones(1)))


def test_frames_and_arrays_are_kept_by_their_content() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    words = {"tracking": "none", "stop": {"epochs": 2}}
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(answer=y)
    table = nk.run(dataset=frame, **{"dataset.target": "answer"}, **words)
    again = nk.run(dataset={"data": frame.copy(), "target": "answer"}, solver="cr", **words)
    arrays = nk.run(dataset=(torch.from_numpy(X), y), **words)
    assert table.config["dataset"]["path"] == again.config["dataset"]["path"]
    (study,) = nk.compare(table, again).studies
    assert study.problem.title.startswith("frame (answer) · ")
    assert arrays.summary["dataset"]["name"] == "arrays"
    np.testing.assert_array_equal(arrays.trace["loss"], table.trace["loss"])


def test_a_call_leaves_a_program_of_hydras_as_it_was(place: Path) -> None:
    """Its configuration, its store and its job's are there after a call as before."""
    conf = place / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text("defaults: [{db: mine}, _self_]\nx: 1\n")
    ConfigStore.instance().store("mine", {"host": "here"}, "db")
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            before = compose("config", return_hydra_config=True)
            HydraConfig.instance().set_config(before)
            store = ConfigStore.instance().repo
            groups = set(store)  # commands that were tested in this process have left theirs
            nk.run(**WORDS, stop={"epochs": 1})
            with pytest.raises(ConfigError):
                nk.run(solver="crr")
            assert ConfigStore.instance().repo is store
            assert set(store) == groups
            assert HydraConfig.instance().cfg is not None
            assert HydraConfig.instance().cfg.hydra == before.hydra
            assert compose("config").db.host == "here"
        assert not GlobalHydra.instance().is_initialized()
    finally:
        del ConfigStore.instance().repo["db"]


def test_a_module_starts_by_the_seed_and_is_left_alone() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    before = [p.detach().clone() for p in module.parameters()]
    X = np.random.default_rng(0).standard_normal((40, 4))
    runs = [
        nk.run(
            dataset={"data": (X, X[:, 0] ** 2), "scaling": "none", "bias": False},
            model=module, loss=loss, seed=seed, start="model", optimizer="lbfgs", tracking="none",
            stop={"epochs": 2}, dtype="float64",
        )
        for loss, seed in (("mse", 0), ("mse", 1), (half_mean_square, 0))
    ]  # fmt: skip
    losses = [run.trace["loss"].to_numpy() for run in runs]
    assert losses[0][0] != losses[1][0]
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def half_mean_square(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (outputs[:, 0] - y).square().mean() / 2


SMALL = {
    "verdict": {"trials": 1, "seeds": 2}, "seconds": 0.4, "clock": "processor", "tracking": "none",
}  # fmt: skip


@pytest.mark.slow
def test_a_verdict_on_a_function_whose_answer_is_known() -> None:
    """Condition 1e10: gradient steps reach next to nothing; Newton's method needs one step."""
    curvatures = torch.logspace(0, 10, 12, dtype=torch.float64)
    start = curvatures.rsqrt()  # every coordinate has the same share of the loss

    def valley(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * (curvatures * w * w).sum()

    found = nk.verdict(valley, start, **SMALL)
    tight = found.race.comparisons[-1]
    assert tight.second is not None
    families = {c.name: c.time(tight.target) for c in found.race.contestants}
    assert families["exact_newton"] < min(families["gd"], families["nesterov"])
    condition = found.race.facts["condition_number"]
    assert condition == pytest.approx(1e10, rel=1e-4)
    assert any("Condition number" in reason for reason in found.reasons)
    assert str(found).startswith(found.paragraph)
    assert "<table" in found._repr_html_()
    assert found.table.columns[0] == "Method"
    assert found.figure() is not None
    assert (found.folder / "verdict.json").exists()


@pytest.mark.slow
def test_a_verdict_on_a_well_conditioned_quadratic_finds_no_need_of_curvature() -> None:
    """Condition 1: gradient descent's first step is exact, as Newton's is."""

    def bowl(w: torch.Tensor) -> torch.Tensor:
        return 0.5 * (w * w).sum()

    found = nk.verdict(bowl, torch.ones(20, dtype=torch.float64), **SMALL)
    assert found.answer in ("No difference", "No"), found.paragraph
    for contestant in found.race.contestants:
        steps = {int(r.rows[-1].iteration) for r in contestant.default}
        assert max(steps) <= 2, contestant.name
        assert math.isfinite(contestant.time(found.race.targets[-1]))


def test_what_is_no_objective_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="a function of one vector"):
        nk.verdict(3, "a9a")


def test_a_functions_weights_are_its_minimizer() -> None:
    def bowl(w: torch.Tensor) -> torch.Tensor:
        return ((w - 1) ** 2).sum()

    start = torch.full((3,), 5.0, dtype=torch.float64)
    found = nk.run(loss=bowl, dataset=start, optimizer="bfgs", tracking="none", quiet=True)
    assert found.trace["loss"][0] == pytest.approx(48)
    np.testing.assert_allclose(found.weights, np.ones(3), atol=1e-5)


@pytest.mark.parametrize("start", [0.0, 3.0])
def test_a_run_that_ends_on_a_maximum_says_so(start: float) -> None:
    words = {"optimizer": "lbfgs", "tracking": "none", "start": "zeros", "stop.grad_norm": 1e-9}
    at = torch.full((3,), start, dtype=torch.float64)
    found = nk.run(loss=lambda w: torch.cos(w).sum(), dataset=at, **words)
    assert found.summary["outcome"] == "converged"
    assert ("saddle point or a maximum" in found.summary["reason"]) == (start == 0.0)


class Two(torch.nn.Linear):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), x


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Two(3, 2), "The network returns tuple, not a tensor: .* wrap it in a module"),
        (torch.nn.Linear(4, 2), "The network does not take the samples as they are: RuntimeError"),
        (torch.nn.Linear(3, 1), r"not take outputs of shape \(n, 1\) with targets .* from 0 to 1"),
        (torch.nn.Linear(3, 2, dtype=torch.complex64), "'weight' is torch.complex64: .* as pairs"),
        (torch.nn.LazyLinear(2), "'weight' has no shape yet"),
        (torch.nn.Linear(3, 2).requires_grad_(False), "are frozen"),
        (torch.nn.Linear, "is the class Linear: give an instance"),
        ("multinomial", "loss=multinomial needs"),
    ],
)
def test_a_verdict_finds_a_mistake_in_a_module_before_any_run(module, sentence, place) -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    with pytest.raises(UserError, match=sentence):
        nk.verdict(module, (X, y), **SMALL)
    assert not list(place.rglob("trace.csv"))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((np.zeros((0, 3)), np.zeros(0)), "have no rows"),
        (((np.eye(3), np.eye(3)), np.arange(3)), "one array of samples"),
        (torch.utils.data.TensorDataset(torch.eye(3)), "dataset is a TensorDataset: it should be"),
        ((row for row in np.eye(3)), "dataset is a generator"),
    ],
)
def test_data_that_a_verdict_cannot_take_are_a_sentence(data: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        nk.verdict(torch.nn.Linear(3, 2), data, **SMALL)


def test_a_function_that_cannot_be_differentiated_is_found_before_any_run(place: Path) -> None:
    def through_numpy(w: torch.Tensor) -> torch.Tensor:
        return torch.tensor(np.square(w.numpy()).sum())

    with pytest.raises(UserError, match="cannot be differentiated at its start: RuntimeError"):
        nk.verdict(through_numpy, torch.ones(3), **SMALL)
    assert not list(place.rglob("trace.csv"))


def test_a_list_in_the_place_of_a_mapping_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"verdict\.methods is a list, and should be a mapping"):
        nk.verdict("logistic", "breast_cancer", **{**SMALL, "verdict": {"methods": ["gd", "saga"]}})


def test_data_that_cannot_be_kept_are_a_sentence(place: Path) -> None:
    (place / "outputs").write_text("no folder")
    with pytest.raises(UserError, match=r"arrays-\w+\.npz cannot be written: Not a directory"):
        nk.run(dataset=(np.eye(4), np.arange(4) % 2), tracking="none")


def test_a_verdict_without_data_asks_for_them() -> None:
    with pytest.raises(ConfigError, match="needs data"):
        nk.verdict("logistic", tracking="none", quiet=True)


def test_several_choices_of_a_group_are_a_sweep() -> None:
    with pytest.raises(ConfigError, match=r"-m solver=cg,cr"):
        nk.run(**WORDS, solver=["cg", "cr"])


def test_a_frame_of_its_target_alone_is_a_sentence() -> None:
    with pytest.raises(DataError, match="no column beside 'y'"):
        nk.run(dataset={"data": pd.DataFrame({"y": [0, 1] * 9}), "target": "y"}, tracking="none")


def test_categories_that_are_numbers_are_categories() -> None:
    codes = pd.Categorical([3, 7, 11, 3, 7, 11] * 5)
    frame = pd.DataFrame({"code": codes, "y": [0, 1, 0, 1, 1, 0] * 5})
    words = {"tracking": "none", "quiet": True, "stop": {"epochs": 1}}
    found = nk.run(dataset={"data": frame, "target": "y", "bias": False}, **words)
    assert found.weights.shape == (3,)


def test_a_frame_with_targets_keeps_its_columns() -> None:
    X = pd.DataFrame({"age": np.linspace(20, 60, 30), "town": ["a", "b", "c"] * 10})
    y = np.array([0, 1, 1, 0, 1] * 6)
    words = {"tracking": "none", "quiet": True, "stop": {"epochs": 1}}
    found = nk.run(dataset={"data": (X, y), "bias": False}, **words)
    assert found.weights.shape == (1 + 3,)
    whole = {"data": X.assign(y=y), "target": "y", "bias": False}
    np.testing.assert_array_equal(found.trace["loss"], nk.run(dataset=whole, **words).trace["loss"])


@pytest.mark.parametrize(
    "y",
    [
        ["a", float("nan"), "b", "a"],
        np.array(["a", None, "b", "a"], dtype=object),
        np.array(["a", np.nan, "b", "a"]),
        pd.Series(["a", np.nan, "b", "a"]),
    ],
)
def test_a_missing_label_is_no_class(y: object) -> None:
    for X in (np.eye(4), pd.DataFrame(np.eye(4))):
        with pytest.raises(DataError, match=r"row 2: the target.* is missing"):
            nk.run(dataset=(X, y), tracking="none")


def test_a_module_gets_no_column_of_ones() -> None:
    X, y = np.random.default_rng(0).standard_normal((40, 3)), np.arange(40) % 2
    words = {"model": torch.nn.Linear(3, 2), "loss": torch.nn.functional.cross_entropy}
    found = nk.run(
        dataset=(X, y), **words, dtype="float32", optimizer="lbfgs", tracking="none",
        stop={"epochs": 1},
    )  # fmt: skip
    assert found.weights.shape == (3 * 2 + 2,)


def test_sparse_matrices_and_other_libraries_frames_are_the_dense_arrays() -> None:
    """Also one whose entries are in two parts, and labels that are texts."""
    draw = np.random.default_rng(0)
    X = scipy.sparse.random_array((60, 8), density=0.2, rng=draw, format="csr")
    y = np.array(["no", "yes"])[draw.integers(0, 2, 60)]
    halves = (np.repeat(X.data, 2) * np.tile([3.0, -2.0], X.nnz), np.repeat(X.indices, 2))
    twice = scipy.sparse.csr_array((*halves, 2 * X.indptr), shape=X.shape)
    tensor = torch.sparse_coo_tensor(
        np.array(twice.tocoo().coords), torch.from_numpy(halves[0]), X.shape
    )
    frame = pd.DataFrame(X.toarray())
    thin = pd.DataFrame.sparse.from_spmatrix(X)
    alone: dict[str, Any] = {"dataset.format": "sparse", "dataset.scaling": "maxabs"}
    alone |= {"tracking": "none", "preconditioner": "jacobi", "stop": {"epochs": 3}}
    target = {"dataset.target": "y"}
    cases: list[tuple[Any, dict[str, Any]]] = [
        *(((part, y), {}) for part in (X, X.tocsc(), X.tocoo(), twice, tensor, frame, thin)),
        (pyarrow.Table.from_pandas(frame.rename(columns=str).assign(y=y)), target),
        (thin.rename(columns=str).assign(y=y), target),
    ]
    dense = nk.run(dataset=(X.toarray(), y), **alone)
    assert dense.summary["dataset"]["classes"] == ["no", "yes"]
    for data, words in cases:
        found = nk.run(dataset=data, **alone, **words)
        assert found.summary["dataset"]["classes"] == ["no", "yes"]
        assert found.summary["dataset"]["nnz"] == dense.summary["dataset"]["nnz"]
        assert np.allclose(found.weights, dense.weights, rtol=1e-12, atol=1e-15)


def test_frames_of_polars_lazy_ones_and_records_are_the_frame_of_pandas() -> None:
    polars = pytest.importorskip("polars")
    frame = pd.DataFrame({"a": np.arange(40.0), "b": ["u", "v"] * 20, "y": np.arange(40) % 2})
    theirs = polars.from_pandas(frame)
    target = {"dataset.target": "y"}
    for data in (theirs, theirs.lazy(), frame.to_records(index=False)):
        kept = named({"dataset": data, **target})["dataset"]["path"]
        assert pd.read_parquet(kept).astype(frame.dtypes).equals(frame)
    pair = named({"dataset": (theirs.select("a", "b"), theirs["y"])})["dataset"]["path"]
    assert pd.read_parquet(pair).astype(frame.dtypes).equals(frame)
    wide = theirs.with_columns(polars.col("y").cast(polars.Int128))
    with pytest.raises(DataError, match="The DataFrame is no frame of pandas'"):
        named({"dataset": wide, **target})


def test_a_file_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    """Or is another one of its name, as after a change of folders."""
    frame = pd.DataFrame({"x": np.arange(20.0), "y": [0, 1] * 10})
    words = {"dataset": "table", "dataset.path": "f.csv", "dataset.target": "y"}
    words |= {"tracking": "none", "stop.epochs": 1}

    def checksum(made: pd.DataFrame) -> str:
        made.to_csv("f.csv", index=False)
        return str(nk.run(**words).summary["dataset"]["checksum"])

    first = checksum(frame)
    assert checksum(frame) == first
    again = checksum(frame.assign(x=frame["x"][::-1].to_numpy()))  # of the same size
    assert again != first
    (tmp_path / "other").mkdir()
    with contextlib.chdir(tmp_path / "other"):
        assert checksum(frame.assign(x=0.5 * frame["x"])) not in (first, again)


def test_a_column_may_have_any_letters() -> None:
    frame = pd.DataFrame({"größe": np.arange(40.0), "名前": ["ä", "ö"] * 20, "é": [0, 1] * 20})
    for target, task in (("größe", "regression"), ("名前", "binary"), ("é", "binary")):
        loss = "least_squares" if task == "regression" else "logistic"
        found = nk.run(dataset={"data": frame, "target": target}, loss=loss, tracking="none")
        assert found.config["dataset"]["target"] == target
        assert found.summary["dataset"]["task"] == task


@pytest.mark.parametrize("solver", ["minres_qlp", "lsmr", "lsqr", "qr"])
def test_the_shortest_of_many_least_squares_solutions(solver: str) -> None:
    """More columns than rows, and twins: numpy.linalg.lstsq's weights; no certificate."""
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(20, 15)), draw.normal(size=20)
    X = np.hstack([X, 3 * X[:, :10]])
    found = nk.run(
        dataset={"data": (X, y), "task": "regression", "test_fraction": 0, "bias": False},
        loss={"name": "least_squares", "l2": 0}, solver=solver, tracking="none",
        forcing={"name": "fixed", "eta": 1e-12}, **{"dataset.scaling": "none"},
    )  # fmt: skip
    assert found.summary["outcome"] == "converged"
    assert "optimum" not in found.summary
    assert np.allclose(found.weights, np.linalg.lstsq(X, y, rcond=1e-10)[0], atol=1e-12)


def test_a_swept_penalty_starts_from_the_last_one() -> None:
    """It ends where single runs end, in fewer passes, and the record and the table say so."""
    words = WORDS | {"loss.l2": [0.1, 0.09, 0.08], "solver": ["cg", "cr"]}
    cold = nk.sweep(**words)
    warm = nk.sweep(**words, start="previous")
    assert np.allclose(warm.frame["loss"], cold.frame["loss"], rtol=0, atol=1e-13)

    def summaries(found: Any) -> list[dict[str, Any]]:
        paths = (found.folder / str(number) / "summary.json" for number in range(6))
        return [json.loads(path.read_text()) for path in paths]

    passes = [sum(one["data_passes"] for one in summaries(found)) for found in (cold, warm)]
    assert passes[1] < 0.9 * passes[0]
    for number, own in enumerate(summaries(warm)):
        source = own["started_from"]
        assert (source is None) == (number < 2)
        if source is not None:  # of the same solver
            assert source["member"] == str(number - 2)
            assert source["l2"] == words["loss.l2"][number // 2 - 1]
    assert "started from the weights found for another penalty" in warm.page.read_text()
    with pytest.raises(ConfigError, match="start=previous begins where"):
        nk.run(**WORDS, start="previous")


def test_many_classes_from_a_file_to_a_certified_gap(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(place / "cache"))
    small = {"dataset.n": 500, "dataset.d": 6, "dataset.n_classes": 4, "dataset.n_test": 50}
    found = nk.sweep(experiment="wide", tracking="none", **small, **{"loss.l2": [1e-2, 1e-3]})
    for number, l2 in enumerate([1e-2, 1e-3]):
        summary = json.loads((found.folder / str(number) / "summary.json").read_text())
        assert summary["reason"] == "certified gap <= 1e-06"
        assert summary["gap_bound"] <= 1e-6
        assert bool(summary["started_from"]) == bool(number)
        exact = nk.run(
            dataset={"name": "wide", "n": 500, "d": 6, "n_classes": 4, "n_test": 50},
            loss={"name": "multinomial", "l2": l2, "intercept": "free"}, tracking="none",
        )  # fmt: skip
        assert -1e-14 <= summary["loss"] - exact.summary["optimum"] <= summary["gap_bound"]
    with pytest.raises(ConfigError, match="gap needs a certificate"):
        nk.run(**WORDS, **{"loss.l2": 0, "stop.gap": 1e-6})


def test_columns_named_by_numbers() -> None:
    frame = pd.DataFrame({0: np.linspace(0, 1, 20), 1: [0, 1] * 10})
    found = nk.run(dataset={"data": frame, "target": 1}, tracking="none", stop={"epochs": 1})
    assert found.config["dataset"]["target"] == "1"


def test_columns_named_by_several_levels() -> None:
    columns = pd.MultiIndex.from_tuples([("size", "cm"), ("size", "kg"), ("answer", "")])
    frame = pd.DataFrame(np.arange(60.0).reshape(20, 3) % 7, columns=columns)
    frame[("answer", "")] = [0, 1] * 10
    words = {"tracking": "none", "quiet": True, "stop": {"epochs": 1}}
    found = nk.run(dataset={"data": frame, "target": ("answer", "")}, **words)
    assert found.config["dataset"]["target"] == "answer"
    pair = nk.run(dataset=(frame[["size"]], frame[("answer", "")]), **words)
    np.testing.assert_array_equal(pair.weights, found.weights)


def test_a_column_of_several_kinds_is_as_a_text_file_has_it(tmp_path: Path) -> None:
    column = [True, "maybe", None, 2] * 5
    frame = pd.DataFrame({"said": column, "y": [0, 1, 1, 0, 1] * 4})
    frame.to_csv(tmp_path / "frame.csv", index=False)
    words = {"tracking": "none", "quiet": True, "stop": {"epochs": 1}}
    found = nk.run(dataset={"data": frame, "target": "y"}, **words)
    file = {"name": "table", "path": str(tmp_path / "frame.csv"), "target": "y"}
    np.testing.assert_array_equal(found.weights, nk.run(dataset=file, **words).weights)


def test_intervals_are_categories_and_huge_numbers_floats() -> None:
    frame = pd.DataFrame({"y": [0, 1] * 10, "n": [10**25, 3] * 10, "age": range(20)})
    frame["age"] = pd.cut(frame["age"], 4)
    found = pd.read_parquet(kept(frame))
    assert found["n"].tolist() == [1e25, 3.0] * 10
    assert found["age"].nunique() == 4 and found["age"].iloc[0] == str(frame["age"].iloc[0])


def test_what_a_file_cannot_have_is_a_sentence() -> None:
    y = [0, 1] * 3
    twice = pd.DataFrame(np.eye(6)[:, :3], columns=["a", "a", "y"])
    lists = pd.DataFrame({"a": [[1], "b", 3, 4, 5, 6], "y": y})
    words = {"tracking": "none", "dataset.target": "y"}
    with pytest.raises(DataError, match="several columns named 'a'"):
        nk.run(dataset=twice, **words)
    with pytest.raises(DataError, match="column 'a', row 0, holds a list"):
        nk.run(dataset=lists, **words)


def test_what_are_no_data_is_a_sentence() -> None:
    for data in ([1, 2], ("x", 1)):
        with pytest.raises(ConfigError, match="should be a data set's name"):
            nk.run(dataset=data)
    with pytest.raises(ConfigError, match="should be a data set's name"):
        nk.sweep(dataset=5)
    with pytest.raises(DataError, match="y is sparse, and should be an array"):
        nk.run(dataset=(np.eye(4), scipy.sparse.eye(4, format="csr")))
    with pytest.raises(DataError, match="X mixes texts and numbers"):
        nk.run(dataset=([[1.0, "a"], [2.0, "b"]], [0, 1]))


def test_a_regression_shows_its_own_measures_alone() -> None:
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 3))
    y = X @ [1.0, 2.0, 3.0] + draw.normal(size=60)
    found = nk.run(dataset=(X, y), loss="least_squares", tracking="none", quiet=True)
    assert "None" not in str(found) and "test_d2" in str(found)
    table, _picture = found._repr_html_().split("<img")
    assert "accuracy" not in table and "NaN" not in table


def test_cross_validation_is_scikit_learns_on_the_same_folds() -> None:
    """What is filled in and the scaling are of each fold's training part."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(60, 3)), columns=["a", "b", "c"])
    frame["y"] = np.where(frame["a"] + draw.normal(size=60) > 0, "yes", "no")
    frame.loc[draw.choice(60, 9, replace=False), "b"] = np.nan
    penalties = [1.0, 0.01]
    found = nk.sweep(
        experiment="cross_validation", tracking="none",
        dataset={"data": frame, "target": "y", "test_fraction": 0, "folds": 3},
        **{"loss.l2": penalties, "dataset.fold": [1, 2, 3]},
    )  # fmt: skip
    X, y = frame[["a", "b", "c"]].to_numpy(), (frame["y"] == "yes").to_numpy()
    losses = np.empty((2, 3))
    for fold in range(3):
        kept, held = fold_rows(y.astype(np.int64), "binary", 3, fold + 1, 0)
        prepared = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        A, B = prepared.fit_transform(X[kept]), prepared.transform(X[held])
        for i, l2 in enumerate(penalties):
            model = LogisticRegression(C=1 / (l2 * len(kept)), tol=1e-10, max_iter=1000)
            losses[i, fold] = log_loss(y[held], model.fit(A, y[kept]).predict_proba(B))
    (result,) = json.loads((found.folder / "sweep.json").read_text())["cross_validation"]
    assert [p["l2"] for p in result["penalties"]] == penalties
    means = np.array([p["mean"] for p in result["penalties"]])
    errors = np.array([p["standard_error"] for p in result["penalties"]])
    assert np.allclose(means, losses.mean(axis=1), rtol=1e-6, atol=0)
    assert np.allclose(errors, losses.std(axis=1, ddof=1) / np.sqrt(3), rtol=1e-5, atol=0)
    best = int(means.argmin())
    assert result["least"]["l2"] == penalties[best]
    assert (
        result["one_standard_error"]["l2"]
        == penalties[int(np.flatnonzero(means <= means[best] + errors[best])[0])]
    )
    page = found.page.read_text()
    assert result["text"] in page and "within one standard error" in page
    assert result["text"] in (found.folder / "comparison.md").read_text()
    starts = [found.folder / str(number) / "summary.json" for number in range(6)]
    members = [json.loads(path.read_text())["started_from"] for path in starts]
    assert [m is None for m in members] == [True, False] * 3


_EIGHTHS = np.round(np.random.default_rng(0).normal(size=(40, 3)) * 8) / 8
_FRAME = pd.DataFrame(_EIGHTHS, columns=["a", "b", "c"])
_FORMS = {
    "half": _EIGHTHS.astype(np.float16), "big end": _EIGHTHS.astype(">f8"),
    "reversed": np.ascontiguousarray(_EIGHTHS[::-1, ::-1])[::-1, ::-1],
    "objects": _EIGHTHS.astype(object), "texts": _EIGHTHS.astype(str),
    "masked": np.ma.array(_EIGHTHS), "decimals": [[*map(Decimal, row)] for row in _EIGHTHS],
    "bfloat16": torch.tensor(_EIGHTHS).bfloat16(), "dict": _FRAME.to_dict("list"),
    "sparse bfloat16": torch.tensor(_EIGHTHS).bfloat16().to_sparse_coo(),
    "leaf": torch.tensor(_EIGHTHS, requires_grad=True), "frame of texts": _FRAME.astype(str),
    "frame of decimals": _FRAME.map(Decimal), "table": pyarrow.Table.from_pandas(_FRAME),
    **{form: getattr(scipy.sparse, f"{form}_array")(_EIGHTHS) for form in ("dok", "dia", "bsr")},
}  # fmt: skip


@pytest.mark.parametrize("form", _FORMS)
def test_samples_in_any_form_are_the_plain_array_s(form: str) -> None:
    """Targets of one column, and bytes, are taken as well."""
    labels = np.where(np.arange(40)[:, None] % 2, b"v", b"u")
    words = named({"dataset": (_FORMS[form], labels)})["dataset"]
    path, target = words["path"], words.get("target")
    data = load_dataset("table", {"path": str(path), "target": target, "test_fraction": 0.0})
    assert isinstance(data, Table)
    scaled = _EIGHTHS if data.train.X.layout is torch.sparse_csr else _EIGHTHS - _EIGHTHS.mean(0)
    dense = data.train.X.to_dense().numpy()
    assert np.allclose(dense, scaled / _EIGHTHS.std(0), rtol=0, atol=1e-12)
    assert data.classes == ("u", "v") and data.train.y.tolist() == [0, 1] * 20


@pytest.mark.parametrize(
    ("X", "y", "says"),
    [
        (scipy.sparse.csr_array(_EIGHTHS + 0j), np.zeros(40), "complex128, and should hold real"),
        (_EIGHTHS[:0], np.zeros(0), "have no rows"),
        (_FRAME, np.zeros((40, 2)), "one target for each sample"),
    ],
)
def test_samples_that_are_none_are_a_sentence(X: Any, y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        named({"dataset": (X, y)})


def test_a_run_leaves_frozen_layers_as_they_are() -> None:
    """The others draw their weights by the run's seed."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 4)), rng.integers(0, 3, 40)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    net[0].requires_grad_(False)
    words: dict[str, Any] = {
        "dataset": {"data": (X, y), "scaling": "none", "test_fraction": 0.0}, "tracking": "none",
        "loss": "cross_entropy", "optimizer": {"name": "newton"}, "dtype": "float64", "seed": 3,
    }  # fmt: skip
    found = nk.run(**words, model=net, stop={"epochs": 2}, damping="marquardt")
    assert found.weights.shape == (18,)
    first = found.trace["loss"].iloc[0]
    torch.manual_seed(0)
    tail = torch.nn.Linear(5, 3).double()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(found.weights), list(tail.parameters()))
    with torch.no_grad():
        own = torch.nn.Sequential(net[:2].double(), tail)
        loss = torch.nn.functional.cross_entropy(own(torch.from_numpy(X)), torch.from_numpy(y))
    assert float(loss) == pytest.approx(found.trace["loss"].iloc[-1], rel=1e-9)
    assert first > float(loss)
