"""Tables of a user's own, against pandas and scikit-learn, and every mistake as one sentence."""

import gzip
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from newton_krylov.data import load_dataset
from newton_krylov.data.table_columns import written_numbers
from newton_krylov.errors import UserError


def people(n=60, seed=0):
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": draw.integers(18, 80, n),
            "income": draw.normal(3e4, 1e4, n),
            "city": draw.choice(["Ulm", "Köln", "Bonn"], n),
            "member": draw.choice([True, False], n),
            "bought": draw.choice(["no", "yes"], n, p=[0.7, 0.3]),
        }
    )


WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "feather": lambda frame, path: frame.to_feather(path),
}


def load(path, target="bought", **options):
    plain = {"scaling": "none", "bias": False, "test_fraction": 0.0} | options
    return load_dataset("table", {"path": str(path), "target": target, **plain})


@pytest.mark.parametrize("suffix", sorted(WRITERS))
def test_every_format_gives_the_same_tensors(tmp_path, suffix):
    frame = people()
    WRITERS[suffix](frame, tmp_path / f"people.{suffix}")
    data = load(tmp_path / f"people.{suffix}")
    assert (data.task, data.n_classes, data.classes) == ("binary", 2, ("no", "yes"))
    assert torch.equal(data.train.y, torch.tensor((frame.bought == "yes").astype(int).to_numpy()))
    wanted = pd.get_dummies(frame.drop(columns="bought"), columns=["city"], dtype=float)
    X = data.train.X
    assert X.shape[1] in (6, 7)  # truth values are numbers in one format, text in another
    assert torch.equal(X[:, 0], torch.tensor(wanted["age"].to_numpy(float)))
    assert torch.allclose(X[:, 1], torch.tensor(wanted["income"].to_numpy()), rtol=1e-12)
    assert torch.equal(X[:, -4:][:, :].sum(1) >= 1, torch.ones(60, dtype=torch.bool))


def test_arrays_by_name(tmp_path):
    draw = np.random.default_rng(0)
    X, y = draw.normal(size=(20, 3)), draw.normal(size=20)
    np.savez(tmp_path / "a.npz", X=X, y=y)
    data = load(tmp_path / "a.npz", target=None)
    assert data.task == "regression"
    assert torch.equal(data.train.X, torch.from_numpy(X))
    assert torch.equal(data.train.y, torch.from_numpy(y))


def test_a_sparse_matrix_and_its_weights_by_name(tmp_path):
    draw = np.random.default_rng(0)
    X = sp.random_array((40, 9), density=0.2, rng=draw, format="csr")
    y, v = draw.choice(["a", "b", "c"], 40), draw.uniform(1, 2, 40)
    parts = {key: getattr(X, key) for key in ("data", "indices", "indptr", "shape")}
    np.savez(tmp_path / "a.npz", y=y, v=v, **parts)
    data = load(tmp_path / "a.npz", target=None, weight="v", format="sparse")
    assert (data.task, data.classes) == ("multiclass", ("a", "b", "c"))
    assert np.array_equal(data.train.X.to_dense().numpy(), X.toarray())
    assert np.allclose(data.train.weights, v / v.mean())
    held = load(tmp_path / "a.npz", target=None, test_fraction=0.25)
    assert (len(held.train), len(held.test)) == (30, 10)
    for change, says in (
        ({"indices": X.indices + 9}, "should hold the arrays"),
        ({"data": np.where(np.arange(X.nnz) == 0, np.nan, X.data)}, "missing or infinite"),
        ({"y": y[:5]}, "X has shape"),
    ):
        np.savez(tmp_path / "bad.npz", **{"y": y, **parts, **change})
        with pytest.raises(UserError, match=says):
            load(tmp_path / "bad.npz", target=None)
    with pytest.raises(UserError, match="no array 'z' to predict"):
        load(tmp_path / "a.npz", target="z")


def test_held_out_samples_keep_the_classes_shares_and_statistics_are_the_training_s(tmp_path):
    frame = people(200)
    frame.loc[::10, "age"] = None
    frame.loc[5, "city"] = None
    frame.to_csv(tmp_path / "p.csv", index=False)
    data = load(tmp_path / "p.csv", test_fraction=0.25, scaling="standardize", bias=True)
    share = (frame.bought == "yes").mean()
    assert len(data.test) == 50
    assert abs(float(data.train.y.double().mean()) - share) < 0.01
    assert abs(float(data.test.y.double().mean()) - share) < 0.02
    age = data.train.X[:, 0]
    assert abs(float(age.mean())) < 1e-12 and abs(float(age.std(correction=0)) - 1) < 1e-12
    assert torch.equal(data.train.X[:, -1], torch.ones(150, dtype=torch.float64))


