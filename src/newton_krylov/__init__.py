"""Newton's method with Krylov solvers: optimizers, linear solvers and curvature operators in torch."""
