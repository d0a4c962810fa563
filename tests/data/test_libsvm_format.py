"""LIBSVM's text format: what is read, what is refused and why, and any bytes at all."""

import bz2
import gzip
import lzma
import re
import zlib

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from newton_krylov.data import libsvm_format
from newton_krylov.data.libsvm_format import MAX_FEATURES, line_of_sample, read_libsvm
from newton_krylov.errors import DataError


def write(folder, data, name="file"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(folder, data, **options):
    samples = read_libsvm(write(folder, data), **options)
    return samples.X.toarray().tolist(), samples.y.tolist()


def test_a_file(tmp_path):
    X, y = read(tmp_path, "1 1:0.5 3:-2\n-1\n+1 2:1e-3 # a comment\n")
    assert X == [[0.5, 0, -2], [0, 0, 0], [0, 1e-3, 0]]
    assert y == [1, -1, 1]


@pytest.mark.parametrize(
    "text",
    [
        "1 1:2 2:3\n2 2:4",  # no line feed at the end
        "1 1:2 2:3\r\n2 2:4\r\n",
        "# a comment\n\n1 1:2\t2:3  \n   \n2 2:4#1:9\n\n",
        " 1  1:2 2:3 \n 2 2:+4",
        "1 qid:3 1:2 2:3\n2 qid:4 2:4\n",
        "1 1:2. 2:.3e1\n2 1:0 2:4\n",
        "1 01:2 +2:3\n2 2:4\n",
    ],
)
def test_ways_to_write_the_same(tmp_path, text):
    assert read(tmp_path, text) == ([[2, 3], [0, 4]], [1, 2])


def test_indices_from_zero_and_a_number_of_features(tmp_path):
    assert read(tmp_path, "1 0:5 2:6\n", zero_based=True)[0] == [[5, 0, 6]]
    assert read(tmp_path, "1 1:5\n", n_features=3)[0] == [[5, 0, 0]]
    assert read(tmp_path, "1\n2\n", n_features=2)[0] == [[0, 0], [0, 0]]


def test_stored_zeros_are_not_kept_but_their_columns_are(tmp_path):
    samples = read_libsvm(write(tmp_path, "1 1:1 3:0\n2 2:0\n"))
    assert samples.X.nnz == 1
    assert samples.X.shape == (2, 3)


def test_small_indices_sorted_and_unique(tmp_path):
    X = read_libsvm(write(tmp_path, "1 1:1 3:2\n2 2:4\n")).X
    assert X.indices.dtype == X.indptr.dtype == np.int32
    assert X.has_canonical_format
    assert X.dtype == np.float64


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_compressed_files_by_what_they_are_not_by_their_name(tmp_path, compress):
    samples = read_libsvm(write(tmp_path, compress(b"1 1:2\n-1 2:3\n"), "file.txt"))
    assert samples.X.toarray().tolist() == [[2, 0], [0, 3]]


TOO_LONG = "9" * 25
FAULTS = {
    "x 1:1": "has the label 'x', which is not a finite number",
    "nan 1:1": "has the label 'nan', which is not a finite number",
    "inf 1:1": "has the label 'inf', which is not a finite number",
    "1,2 1:1": "has the labels '1,2', but one label a sample is read",
    "1:1 2:1": "begins with '1:1', but the label comes first",
    "1_0 1:1": "has the label '1_0', which is not a finite number",
    "1 1": "has '1' where 'index:value' should be",
    "1 a:1": "has the feature index 'a', which is not a whole number",
    "1 1.5:1": "has the feature index '1.5', which is not a whole number",
    "1 :1": "has the feature index '', which is not a whole number",
    "1 1:": "has '1:', whose value is not a finite number",
    "1 1:a": "has '1:a', whose value is not a finite number",
    "1 1:nan": "has '1:nan', whose value is not a finite number",
    "1 1:-inf": "has '1:-inf', whose value is not a finite number",
    "1 1:1e999": "has '1:1e999', whose value is not a finite number",
    "1 1:1_0": "has '1:1_0', whose value is not a finite number",
    "1 1:1:1": "has '1:1:1', whose value is not a finite number",
    "1 0:1": "has the feature index 0, but indices count from 1 (or from 0: set zero_based=true)",
    "1 -2:1": "has the feature index -2, but indices count from 1",
    "1 2:1 1:1": "has the feature index 1 after 2, but indices must ascend",
    "1 2:1 2:1": "has the feature index 2 twice",
    "1 1000000000000:1": "has the feature index 1000000000000, beyond 100000000, the limit "
    "(set n_features to allow more)",
    "1 100000001:1": "has the feature index 100000001, beyond 100000000, the limit",
    f"1 {TOO_LONG}:1": f"has the feature index '{TOO_LONG}', which is too long for an index",
    "1 " + "9" * 5000 + ":1": "has the feature index '" + "9" * 39 + "..., which is too long",
    "\x00\x01": r"has the label '\x00\x01', which is not a finite number",
    "1 1:\x1b[31m": r"has '1:\x1b[31m', whose value is not a finite number",
    "1 qid0:2 1:1": "has the feature index 'qid0', which is not a whole number",
    "1 qid:1 qid:2": "has the feature index 'qid', which is not a whole number",
}


@pytest.mark.parametrize("line", FAULTS, ids=lambda line: ascii(line)[:20])
def test_a_fault_is_told_by_its_line_and_reason(tmp_path, line):
    path = write(tmp_path, f"# first\n1 1:1\n\n{line}\n1 x:x\n")
    with pytest.raises(DataError) as error:
        read_libsvm(path)
    assert str(error.value).startswith(f"{path}, line 4 {FAULTS[line]}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("index", "zero_based"), [(4, False), (3, True)])
def test_an_index_beyond_n_features(tmp_path, index, zero_based):
    path = write(tmp_path, f"1 {index}:1\n")
    with pytest.raises(DataError, match=f"line 1 has the feature index {index}, beyond .*features"):
        read_libsvm(path, n_features=3, zero_based=zero_based)


@pytest.mark.parametrize("n_features", [None, 2**31 - 1])
def test_an_index_of_a_trillion_is_refused_before_anything_is_allocated(tmp_path, n_features):
    path = write(tmp_path, "1 1000000000000:1\n")
    with pytest.raises(DataError, match="has the feature index 1000000000000, beyond"):
        read_libsvm(path, n_features=n_features)


def test_a_wide_file_costs_what_it_holds_not_what_it_names(tmp_path):
    samples = read_libsvm(write(tmp_path, f"1 {MAX_FEATURES}:1\n"))
    assert samples.X.shape == (1, MAX_FEATURES)
    assert samples.X.nnz == 1


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n# comments\n"])
def test_no_sample(tmp_path, text):
    with pytest.raises(DataError, match="holds no sample; each line should be 'label index:value"):
        read(tmp_path, text)


def test_no_feature(tmp_path):
    with pytest.raises(DataError, match="holds labels but no feature"):
        read(tmp_path, "1\n2\n")


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(libsvm_format, "MAX_LINE", 2**20)
    path = write(tmp_path, b"1 1:1\n" + b"1" * (2**20 + 1))
    with pytest.raises(DataError, match="line 2 is longer than 1 MiB"):
        read_libsvm(path)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_a_bomb_is_refused(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(libsvm_format, "MAX_LINE", 2**10)
    path = write(tmp_path, compress(b"1 1:1\n" * 10**6))
    with pytest.raises(DataError, match="expands to more than 200 times its size"):
        read_libsvm(path)


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_a_bomb_behind_honest_bytes_is_refused_where_it_begins(tmp_path, monkeypatch, compress):
    monkeypatch.setattr(libsvm_format, "MAX_LINE", 2**20)
    noise = np.random.default_rng(0).integers(0, 2**62, 60_000)
    honest = b"".join(b"1 1:%d\n" % number for number in noise)
    path = write(tmp_path, compress(honest) + compress(b"1 1:1\n" * 10**6))
    with pytest.raises(DataError, match=r"line \d+ expands to more than 200") as error:
        read_libsvm(path)
    line = int(re.search(r"line (\d+)", str(error.value))[1])
    assert 60_000 < line < 60_000 + 3 * 2**20 // 6


@pytest.mark.parametrize("line", [b"# a comment\n", b"\n", b"  \t\n"])
def test_endless_comments_are_refused(tmp_path, monkeypatch, line):
    monkeypatch.setattr(libsvm_format, "MAX_LINE", 2**20)
    path = write(tmp_path, b"1 1:1\n" + line * (2**20 // len(line) + 1))
    with pytest.raises(DataError, match=r"line \d+: there is no sample in the 1 MiB before"):
        read_libsvm(path)


def test_samples_beyond_the_memory_are_refused_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(libsvm_format, "usable_memory", lambda: 2**16)
    path = write(tmp_path, "1 1:1 2:1\n" * 10_000)
    with pytest.raises(DataError, match=r"line 911: the samples so far take all of the") as error:
        read_libsvm(path)
    assert "newton_krylov.data.shards" in str(error.value)
    parts = libsvm_format.read_parts(path, size=2**12)  # what is converted to shards need not fit
    assert sum(len(part.y) for part in parts) == 10_000


TEXT = b"".join(b"1 1:%d\n" % k for k in range(10_000))


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_an_archive_that_was_cut_off(tmp_path, compress):
    whole = compress(TEXT)
    with pytest.raises(DataError, match="file is damaged or not complete"):
        read_libsvm(write(tmp_path, whole[: len(whole) // 2]))


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress, gzip.compress])
def test_a_changed_archive_never_passes_for_the_data(tmp_path, compress):
    whole = bytearray(compress(TEXT))
    whole[len(whole) // 2] ^= 1  # the text may be nonsense before its checksum tells
    with pytest.raises(DataError, match=r"file(, line \d+ has| is damaged| cannot be read)"):
        read_libsvm(write(tmp_path, bytes(whole)))


def test_what_is_no_file(tmp_path):
    with pytest.raises(DataError, match="There is no file"):
        read_libsvm(tmp_path / "none")
    with pytest.raises(DataError, match="is not a regular file"):
        read_libsvm(tmp_path)


def test_the_line_of_a_sample_passes_over_comments(tmp_path):
    path = write(tmp_path, "# c\n1 1:1\n\n  # c\n2 1:1\n3 1:1")
    assert [line_of_sample(path, k) for k in range(3)] == [2, 5, 6]


# Any bytes at all: an independent, slow and strict reading of the format must agree.

NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
INDEX = re.compile(rb"[+-]?\d{1,19}")
BLANKS = re.compile(rb"[ \t\r\v\f]+")


def number(text):
    if not NUMBER.fullmatch(text) or abs(float(text)) == float("inf"):
        raise ValueError(text)
    return float(text)


def read_slowly(data, zero_based, n_features):
    """Return {(sample, column): value}, labels and width; ValueError for what is not the format."""
    entries, labels, width = {}, [], 0
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        words = [word for word in BLANKS.split(line.split(b"#")[0]) if word]
        if not words:
            continue
        labels.append(number(words.pop(0)))
        if words and words[0].startswith(b"qid:"):
            del words[0]
        previous = -1
        for word in words:
            index, colon, value = word.partition(b":")
            if not colon or not INDEX.fullmatch(index):
                raise ValueError(word)
            column = int(index) - (not zero_based)
            if not previous < column < (n_features or MAX_FEATURES):
                raise ValueError(word)
            entries[len(labels) - 1, column] = number(value)
            previous, width = column, max(width, column + 1)
    if not labels or not (n_features or width):
        raise ValueError("nothing")
    return entries, labels, n_features or width


def assert_read_as_slowly(folder, data, zero_based=False, n_features=None):
    path = write(folder, data)
    try:
        entries, labels, width = read_slowly(data, zero_based, n_features)
    except ValueError:
        with pytest.raises(DataError) as error:
            read_libsvm(path, zero_based=zero_based, n_features=n_features)
        assert "\n" not in str(error.value)
        return
    samples = read_libsvm(path, zero_based=zero_based, n_features=n_features)
    assert samples.y.tolist() == labels
    assert samples.X.shape == (len(labels), width)
    X = samples.X.tocoo()
    found = {(int(i), int(j)): v for i, j, v in zip(*X.coords, X.data, strict=True)}
    assert found == {place: value for place, value in entries.items() if value != 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


numbers = (
    st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(-(10**6), 10**6).map(str)
    | st.sampled_from(["+1", ".5", "5.", "1e3", "1E-400", "-0", "00", "nan", "1e400", "1_0", ""])
)
indices = (
    st.integers(0, 12).map(str)
    | st.integers(-(10**25), 10**25).map(str)
    | st.sampled_from(["+3", "-0", "007", "1.5", "", "100000000", "100000001", "x"])
)
features = st.builds("{}:{}".format, indices, numbers)
lines = st.builds(
    lambda label, words, end: " ".join([label, *words]) + end,
    numbers,
    st.lists(features | st.sampled_from(["qid:7", "1:2:3", "#", "\t", "\v1:1", "q", "1:1,2"])),
    st.sampled_from(["\n", "\r\n", " \n", "#c\n", "\n\n", "\r", "\x00\n", ""]),
)
files = st.lists(lines, max_size=6).map(lambda parts: "".join(parts).encode())
alphabet = st.sampled_from([bytes([c]) for c in b"0123456789:.-+eE# \t\r\n\v\f\x00_,qidnaf\xff"])
bytes_alike = st.lists(alphabet, max_size=40).map(b"".join)


@given(files | bytes_alike | st.binary(max_size=60), st.booleans(), st.sampled_from([None, 1, 9]))
@example(b"1 1:1\x1c2:2\n", False, None)  # str.split knows more blanks than bytes.split
@example("1 ١:1\n".encode(), False, None)  # int knows more digits than the format
@example(b"\xef\xbb\xbf1 1:1\n", False, None)  # a byte order mark
@example(b"1 1:1\x85", False, None)
@settings(max_examples=400, deadline=None)
def test_any_bytes_are_read_as_a_slow_parser_reads_them_or_refused(
    folder, data, zero_based, n_features
):
    assert_read_as_slowly(folder, data, zero_based, n_features)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_read_as_the_slow_parser_does(folder, data):
    text = bytearray(b"+1 1:1 3:0.5 7:-2e3\n-1 2:1 # c\n1 qid:2 1:3 2:4\n")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        if data.draw(st.booleans()):
            del text[place : place + 1]
        else:
            text[place:place] = data.draw(alphabet)
    assert_read_as_slowly(folder, bytes(text))


@given(
    st.sampled_from([(bz2, OSError), (lzma, lzma.LZMAError), (gzip, zlib.error)]),
    st.binary(max_size=80),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_damaged_compression_never_escapes(folder, kind, tail, data):
    whole = bytearray(kind[0].compress(b"1 1:1 3:0.5\n" * 20))
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = write(folder, bytes(whole) + tail)
    try:
        samples = read_libsvm(path)
        assert len(samples.y) == samples.X.shape[0]
    except DataError as error:
        assert "\n" not in str(error)


@given(
    n=st.integers(1, 20), d=st.integers(1, 30), density=st.floats(0, 1), seed=st.integers(0, 99),
    zero_based=st.booleans(),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_what_scikit_learn_writes_is_read_as_scikit_learn_reads_it(
    folder, n, d, density, seed, zero_based
):
    rng = np.random.default_rng(seed)
    X = sp.random_array((n, d), density=density, rng=rng, format="csr")
    y = rng.integers(-5, 5, n)
    dump_svmlight_file(X, y, str(folder / "file"), zero_based=zero_based)
    samples = read_libsvm(folder / "file", zero_based=zero_based, n_features=d)
    theirs, labels = load_svmlight_file(str(folder / "file"), n_features=d, zero_based=zero_based)
    assert (sp.csr_array(theirs) != samples.X).nnz == 0
    assert np.array_equal(samples.y, labels)


def test_real_files_are_read_as_scikit_learn_reads_them(shared_file):
    path = shared_file("libsvm", "w8a")
    samples = read_libsvm(path)
    X, y = load_svmlight_file(str(path))
    assert (sp.csr_array(X) != samples.X).nnz == 0
    assert np.array_equal(samples.y, y)