def test_a_missing_category_and_one_that_only_the_test_has_set_none(tmp_path):
    train = pd.DataFrame({"c": ["a", "b", None, "a"], "y": [0, 1, 0, 1]})
    test = pd.DataFrame({"c": ["z", "b"], "y": [0, 1]})
    train.to_csv(tmp_path / "train.csv", index=False)
    test.to_csv(tmp_path / "test.csv", index=False)
    data = load(tmp_path / "train.csv", "y", test_path=str(tmp_path / "test.csv"), format="dense")
    assert data.train.X.tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]
    assert data.test.X.tolist() == [[0, 0], [0, 1]]


def test_columns_are_dropped_and_numbers_taken_as_categories(tmp_path):
    frame = pd.DataFrame({"id": [7, 8, 9], "zip": [10, 20, 10], "y": [1.5, 2.5, 0.5]})
    frame.to_csv(tmp_path / "f.csv", index=False)
    data = load(tmp_path / "f.csv", "y", drop=["id"], categorical=["zip"], format="dense")
    assert data.task == "regression"
    assert data.train.X.tolist() == [[1, 0], [0, 1], [1, 0]]


def test_equal_files_and_options_have_equal_checksums(tmp_path):
    people().to_csv(tmp_path / "a.csv", index=False)
    people().to_csv(tmp_path / "b.csv", index=False)
    assert load(tmp_path / "a.csv").checksum == load(tmp_path / "b.csv").checksum
    assert load(tmp_path / "a.csv").checksum != load(tmp_path / "b.csv", drop=["age"]).checksum


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,y\n1,0\n2,1\n", {"target": None}, r"needs the column to predict: dataset\.target=NAME"),
        ("a,y\n1,0\n2,1\n", {"target": "z"}, r"dataset\.target=z is no column of .*data\.csv"),
        ("a,y\n1,0\n2,1\n", {"drop": ["b"]}, r"dataset\.drop: there is no column 'b'"),
        ("a,y\n1,0\n2,1\n", {"categorical": ["b"]}, r"dataset\.categorical: there is no column"),
        ("a,y\n1,0\n2,\n", {}, r"row 2: the target 'y' is missing"),
        ("a,y\n1,0\n,1\n", {"missing": "refuse"}, r"row 2: the value of 'a' is missing"),
        ("a,y\n1,0\ninf,1\n", {}, r"row 2: the value of 'a' is infinite"),
        ("a,a,y\n", {}, r"no rows"),
        ("", {}, r"cannot be read as csv"),
        ("a,y\n1,x\n2,z\n", {"task": "regression"}, r"is text, which a regression cannot predict"),
        ("a,y\n1,1\n2,1\n", {"task": "binary"}, r"the target 'y' "),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, text, options, message):
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path / "data.csv", **({"target": "y"} | options))
    assert "\n" not in str(caught.value)


def test_a_table_of_identifiers_alone_is_refused(tmp_path):
    frame = pd.DataFrame({"name": [f"n{i}" for i in range(1500)], "y": [0, 1] * 750})
    frame.to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(UserError, match=r"nothing to predict 'y' from.*'name' \(1,500 different"):
        load(tmp_path / "f.csv", "y")
    with pytest.raises(UserError, match=r"leave it out by dataset\.drop=\[name\]"):
        load(tmp_path / "f.csv", "y", categorical=["name"])


