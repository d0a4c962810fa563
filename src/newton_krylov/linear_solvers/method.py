"""The common signature of all solvers: its check, documentation and registration."""

import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Protocol, get_type_hints

import pydantic
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from newton_krylov.errors import suggest
from newton_krylov.linear_solvers.result import Callback, LinearResult
from newton_krylov.linear_solvers.system import System
from newton_krylov.registry import register

_SYSTEM = "s"
"""The first parameter of a decorated function."""

_BEFORE = """
Parameters
----------
A : operator or matrix, n by n
    Anything `operators.as_operator` takes; {kind}.
b : Tensor, shape (n,)
    Right side; float32 or float64.
x0 : Tensor, shape (n,), optional
    Start; zero by default. Costs one product.
M : operator, matrix or function v -> M v, optional
    {M}
rtol, atol : float
    Stop at |b - A x| <= max(rtol |b|, atol), the Euclidean norm of the true residual.
maxiter : int, optional
    {maxiter}
"""
_AFTER = """\
callback : callable, optional
    Called with (x, residual norm) after every iteration; x may be updated in place later.

Returns
-------
LinearResult
    The solution, why the solver stopped, and what it cost.

Raises
------
TypeError, ValueError
    If types, dtypes, shapes or values do not fit; in one sentence.
{refused}"""
_REFUSED = """\
UnsupportedError
    If A is declared nonsymmetric, or is a matrix that is not symmetric.
"""


class Solver(Protocol):
    """What the decorator makes: a solver as a function."""

    __name__: str

    def __call__(
        self,
        A: Any,
        b: Tensor,
        *,
        x0: Tensor | None = None,
        M: Any = None,
        rtol: float = ...,
        atol: float = 0.0,
        maxiter: int | None = None,
        callback: Callback | None = None,
        **own: Any,
    ) -> LinearResult:
        """Solve A x = b."""
        ...


def _head(
    A: Any,
    b: Tensor,
    *,
    x0: Tensor | None = None,
    M: Any = None,
    rtol: NonNegativeFloat = 1e-5,
    atol: NonNegativeFloat = 0.0,
    maxiter: PositiveInt | None = None,
    callback: Callback | None = None,
) -> LinearResult:
    """Stand for the signature that all solvers share."""
    raise NotImplementedError


def linear_solver(
    name: str,
    *,
    symmetric: bool,
    M: str,
    rtol: float = 1e-5,
    solves: int | None = None,
    uses: Sequence[str] | None = None,
    maxiter: str = "Limit of iterations, each one product; 10 n by default.",
) -> Callable[[Callable[..., LinearResult]], Solver]:
    """Make a registered solver of a function that solves a `System`.

    The solver takes what all solvers take, `(A, b, *, x0, M, rtol, atol, maxiter, callback)`, and
    the keywords of the function's own. Their annotations are checked in calls as they are in
    configurations. The function's docstring is completed by the common parameters.

    Parameters
    ----------
    name : str
        As which it is registered.
    symmetric : bool
        Whether it needs a symmetric operator.
    M : str
        What the preconditioner must be, for the docstring.
    rtol : float
        The default.
    solves : int, optional
        The default of `maxiter`, where it is not 10 n.
    uses : sequence of str, optional
        See `registry.register`.
    maxiter : str
        What is limited, for the docstring.

    Returns
    -------
    callable
        A decorator for `function(system, *, own keywords) -> LinearResult`.
    """

    def decorate(function: Callable[..., LinearResult]) -> Solver:
        own = [
            parameter
            for key, parameter in inspect.signature(function).parameters.items()
            if key != _SYSTEM
        ]
        head = inspect.signature(_head)
        common = [
            p.replace(default=rtol) if p.name == "rtol" else p for p in head.parameters.values()
        ]
        parameters = [*common[:-1], *own, common[-1]]
        hints = get_type_hints(_head, include_extras=True)
        hints |= get_type_hints(function, include_extras=True)
        checks = {p.name: _checker(hints[p.name]) for p in parameters if _is_value(p.name, own)}
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

        @wraps(function)
        def solver(A: Any, b: Tensor, **options: Any) -> LinearResult:
            for key in options:
                if key not in defaults:
                    raise TypeError(f"{name} has no parameter '{key}'{suggest(key, defaults)}")
            values = defaults | {
                key: _checked(key, value, checks.get(key)) for key, value in options.items()
            }
            x0, callback = values.pop("x0"), values.pop("callback")
            if callback is not None and not callable(callback):
                raise TypeError(f"callback must be a function, not {type(callback).__name__}")
            shared = {key: values.pop(key) for key in ("M", "rtol", "atol", "maxiter")}
            shared["maxiter"] = solves if shared["maxiter"] is None else shared["maxiter"]
            system = System(
                A, b, x0, **shared, callback=callback, method=name, symmetric=symmetric
            )  # fmt: skip
            return function(system, **values)

        solver.__signature__ = head.replace(parameters=parameters)  # type: ignore[attr-defined]
        solver.__annotations__ = {p.name: hints[p.name] for p in parameters} | {
            "return": LinearResult
        }
        solver.__doc__ = _document(function, symmetric, M, maxiter)
        return register("solver", name, uses=uses)(solver)

    return decorate


def _is_value(key: str, own: list[inspect.Parameter]) -> bool:
    return key in ("rtol", "atol", "maxiter") or any(p.name == key for p in own)


def _checker(annotation: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(annotation)


def _checked(key: str, value: Any, check: "pydantic.TypeAdapter[Any] | None") -> Any:
    """Return a keyword's value, brought to its type; ValueError in one sentence."""
    if check is None:
        return value
    try:
        return check.validate_python(value)
    except pydantic.ValidationError as error:
        ways = sorted({e["msg"].removeprefix("Input ") for e in error.errors()})
        raise ValueError(f"{key}={value!r} is not valid: it {', or '.join(ways)}") from None


def _document(function: Callable[..., Any], symmetric: bool, M: str, maxiter: str) -> str:
    """Complete a docstring: the function's own parameters stand between the common ones."""
    text, _, own = (inspect.getdoc(function) or "").partition("\nParameters\n----------\n")
    kind = "symmetric" if symmetric else "need not be symmetric"
    before = _BEFORE.format(kind=kind, M=M, maxiter=maxiter)
    after = _AFTER.format(refused=_REFUSED if symmetric else "")
    return textwrap.dedent(f"{text.rstrip()}\n{before}{own.rstrip()}\n{after}").replace(
        "\n\ncall", "\ncall"
    )
