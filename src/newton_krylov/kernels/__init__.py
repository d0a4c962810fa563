"""Compiled products of a sparse matrix on the CPU.

`rows` lays a matrix out and is what others use. `loops` are the compiled functions: importing them
imports Numba, which takes some tenths of a second, so `rows` does it when the first matrix is laid
out.
"""
