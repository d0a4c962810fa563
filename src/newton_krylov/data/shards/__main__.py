"""Write a folder of shards: `python -m newton_krylov.data.shards --help`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from newton_krylov.data.labels import LabelError
from newton_krylov.data.libsvm_format import line_of_sample, read_parts
from newton_krylov.data.shards.generate import Generator
from newton_krylov.data.shards.layout import Description, SplitName
from newton_krylov.data.shards.writer import Part, write_shards
from newton_krylov.errors import ConfigError, DataError, UserError
from newton_krylov.files import override


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Parameters
    ----------
    arguments : sequence of str, optional
        Instead of the process's own.

    Returns
    -------
    int
        0, or 2 for a mistake, which is reported in one sentence.
    """
    options = _parser().parse_args(arguments)
    try:
        made = from_libsvm(options) if options.source == "libsvm" else generated(options)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for name, split in made.splits.items():
        nnz = sum(shard.nnz for shard in split.shards)
        print(  # noqa: T201
            f"{name}: {split.rows:,} samples, {made.n_features:,} features, {nnz:,} nonzeros in "
            f"{len(split.shards):,} shards"
        )
    print(f"dataset=shards {override('dataset.path', options.folder)}")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m newton_krylov.data.shards",
        description="Write a data set as shards on disk, through which dataset=shards streams.",
    )
    sources = parser.add_subparsers(dest="source", required=True)
    libsvm = sources.add_parser("libsvm", help="from files of LIBSVM's format (plain, bz2, xz, gz)")
    libsvm.add_argument("file", type=Path, help="samples to train with")
    libsvm.add_argument("--test", type=Path, help="samples to test with")
    libsvm.add_argument("--task", default="auto", choices=_TASKS, help="what the labels are")
    libsvm.add_argument("--n-features", type=int, help="columns; default: the highest index")
    libsvm.add_argument("--zero-based", action="store_true", help="indices count from 0")
    libsvm.add_argument("--bias", action="store_true", help="append a column of ones")
    synthetic = sources.add_parser("synthetic", help="two generated classes")
    synthetic.add_argument("--n", type=int, required=True, help="samples to train with")
    synthetic.add_argument("--n-test", type=int, default=0, help="samples to test with")
    synthetic.add_argument("--d", type=int, required=True, help="features")
    synthetic.add_argument("--density", type=float, required=True, help="share of nonzeros")
    synthetic.add_argument("--condition-number", type=float, default=100.0, help="of diag(X'X)")
    synthetic.add_argument("--seed", type=int, default=0, help="of everything")
    for source in (libsvm, synthetic):
        source.add_argument("folder", type=Path, help="where the shards go; must not exist")
        source.add_argument("--dtype", default="float64", choices=("float64", "float32"))
        source.add_argument("--shard-mib", type=int, default=64, help="size of a shard")
    return parser


_TASKS = ("auto", "binary", "multiclass", "regression")


def from_libsvm(options: argparse.Namespace) -> Description:
    """Write the shards of files of LIBSVM's format.

    Parameters
    ----------
    options : Namespace
        Parsed options of the command line.

    Returns
    -------
    Description
        What was written.
    """
    files: dict[SplitName, Path] = {"train": options.file}
    if options.test is not None:
        files["test"] = options.test
    n_features = options.n_features
    if n_features is not None and not 1 <= n_features < 2**31 - 1:
        raise ConfigError(f"--n-features {n_features} is not a number of columns.")
    if options.bias and n_features is None:
        raise ConfigError("--bias appends a column after the last one: give --n-features as well.")
    try:
        return write_shards(
            options.folder,
            {name: _read(path, options) for name, path in files.items()},
            task=options.task,
            source=str(options.file),
            n_features=None if n_features is None else n_features + options.bias,
            **_size(options),
        )
    except LabelError as error:
        path = list(files.values())[error.part]
        line = line_of_sample(path, error.sample)
        raise DataError(f"{path}, line {line} {error.problem}.") from None


def _read(path: Path, options: argparse.Namespace) -> Iterator[Part]:
    for samples in read_parts(path, zero_based=options.zero_based, n_features=options.n_features):
        X = samples.X
        if options.bias:
            ones = sp.csr_array(np.ones((X.shape[0], 1)))
            X = sp.csr_array(sp.hstack([X, ones], format="csr"))
        yield X, samples.y


def generated(options: argparse.Namespace) -> Description:
    """Write the shards of a generated set.

    Parameters
    ----------
    options : Namespace
        Parsed options of the command line.

    Returns
    -------
    Description
        What was written.
    """
    if not (0 < options.density < 1 and options.n >= 2 and options.d >= 1):
        raise ConfigError("A generated set has 0 < density < 1, n >= 2 samples, d >= 1 features.")
    if not (options.condition_number >= 1 and options.n_test >= 0 and options.seed >= 0):
        raise ConfigError("--condition-number is at least 1; --n-test and --seed are at least 0.")
    made = Generator(options.d, options.density, options.condition_number, options.seed)
    splits: dict[SplitName, Iterator[Part]] = {"train": made.parts(options.n, 0)}
    if options.n_test:
        splits["test"] = made.parts(options.n_test, 1)
    return write_shards(
        options.folder,
        splits,
        task="binary",
        source="synthetic",
        n_features=options.d,
        **_size(options),
    )


def _size(options: argparse.Namespace) -> dict[str, Any]:
    if options.shard_mib < 1:
        raise ConfigError("--shard-mib is at least 1.")
    return {"dtype": options.dtype, "shard_bytes": options.shard_mib * 2**20}


if __name__ == "__main__":
    sys.exit(main())
