"""
Training a network
==================

The two spirals, by a network of 320 weights, with all samples in each step. A Newton step costs
as many backward passes as its solver takes iterations, so the comparison is by time as well as by
steps. L-BFGS is PyTorch's own, with its strong Wolfe line search.
"""

import time

import matplotlib.pyplot as plt
import torch
from torch import nn

from newton_krylov import NewtonKrylov

torch.manual_seed(0)
t = torch.rand(400, dtype=torch.float64).sqrt() * 9
y = torch.arange(400) % 2
angle = t + torch.pi * y
X = torch.stack((t * angle.cos(), t * angle.sin()), dim=1) / 9
loss_function = nn.CrossEntropyLoss()


def network():
    torch.manual_seed(1)
    layers = nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)
    return nn.Sequential(*layers).double()


def train(make, steps):
    """Return the loss before every step, and the seconds after it."""
    model = network()
    optimizer = make(model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = loss_function(model(X), y)
        loss.backward()
        return loss

    losses, seconds, start = [], [], time.perf_counter()
    for _ in range(steps):
        losses.append(float(optimizer.step(closure).detach()))
        seconds.append(time.perf_counter() - start)
    return losses, seconds


optimizers = {
    "Newton-CR": (lambda p: NewtonKrylov(p, solver="cr"), 120),
    "Newton-CG": (lambda p: NewtonKrylov(p, solver="cg"), 120),
    "L-BFGS": (lambda p: torch.optim.LBFGS(p, line_search_fn="strong_wolfe", max_iter=10), 60),
    "Adam": (lambda p: torch.optim.Adam(p, lr=0.01), 1500),
}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
for name, (make, steps) in optimizers.items():
    losses, seconds = train(make, steps)
    left.semilogy(losses, label=name)
    right.semilogy(seconds, losses, label=name)
left.set(xlabel="step", ylabel="cross entropy", xlim=(0, 120))
right.set(xlabel="seconds")
right.legend()
plt.show()