def test_texts_of_mostly_different_values_are_left_out_unless_they_are_asked_for(tmp_path):
    frame = people(1200).assign(
        **{
            "full name": [f"n {i}" for i in range(1200)],
            "ticket": [f"t {i // 3}" for i in range(1200)],
        }
    )
    frame.to_csv(tmp_path / "f.csv", index=False)
    frame.drop(columns="full name").to_csv(tmp_path / "g.csv", index=False)
    data, without = load(tmp_path / "f.csv"), load(tmp_path / "g.csv")
    assert data.train.X.shape == without.train.X.shape
    assert said(data, "left out") == (
        "left out, as identifiers: 'full name' (1,200 different values in 1,200 rows); "
        "'dataset.categorical=[\"full name\"]' keeps it"
    )
    small = frame.head(100)
    small.to_csv(tmp_path / "s.csv", index=False)
    kept = load(tmp_path / "s.csv", categorical=["full name"])
    assert kept.train.X.shape[1] > 100 and not [r for r in kept.remarks if "left out, as" in r]
    assert kept.checksum != load(tmp_path / "s.csv").checksum
    categories = small.assign(**{"full name": small["full name"].astype("category")})
    categories.to_parquet(tmp_path / "c.parquet")  # categories by their type are what they say
    assert load(tmp_path / "c.parquet").train.X.shape[1] > 100


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_answer_is_the_more_frequent_one(tmp_path, kind):
    """As of two values none lies between; truth values with gaps are read alike in each format."""
    frame = pd.DataFrame(
        {"smokes": [True, False, None, True, False, False], "ill": [1, None, 0, 1, 0, 1.0]}
        | {"age": [1.0, 2, 3, None, 5, 6], "y": [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]}
    )
    getattr(frame, f"to_{kind}")(
        tmp_path / f"f.{kind}", **({"index": False} if kind == "csv" else {})
    )
    data = load(tmp_path / f"f.{kind}", "y", format="dense")
    assert data.train.X.T.tolist() == [[1, 0, 0, 1, 0, 0], [1, 1, 0, 1, 0, 1], [1, 2, 3, 3, 5, 6]]
    assert said(data, "filled") == (
        "3 missing values were filled in: 1 of 'smokes' (the most frequent, 0), 1 of 'ill' (the "
        "most frequent, 1), 1 of 'age' (the median, 3); dataset.missing=refuse does not"
    )


def said(data, word):
    """The one remark with a word."""
    (found,) = [remark for remark in data.remarks if word in remark]
    return found


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("%Y-%m-%d", "year-month-day"),
        ("%Y-%m-%dT%H:%M:%SZ", "year-month-day"),
        ("%d.%m.%Y", "day.month.year"),
        ("%m/%d/%Y", "month/day/year"),
        ("%d %b %Y", "day month year"),
    ],
)
def test_dates_become_days_however_they_are_written(tmp_path, form, words):
    days = np.arange(18_262, 18_302)
    written = pd.to_datetime(days, unit="D").strftime(form)
    frame = pd.DataFrame({"when": written, "y": [0, 1] * 20})
    frame.to_csv(tmp_path / "f.csv", index=False)
    data = load(tmp_path / "f.csv", "y")
    assert data.train.X[:, 0].tolist() == days.tolist()
    assert said(data, "dates") == (
        f"dates, taken as days since 1970: 'when' ({words}); dataset.categorical leaves them as "
        f"they are"
    )
    kept = load(tmp_path / "f.csv", "y", categorical=["when"])
    assert kept.train.X.shape == (40, 40) and kept.checksum != data.checksum


def test_times_of_a_binary_file_become_days_and_its_texts_stay_texts(tmp_path):
    times = pd.to_datetime(["2020-01-01 12:00", None, "2020-01-03 00:00"])
    frame = pd.DataFrame(
        {"at": times, "took": times - times[0], "day": [t.date() for t in times.fillna(times[0])]}
        | {"zip": ["01", "02", "01"], "y": [1.5, 2.5, 3.5]}
    )
    frame.to_parquet(tmp_path / "f.parquet")
    data = load(tmp_path / "f.parquet", "y", format="dense")
    assert data.train.X.tolist() == [
        [18262.5, 0.0, 18262.0, 1, 0], [18263.25, 0.75, 18262.0, 0, 1],
        [18264.0, 1.5, 18264.0, 1, 0],
    ]  # fmt: skip
    assert "1 of 'at' (the median, 18263.2), 1 of 'took' (the median, 0.75)" in said(data, "filled")


@given(
    st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=8),
    st.sampled_from(["{:,.2f}", "${:,.2f}", "{:.1f} %", "{:.2f}€", "{:,d} "]),
    st.booleans(),
)
def test_numbers_written_for_people_are_read_back(numbers, form, continental):
    texts = [form.format(n if "d" in form else n / 100) for n in numbers]
    if continental and "d" not in form:
        texts = [text.translate(str.maketrans(",.", ".,")) for text in texts]
    else:
        continental = False
    column = pd.Series([*texts, "?", None, "n"[:0]])
    (found,), _ = written_numbers([column])
    want = [n if "d" in form else round(n / 100, 1 if ".1" in form else 2) for n in numbers]
    np.testing.assert_allclose(found[: len(numbers)], want, rtol=1e-12, atol=1e-12)
    assert found[len(numbers) :].isna().all()


