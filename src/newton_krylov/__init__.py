"""Newton's method with Krylov solvers: optimizers, solvers and curvature operators in torch.

What a program needs is here by name, and imported when it is first used: `newton_krylov.cg`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from newton_krylov.version import __version__ as __version__

if TYPE_CHECKING:
    from newton_krylov.calls.commands import compare as compare
    from newton_krylov.calls.commands import run as run
    from newton_krylov.calls.commands import sweep as sweep
    from newton_krylov.calls.verdict import verdict as verdict
    from newton_krylov.interfaces.cross_validation import (
        NewtonKrylovClassifierCV as NewtonKrylovClassifierCV,
    )
    from newton_krylov.interfaces.cross_validation import (
        NewtonKrylovRegressorCV as NewtonKrylovRegressorCV,
    )
    from newton_krylov.interfaces.least_squares import least_squares as least_squares
    from newton_krylov.interfaces.minimize import minimize as minimize
    from newton_krylov.interfaces.module import empirical_fisher as empirical_fisher
    from newton_krylov.interfaces.module import gauss_newton as gauss_newton
    from newton_krylov.interfaces.module import hessian as hessian
    from newton_krylov.interfaces.module import monte_carlo_fisher as monte_carlo_fisher
    from newton_krylov.interfaces.path import Path as Path
    from newton_krylov.interfaces.path import path as path
    from newton_krylov.interfaces.regressor import NewtonKrylovRegressor as NewtonKrylovRegressor
    from newton_krylov.interfaces.sklearn import NewtonKrylovClassifier as NewtonKrylovClassifier
    from newton_krylov.interfaces.torch_methods import ARC as ARC
    from newton_krylov.interfaces.torch_methods import BFGS as BFGS
    from newton_krylov.interfaces.torch_methods import NNCG as NNCG
    from newton_krylov.interfaces.torch_methods import SSBFGS as SSBFGS
    from newton_krylov.interfaces.torch_methods import RegularizedNewton as RegularizedNewton
    from newton_krylov.interfaces.torch_methods import SSBroyden as SSBroyden
    from newton_krylov.interfaces.torch_methods import TrustRegion as TrustRegion
    from newton_krylov.interfaces.torch_optim import NewtonKrylov as NewtonKrylov
    from newton_krylov.linear_solvers.cg import cg as cg
    from newton_krylov.linear_solvers.cr import cr as cr
    from newton_krylov.linear_solvers.exact import exact as exact
    from newton_krylov.linear_solvers.gcr import gcr as gcr
    from newton_krylov.linear_solvers.gmres import gmres as gmres
    from newton_krylov.linear_solvers.lsmr import lsmr as lsmr
    from newton_krylov.linear_solvers.lsqr import lsqr as lsqr
    from newton_krylov.linear_solvers.minres import minres as minres
    from newton_krylov.linear_solvers.minres_qlp import minres_qlp as minres_qlp
    from newton_krylov.linear_solvers.qr import qr as qr
    from newton_krylov.linear_solvers.result import LinearResult as LinearResult
    from newton_krylov.linear_solvers.result import Status as Status
    from newton_krylov.operators import FunctionOperator as FunctionOperator
    from newton_krylov.operators import LinearOperator as LinearOperator
    from newton_krylov.operators import MatrixOperator as MatrixOperator
    from newton_krylov.operators import as_operator as as_operator
    from newton_krylov.preconditioners.jacobi import Jacobi as Jacobi
    from newton_krylov.preconditioners.nystrom import Nystrom as Nystrom
    from newton_krylov.spectral.lanczos import Eigenpairs as Eigenpairs
    from newton_krylov.spectral.lanczos import lanczos as lanczos

_HOME = {
    "ARC": "interfaces.torch_methods",
    "BFGS": "interfaces.torch_methods",
    "Eigenpairs": "spectral.lanczos",
    "FunctionOperator": "operators",
    "Jacobi": "preconditioners.jacobi",
    "LinearOperator": "operators",
    "LinearResult": "linear_solvers.result",
    "MatrixOperator": "operators",
    "NNCG": "interfaces.torch_methods",
    "NewtonKrylov": "interfaces.torch_optim",
    "NewtonKrylovClassifier": "interfaces.sklearn",
    "NewtonKrylovClassifierCV": "interfaces.cross_validation",
    "NewtonKrylovRegressor": "interfaces.regressor",
    "NewtonKrylovRegressorCV": "interfaces.cross_validation",
    "Nystrom": "preconditioners.nystrom",
    "Path": "interfaces.path",
    "RegularizedNewton": "interfaces.torch_methods",
    "SSBFGS": "interfaces.torch_methods",
    "SSBroyden": "interfaces.torch_methods",
    "Status": "linear_solvers.result",
    "TrustRegion": "interfaces.torch_methods",
    "as_operator": "operators",
    "cg": "linear_solvers.cg",
    "compare": "calls.commands",
    "cr": "linear_solvers.cr",
    "empirical_fisher": "interfaces.module",
    "exact": "linear_solvers.exact",
    "gauss_newton": "interfaces.module",
    "gcr": "linear_solvers.gcr",
    "gmres": "linear_solvers.gmres",
    "hessian": "interfaces.module",
    "lanczos": "spectral.lanczos",
    "least_squares": "interfaces.least_squares",
    "lsmr": "linear_solvers.lsmr",
    "lsqr": "linear_solvers.lsqr",
    "minimize": "interfaces.minimize",
    "minres": "linear_solvers.minres",
    "minres_qlp": "linear_solvers.minres_qlp",
    "monte_carlo_fisher": "interfaces.module",
    "path": "interfaces.path",
    "qr": "linear_solvers.qr",
    "run": "calls.commands",
    "sweep": "calls.commands",
    "verdict": "calls.verdict",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module 'newton_krylov' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"newton_krylov.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
