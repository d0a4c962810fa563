"""
What a solver minimizes
=======================

CG minimizes the energy norm of the error, CR and MINRES minimize the residual. On a definite system
CG's residual moves up and down around the others', which never rise; CR and MINRES are one method
there. Each costs one product with the matrix an iteration.
"""

import matplotlib.pyplot as plt
import torch

from newton_krylov import cg, cr, minres

n = 400
eigenvalues = torch.logspace(0, 4, n, dtype=torch.float64)
b = torch.ones(n, dtype=torch.float64)

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for solver, line in ((cg, "-"), (cr, "-"), (minres, "--")):
    result = solver(lambda v: eigenvalues * v, b, rtol=1e-10)
    norms = torch.tensor(result.residual_norms) / result.residual_norms[0]
    label = f"{solver.__name__}: {result.iterations} iterations"
    axes.semilogy(norms, line, label=label)
axes.set(xlabel="iteration", ylabel="|b - A x| / |b|", title="condition number 10,000")
axes.legend()
plt.show()
