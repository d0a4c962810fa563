"""What products with a symmetric operator tell of its spectrum: trace, diagonal and density.

Works on any `LinearOperator`; the extreme eigenpairs come from `linear_solvers.lanczos`.
"""
