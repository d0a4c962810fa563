"""
Preconditioners
===============

A matrix whose rows differ in scale is what the Jacobi preconditioner is for; one with a few large
eigenvalues above a flat rest is what Nyström's is for. Every residual shown is the true one
of the system itself, whatever the preconditioner.
"""

import matplotlib.pyplot as plt
import torch

from newton_krylov import Jacobi, MatrixOperator, Nystrom, cg

n = 300
generator = torch.Generator().manual_seed(0)
Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
b = torch.ones(n, dtype=torch.float64)


def symmetric(eigenvalues):
    return (Q * eigenvalues) @ Q.T


scale = torch.logspace(-1.5, 1.5, n, dtype=torch.float64)
flat = torch.full((n,), 1e-3, dtype=torch.float64)
flat[:30] = torch.logspace(2, 0, 30)
systems = {
    "rows of different scale": torch.diag(scale) @ symmetric(1 + flat) @ torch.diag(scale),
    "30 large eigenvalues": symmetric(flat),
}

figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for axes, (title, A) in zip(panels, systems.items(), strict=True):
    operator = MatrixOperator((A + A.T) / 2)
    for name, builder in (("none", None), ("Jacobi", Jacobi()), ("Nyström", Nystrom(rank=40))):
        M = builder and builder.build(operator, generator)
        norms = cg(operator, b, M=M, rtol=1e-8, maxiter=200).residual_norms
        axes.semilogy(torch.tensor(norms) / norms[0], label=name)
    axes.set(xlabel="iteration of cg", title=title)
panels[0].set_ylabel("|b - A x| / |b|")
panels[0].legend(title="preconditioner")
plt.show()
