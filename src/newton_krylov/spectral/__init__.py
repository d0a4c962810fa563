"""What products with a symmetric operator say about its spectrum: eigenpairs, trace, density."""
