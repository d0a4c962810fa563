"""
Singular systems
================

Where A is singular and b outside its range there is no solution. CG runs away along the null space
until it meets a direction d with A d = 0, and breaks down. MINRES and MINRES-QLP end at the
smallest residual there is, and say by their status that it belongs to a least-squares solution;
that of MINRES-QLP is the shortest of them.
"""

import matplotlib.pyplot as plt
import torch

from newton_krylov import cg, minres, minres_qlp

n, rank = 300, 280
eigenvalues = torch.zeros(n, dtype=torch.float64)
eigenvalues[:rank] = torch.logspace(-2, 0, rank)
b = torch.ones(n, dtype=torch.float64)
shortest = torch.where(eigenvalues > 0, b / eigenvalues, 0.0)

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for solver, line in ((cg, "-"), (minres, "-"), (minres_qlp, "--")):
    result = solver(lambda v: eigenvalues * v, b, rtol=1e-10)
    length = float(result.x.norm() / shortest.norm())
    label = f"{solver.__name__}: {result.status}, {length:.3g} times the shortest"
    axes.semilogy(result.residual_norms, line, label=label)
axes.set(xlabel="iteration", ylabel="|b - A x|", ylim=(1, 1e7))
axes.legend()
plt.show()
