"""Newton's method with Krylov solvers: optimizers, solvers and curvature operators in torch."""