def test_a_text_that_is_no_number_leaves_a_column_of_categories_and_is_said(tmp_path):
    values = [*map(str, range(30)), "lots"]
    frame = pd.DataFrame({"kids": values, "price": ["$1,000"] * 30 + ["?"], "y": range(31)})
    frame.assign(y=frame.y + 0.5).to_csv(tmp_path / "f.csv", index=False)
    data = load(tmp_path / "f.csv", "y", format="dense")
    assert data.train.X.shape == (31, 32) and set(data.train.X[:, 0].tolist()) == {1000.0}
    assert said(data, "but for") == (
        "'kids' holds numbers but for 1 of 31 values, such as 'lots' in row 31: all of them are "
        "taken as categories"
    )
    assert said(data, "written") == (
        "numbers written as text, read as numbers: 'price' (such as '$1,000')"
    )


def test_a_table_between_semicolons_has_decimal_commas(tmp_path):
    (tmp_path / "f.csv").write_text("a;b;y\n1,5;x;0\n-2,25;z;1\n3;x;1\n")
    data = load(tmp_path / "f.csv", "y", format="dense")
    assert data.train.X.tolist() == [[1.5, 1, 0], [-2.25, 0, 1], [3, 1, 0]]


def test_what_separates_most_names_separates_the_columns(tmp_path):
    (tmp_path / "f.csv").write_text("Preis, netto;Größe;y\n1,5;2,5;0\n-2,25;3,5;1\n3;4,5;1\n")
    data = load(tmp_path / "f.csv", "y", format="dense")
    assert data.train.X.tolist() == [[1.5, 2.5], [-2.25, 3.5], [3, 4.5]]
    (tmp_path / "g.csv").write_text('b,"a; in m; up",y\n1.5,2,0\n2.5,3,1\n3.5,5,1\n')
    data = load(tmp_path / "g.csv", "y", format="dense")
    assert data.train.X.tolist() == [[1.5, 2], [2.5, 3], [3.5, 5]]


def test_columns_between_semicolons_may_have_decimal_points(tmp_path):
    """As pandas' own to_csv(sep=";") writes them, beside prices with commas."""
    rows = ["a;b;c;d;y"] + [f"{i}.5;{i},25;1.{i}00;v{i}.0;{i % 2}" for i in range(1, 9)]
    (tmp_path / "f.csv").write_text("\n".join(rows))
    data = load(tmp_path / "f.csv", "y", format="dense", categorical=["c"])
    assert data.train.X[:, :2].tolist() == [[i + 0.5, i + 0.25] for i in range(1, 9)]
    assert data.train.X.shape[1] == 2 + 8 + 8  # 1.100 among commas may be a thousand: a category
    (tmp_path / "g.csv").write_text("a;y\n1.234;0\n-2.5e3;1\n.5;1\n")
    alone = load(tmp_path / "g.csv", "y", format="dense").train.X
    assert alone.tolist() == [[1.234], [-2500], [0.5]]


def test_text_columns_that_are_no_categories_are_named_together(tmp_path):
    frame = people(2400).assign(**{k: [f"{k} {i // 2}" for i in range(2400)] for k in "ab"})
    frame.to_csv(tmp_path / "f.csv", index=False)
    each = r"\('a' 1,200, 'b' 1,200 of 2,400 rows\).*dataset.drop=\[a,b\]"
    with pytest.raises(UserError, match=each):
        load(tmp_path / "f.csv")


def test_what_was_filled_in_and_what_looks_like_an_identifier_is_said(tmp_path):
    frame = people(50).astype({"age": float})
    frame.loc[[3, 7], "age"] = None
    frame.loc[[5], "city"] = None
    frame = frame.assign(number=range(7, 57), name=[f"n {i}" for i in range(50)], void=np.nan)
    frame.to_csv(tmp_path / "f.csv", index=False)
    data = load(tmp_path / "f.csv", test_fraction=0.2)
    kept = pd.read_csv(tmp_path / "f.csv").loc[lambda f: f.bought.notna()]
    assert "53 missing values were filled in: 2 of 'age' (the median, " in said(data, "filled")
    assert "50 of 'void' (0, for want of any), 1 of 'city' (no category)" in said(data, "filled")
    assert said(data, "identifiers?") == (
        "identifiers? 'number' numbers the rows; dataset.drop=[number] leaves out what says nothing"
    )
    assert "'name' (50 different values in 50 rows); dataset.categorical=[name]" in said(
        data, "left"
    )
    shares = 100 * kept.bought.value_counts(normalize=True)
    assert f"no ({shares['no']:.3g} %), yes ({shares['yes']:.3g} %)" in said(data, "2 classes")
    rated = frame.assign(bought=[1, 2, 3, 4, 5] * 10).drop(columns=["number", "name", "void"])
    rated.to_csv(tmp_path / "g.csv", index=False)
    assert "dataset.task=regression takes it as a number" in said(load(tmp_path / "g.csv"), "clas")
    many = pd.DataFrame({"x": range(40), "kind": [f"k{i % 9}" for i in range(40)]})
    many.to_csv(tmp_path / "k.csv", index=False)
    assert said(load(tmp_path / "k.csv", "kind"), "9 classes").endswith("k5 (10 %) and 3 more")


