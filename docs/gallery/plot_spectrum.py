"""
The Hessian of a network
========================

The eigenvalues of the Hessian and of the Gauss-Newton matrix of a small network, before and after
some steps of training. The Gauss-Newton matrix has no negative eigenvalue; the Hessian has some,
which is why its largest eigenvalue in absolute value need not be positive.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from newton_krylov import NewtonKrylov, gauss_newton, hessian, lanczos

torch.manual_seed(0)
X = torch.randn(200, 4, dtype=torch.float64)
y = (X.sin().sum(dim=1) > 0).long()
model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 2)).double()
loss = nn.CrossEntropyLoss()

figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
optimizer = NewtonKrylov(model.parameters())
for axes, steps in zip(panels, (0, 15), strict=True):
    for _ in range(steps):
        optimizer.step(lambda: loss(model(X), y))
    for name, matrix in (("Hessian", hessian), ("Gauss-Newton", gauss_newton)):
        values = torch.linalg.eigvalsh(matrix(model, loss, X, y).dense()).flip(0)
        axes.plot(values, ".", label=name)
    lowest = lanczos(
        hessian(model, loss, X, y), 1, which="smallest", generator=torch.Generator().manual_seed(0)
    )
    axes.axhline(float(lowest.values), color="gray", linewidth=0.8, label="smallest, by Lanczos")
    axes.set(xlabel="number", title=f"after {steps} steps", yscale="symlog")
    axes.set_yscale("symlog", linthresh=1e-4)
panels[0].set_ylabel("eigenvalue")
panels[0].legend()
plt.show()
