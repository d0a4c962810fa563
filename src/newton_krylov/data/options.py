"""Functions that take, beside their own parameters, the options that their kind has in common."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import torch

from newton_krylov.data.dataset import Dataset

T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - of the options
_HEAD = "Parameters\n----------\n"


def with_options(
    describe: Callable[..., T],
    options: type[O],
    defaults: Mapping[str, Any],
    make: Callable[[T, O, torch.dtype], Dataset],
) -> Callable[..., Dataset]:
    """Return a function with one signature, made of a description's and of common options.

    Parameters
    ----------
    describe : callable
        Takes keywords of its own.
    options : type
        A dataclass whose attributes are the common options, described under `Attributes`.
    defaults : mapping
        Defaults of common options that differ for this one.
    make : callable
        Makes the data set: of what was described, the options and the precision.

    Returns
    -------
    callable
        Its keywords are both kinds' and `dtype`; what the registry reads.
    """
    hints = get_type_hints(options, include_extras=True)
    common = {
        field.name: (hints[field.name], defaults.get(field.name, field.default))
        for field in fields(options)  # type: ignore[arg-type]
    }
    own = inspect.signature(describe).parameters

    @wraps(describe)
    def load(*, dtype: torch.dtype = torch.float64, **keywords: Any) -> Dataset:
        chosen = {key: keywords.get(key, default) for key, (_, default) in common.items()}
        described = describe(**{key: value for key, value in keywords.items() if key in own})
        return make(described, options(**chosen), dtype)

    added = {key: value for key, value in common.items() if key not in own}
    parameters = [
        *own.values(),
        *(_keyword(key, hint, default) for key, (hint, default) in added.items()),
        _keyword("dtype", torch.dtype, torch.float64),
    ]
    load.__doc__ = _documented(inspect.getdoc(describe) or "", inspect.getdoc(options) or "")
    load.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    load.__annotations__ = get_type_hints(describe, include_extras=True)
    load.__annotations__ |= {key: hint for key, (hint, _) in added.items()}
    load.__annotations__ |= {"dtype": torch.dtype, "return": Dataset}
    return load


def _documented(docstring: str, options: str) -> str:
    """Return a description's docstring with what the common options mean."""
    meanings = options.partition("Attributes\n----------\n")[2].rstrip()
    text, _, section = docstring.rstrip().partition(_HEAD)
    own, gap, rest = section.partition("\n\n")
    return "\n".join([f"{text.rstrip()}\n\n{_HEAD}{own}".rstrip(), meanings]) + gap + rest


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