def test_a_file_of_another_kind_is_led_to_its_reader(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:2\n")
    with pytest.raises(UserError, match=r"LIBSVM's format is dataset=libsvm"):
        load(tmp_path / "a.svm", "y")
    with pytest.raises(UserError, match=r"dataset=table needs a file"):
        load_dataset("table", {})


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz", "p.tsv", "p.parquet", "p.feather", "p.npz"])
def test_a_table_in_the_other_reader_s_hands_is_led_here(tmp_path, name):
    file, frame = tmp_path / name, people(20)
    if file.suffix == ".npz":
        np.savez(file, X=np.eye(2), y=np.arange(2))
    elif file.suffix in (".parquet", ".feather"):
        getattr(frame, f"to_{file.suffix[1:]}")(file)
    else:
        frame.to_csv(file, index=False, sep="\t" if file.suffix == ".tsv" else ",")
    way = rf"dataset=table dataset\.path={file} dataset\.target=COLUMN\.$"
    with pytest.raises(UserError, match=way) as caught:
        load_dataset("libsvm", {"path": str(file)})
    assert "\n" not in str(caught.value)


def test_a_file_of_libsvm_s_format_may_be_named_like_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("1 1:2\n-1 2:1\n")
    assert (
        len(load_dataset("libsvm", {"path": str(tmp_path / "a.csv"), "test_fraction": 0}).train)
        == 2
    )


def test_a_damaged_table_is_one_sentence(tmp_path):
    for name in ("a.parquet", "a.feather", "a.npz"):
        (tmp_path / name).write_bytes(bytes(range(256)))
        with pytest.raises(UserError, match=rf"{name} .*[^.]\.$"):
            load(tmp_path / name, "y")
    np.savez(tmp_path / "whole.npz", X=np.eye(9), y=np.arange(9))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    np.save(tmp_path / "one.npy", np.eye(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("cut.npz", "one.npz"):
        with pytest.raises(UserError, match=rf"{name} should hold the arrays X and y"):
            load(tmp_path / name, "y")


def claims(n=80, seed=0):
    draw = np.random.default_rng(seed)
    age, years = draw.integers(18, 80, n), draw.uniform(0.2, 3.0, n)
    return pd.DataFrame(
        {
            "age": age,
            "years": years,
            "share": draw.normal(0, 0.1, n),
            "often": draw.integers(0, 4, n),
            "claims": draw.poisson(years * np.exp(age / 60 - 1)),
        }
    )


def test_weights_offsets_and_exposures_are_columns_that_are_no_features(tmp_path):
    frame = claims()
    frame.to_csv(tmp_path / "claims.csv", index=False)
    options = {"task": "regression", "weight": "often", "offset": "share", "exposure": "years"}
    data = load(tmp_path / "claims.csv", "claims", **options)
    assert data.train.X.shape == (80, 1)
    weights = frame.often / frame.often.mean()
    assert np.allclose(data.train.weights, weights, rtol=1e-14)
    assert np.allclose(data.train.offset, frame.share + np.log(frame.years), rtol=1e-14)


def test_rows_keep_their_offsets_when_some_are_held_out(tmp_path):
    frame = claims()
    frame["age"] = np.log(frame.years)  # so that each sample shows which it is
    frame.to_csv(tmp_path / "claims.csv", index=False)
    options = {"task": "regression", "exposure": "years", "test_fraction": 0.25}
    data = load(tmp_path / "claims.csv", "claims", drop=["share", "often"], **options)
    assert (len(data.train), len(data.test)) == (60, 20)
    for split in (data.train, data.test):
        assert torch.allclose(split.offset, split.X[:, 0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weight": "share"}, r"row \d+: 'share' is -.*dataset.weight needs .* of at least 0"),
        ({"exposure": "often"}, r"'often' is 0, and dataset.exposure needs .* above 0"),
        ({"offset": "shares"}, "dataset.offset: there is no column 'shares'; did you mean 'share'"),
        ({"weight": "name"}, "the column 'name' of dataset.weight holds no numbers"),
    ],
)
def test_wrong_columns_beside_the_features_are_refused(tmp_path, options, says):
    frame = claims()
    frame["name"] = "x"
    frame.to_csv(tmp_path / "claims.csv", index=False)
    with pytest.raises(UserError, match=says):
        load(tmp_path / "claims.csv", "claims", task="regression", **options)


def _zst(frame, path):
    import pyarrow as pa

    with pa.CompressedOutputStream(str(path), "zstd") as stream:
        stream.write(frame.to_csv(index=False).encode())


@pytest.mark.parametrize("suffix", ["csv.bz2", "csv.xz", "csv.zip", "csv.zst", "tsv.gz"])
def test_what_packs_a_table_changes_nothing(suffix, tmp_path):
    frame, path = people(), tmp_path / f"people.{suffix}"
    if suffix == "csv.zst":
        _zst(frame, path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix.startswith("tsv") else ",")
    WRITERS["csv"](frame, tmp_path / "people.csv")
    assert torch.equal(load(path).train.X, load(tmp_path / "people.csv").train.X)


def test_a_table_that_expands_like_a_bomb_is_refused_where_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("newton_krylov.data.table._STRETCH", 2**20)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"x,bought\n" + b"0,1\n" * 10**6))
    with pytest.raises(UserError, match="expands to more than 200 times its size"):
        load(tmp_path / "bomb.csv.gz")


def _in_batches(suffix, path, count):
    """Write a column of zeros, without the memory that it takes."""
    import pyarrow as pa
    from pyarrow import parquet

    batch = pa.record_batch({"x": pa.array(np.zeros(100_000))})
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    with (
        parquet.ParquetWriter(path, batch.schema)
        if suffix == "parquet"
        else pa.ipc.new_file(str(path), batch.schema, options=packed)
    ) as writer:
        for _ in range(count):
            writer.write_batch(batch)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limits are Linux's")
@pytest.mark.parametrize("suffix", ["feather", "parquet"])
def test_a_library_that_unpacks_gets_no_more_than_the_memory(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"bomb.{suffix}"
    _in_batches(suffix, path, 500)  # 0.4 GB: less than Arrow lays in by itself
    assert path.stat().st_size < 4_000_000
    for module in ("newton_krylov.files", "newton_krylov.data.table"):
        monkeypatch.setattr(f"{module}.usable_memory", lambda: 2**26)
    monkeypatch.setattr("newton_krylov.data.table._require_memory", lambda *_: None)  # it may lie
    with pytest.raises(UserError, match=f"bomb.{suffix}: its columns take more than"):
        load(path, target="x")
    assert np.zeros(2**25).sum() == 0  # and then there is no limit


@pytest.mark.parametrize("suffix", ["parquet", "csv.gz", "csv.bz2", "csv.xz", "csv.zip", "npz"])
def test_a_small_file_that_unfolds_to_more_than_memory_is_refused(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"bomb.{suffix}"
    if suffix == "npz":
        np.savez_compressed(path, X=np.zeros((500_000, 2)), y=np.zeros(500_000))
    else:
        frame = pd.DataFrame({"x": np.zeros(500_000), "bought": np.zeros(500_000, dtype=np.int8)})
        WRITERS["parquet" if suffix == "parquet" else "csv"](frame, path)
    assert path.stat().st_size < 400_000
    for module in ("newton_krylov.files", "newton_krylov.data.table"):
        monkeypatch.setattr(f"{module}.usable_memory", lambda: 2**20)
    with pytest.raises(UserError, match=f"bomb.{suffix}.* memory"):
        load(path)


def table(**columns):
    """A table of 60 rows with a column of numbers, two classes and these columns."""
    frame = people().drop(columns=["city", "member"])
    return frame.assign(**{name: (list(values) * 60)[:60] for name, values in columns.items()})


FOREIGN = {
    "spaces and commas": (["1 234,50", "12,00", "-3 000"], [1234.5, 12.0, -3000.0]),
    "narrow spaces": (["1\u202f234.5", "2\u00a0345"], [1234.5, 2345.0]),
    "apostrophes": (["1'234'567.25", "3"], [1234567.25, 3.0]),
    "accounts": (["$1,234.50", "(12.00)", "-€5"], [1234.5, -12.0, -5.0]),
}


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize("sep", [",", ";"])
def test_numbers_of_other_countries_are_read(tmp_path, form, sep):
    texts, numbers = FOREIGN[form]
    table(v=texts).to_csv(tmp_path / "f.csv", index=False, sep=sep)
    X = load(tmp_path / "f.csv").train.X
    assert X.shape[1] == 3
    assert np.array_equal(X[: len(numbers), 2], numbers)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv"])
def test_texts_in_utf_16_are_those_in_utf_8(tmp_path, suffix):
    frame = table(c=["ä", "two\nlines", 'quoted, "twice"']).rename(columns={"age": " age "})
    for encoding in ("utf-8", "utf-16"):
        sep = "\t" if suffix == "tsv" else ","
        frame.to_csv(tmp_path / f"{encoding}.{suffix}", index=False, sep=sep, encoding=encoding)
    one, other = (load(tmp_path / f"{e}.{suffix}", drop=["age"]) for e in ("utf-8", "utf-16"))
    assert torch.equal(one.train.X, other.train.X) and one.train.X.shape == (60, 4)


def test_kinds_of_binary_files(tmp_path):
    """Decimals are numbers, bytes texts, periods dates; a category without a sample is no class."""
    frame = table(
        d=[Decimal("1.50"), Decimal("-2.25")],
        b=[b"up", b"down"],
        c=["x", "y", "x"],
        y=[b"yes", b"no", b"yes"],
    )
    frame["p"] = pd.period_range("2024-01", periods=60, freq="M")
    frame["bought"] = pd.Categorical(frame["bought"], ["yes", "no", "never"])
    frame.to_parquet(tmp_path / "f.parquet")
    data = load(tmp_path / "f.parquet", "y")
    assert data.classes == ("no", "yes")
    assert data.train.X[:, 2].tolist() == [1.5, -2.25] * 30
    assert "'b' 2" in data.remarks[-1] and "'p' (times)" in data.remarks[1]
    assert load(tmp_path / "f.parquet", "bought").classes == ("no", "yes")
    target = load(tmp_path / "f.parquet", "d", task="regression").train.y
    assert target.tolist() == [1.5, -2.25] * 30


def test_a_target_of_mostly_different_values_is_no_class(tmp_path):
    frame = table(number=range(60), day=[f"2024-01-{day:02}" for day in range(1, 31)])
    frame.to_csv(tmp_path / "f.csv", index=False)
    assert load(tmp_path / "f.csv", "number").task == "regression"
    assert load(tmp_path / "f.csv", "number", task="multiclass").n_classes == 60
    days = load(tmp_path / "f.csv", "day", task="regression").train.y
    assert days[:2].tolist() == [19723.0, 19724.0]


HEAD, ROW = "a,b,y\n", "1,2,no\n3,4,yes\n"
WRONG = {
    "twice": ("a, a,y\n" + ROW, "has two columns named 'a'"),
    "unnamed": ("a,y\n" + ROW, "the rows have more values than the first line has names"),
    "ragged": (HEAD + ROW + "1,2,no,7\n", "line 4 has 4 values, and the lines before it have 3"),
    "zeros": (HEAD + ROW + "\0", "has zero bytes"),
    "one class": (HEAD + "1,2,yes\n3,4,yes\n", "the target 'y' is yes in every row"),
    "names": (
        HEAD + "".join(f"{i},2,n{i}\n" for i in range(20)),
        "the target 'y' has 20 different values in 20 rows, too many to be classes",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_table_that_is_wrong_is_one_sentence(tmp_path, kind):
    text, says = WRONG[kind]
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        load(tmp_path / "f.csv", "y")
    assert "\n" not in str(caught.value)


def test_what_no_column_can_hold_is_one_sentence(tmp_path):
    table(v=[[1, 2]]).to_parquet(tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"column 'v', row 1, holds a ndarray"):
        load(tmp_path / "f.parquet")
    np.savez(tmp_path / "f.npz", X=np.eye(4) * 1j, y=np.arange(4) % 2)
    with pytest.raises(UserError, match="X holds complex numbers"):
        load(tmp_path / "f.npz", "y")


PLAIN = "a,b,bought\n" + "".join(
    f"{i % 7},{i * i % 11},{'yes' if i % 3 else 'no'}\n" for i in range(40)
)
SAME = {
    "separators at the ends of lines": PLAIN.replace("\n", ",\n"),
    "spaces at the ends of texts": PLAIN.replace("yes\n", "yes  \n", 7),
    "a line for Excel": "sep=;\n" + PLAIN.replace(",", ";"),
}


@pytest.mark.parametrize("form", SAME)
def test_forms_of_a_text_that_are_the_plain_one(tmp_path, form):
    for name, text in (("plain", PLAIN), ("odd", SAME[form])):
        (tmp_path / f"{name}.csv").write_text(text)
    plain, odd = load(tmp_path / "plain.csv"), load(tmp_path / "odd.csv")
    assert torch.equal(odd.train.X, plain.train.X) and torch.equal(odd.train.y, plain.train.y)
    assert odd.classes == plain.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PLAIN.replace("\n", "\na,b,bought\n", 1), "row 1 is the columns' names again"),
        (PLAIN + "a,b,bought\n", "row 41 is the columns' names again"),
        (PLAIN.replace("yes", "NA"), "row 2: the target 'bought' is missing.*a word such as NA"),
        (PLAIN.encode("utf-32"), "UTF-32 text: convert it to UTF-8"),
        (
            "a,bought\n" + "".join(f"{i % 5},{10**17 + i % 2}\n" for i in range(20)),
            "whole numbers beyond 2\\^53 that differ in their last digits alone",
        ),
    ],
)
def test_what_a_text_says_twice_or_not_at_all(tmp_path, content, says):
    file = tmp_path / "odd.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=says):
        load(file)


def test_classes_that_are_numbers_keep_their_digits(tmp_path):
    y = np.arange(40) % 2 + 1_000_001
    pd.DataFrame({"a": np.arange(40) % 7, "bought": y}).to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv")
    assert data.classes == ("1000001", "1000002")
    assert "1000001 (50 %), 1000002 (50 %)" in data.remarks[0]


def test_the_median_of_huge_numbers_is_finite(tmp_path):
    frame = people(n=40).assign(m=np.where(np.arange(40) % 2, 1.7e308, 1.6e308))
    frame.loc[3, "m"] = np.nan
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert load(tmp_path / "a.csv").train.X.isfinite().all()


@pytest.mark.parametrize("kind", [">f8", "<f2", "F"])
def test_arrays_in_other_orders_and_precisions(tmp_path, kind):
    X = np.random.default_rng(0).integers(-9, 9, (40, 3)).astype(float)
    y = np.array([b"no", b"yes"])[np.arange(40) % 2]
    other = np.asfortranarray(X) if kind == "F" else X.astype(kind)
    np.savez(tmp_path / "a.npz", X=other, y=y[:, None], v=np.ones(40, ">i4"))
    data = load(tmp_path / "a.npz", target="y", weight="v")
    assert torch.equal(data.train.X, torch.tensor(X)) and data.classes == ("no", "yes")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"data": np.ones((4, 2)), "labels": np.ones(4)}, "arrays X and y.*it has data, labels"),
        ({"X": np.zeros((4, 2), [("a", float)]), "y": np.ones(4)}, "X holds records"),
        ({"X": np.zeros((0, 2)), "y": np.ones(0)}, "has no rows"),
        ({"X": np.zeros((4, 2)), "y": np.ones((4, 2))}, r"want \(n, d\) and \(n,\)"),
    ],
)
def test_arrays_that_are_no_table(tmp_path, arrays, says):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match=says):
        load(tmp_path / "a.npz", target=None)


