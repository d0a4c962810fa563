"""Linear solvers: A x = b, given only products with A. One a file; each registers itself."""