def test_columns_of_one_name_in_any_file_are_refused(tmp_path):
    """pyarrow's reader of Parquet takes two columns of one name for one that is there twice."""
    import pyarrow as pa
    from pyarrow import feather, parquet

    columns = [pa.array(values) for values in ([1.0, 2.0] * 9, [2.0, 1.0] * 9, [0, 1] * 9)]
    table = pa.table(columns, names=["a", "a", "y"])
    parquet.write_table(table, tmp_path / "f.parquet")
    feather.write_feather(table, tmp_path / "f.feather")
    (tmp_path / "f.csv").write_text("a,a,y\n" + "1,2,0\n2,1,1\n" * 9)
    for kind in ("parquet", "feather", "csv"):
        with pytest.raises(UserError, match=rf"f\.{kind} has two columns named 'a'\.$"):
            load(tmp_path / f"f.{kind}", target="y")


def test_columns_without_a_value_predict_nothing(tmp_path):
    frame = pd.DataFrame({"a": [None] * 20, "y": [0, 1] * 10})
    frame.to_parquet(tmp_path / "f.parquet")
    with pytest.raises(UserError, match="nothing to predict 'y' from: no other column has a value"):
        load(tmp_path / "f.parquet", target="y")
    frame.assign(b=1.0).to_parquet(tmp_path / "f.parquet")
    assert load(tmp_path / "f.parquet", target="y").n_features == 1


def test_one_column_may_be_weight_and_exposure(tmp_path):
    """Frequencies of weight e are counts of exposure e."""
    frame = pd.DataFrame({"x": np.arange(20.0), "e": np.arange(1.0, 21.0), "y": [0.0, 1.5] * 10})
    frame.to_csv(tmp_path / "f.csv", index=False)
    options = {"target": "y", "task": "regression", "test_fraction": 0, "bias": False}
    data = load(tmp_path / "f.csv", weight="e", exposure="e", **options)
    assert data.n_features == 1
    assert np.allclose(torch.exp(data.train.offset), frame["e"])
    assert np.allclose(data.train.weights, frame["e"] / frame["e"].mean())
