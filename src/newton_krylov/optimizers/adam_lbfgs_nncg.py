"""Adam, then L-BFGS, then Nystrom-preconditioned Newton-CG."""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from newton_krylov.capabilities import SAMPLES
from newton_krylov.curvature.base import Curvature
from newton_krylov.optimizers.adam import Adam
from newton_krylov.optimizers.forcing import Forcing
from newton_krylov.optimizers.lbfgs import LBFGS
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.nncg import NNCG
from newton_krylov.optimizers.turns import Turns
from newton_krylov.registry import register


@register("optimizer", "adam_lbfgs_nncg", needs=(SAMPLES,))
class AdamLBFGSNNCG(Turns):
    """Adam for some epochs, L-BFGS for some steps, and NysNewton-CG from there.

    Rathore, Lei, Frangella, Lu and Udell, "Challenges in training PINNs: a loss landscape
    perspective" (ICML 2024), whose last of the three methods mends what the first two leave.

    Parameters
    ----------
    curvature : Curvature
        What stands for the Hessian in NysNewton-CG.
    line_search : LineSearch
        Of L-BFGS and NysNewton-CG; `strong_wolfe` makes every pair usable.
    forcing : Forcing
        Chooses the tolerance of the conjugate gradients.
    switch : int
        Epochs of Adam.
    learning_rate : float
        Adam's.
    batch_size : int
        Samples in a mini-batch of Adam; more than there are takes all.
    second_switch : int
        Steps of L-BFGS, which may also end earlier by itself.
    memory : int
        Pairs that L-BFGS keeps.
    rank : int
        Products of a sketch, and its vectors.
    every : int
        Steps from one sketch to the next.
    damping : float
        mu over the largest eigenvalue of the sketch.
    maxiter : int
        Limit of the conjugate gradients' iterations.
    """

    def __init__(
        self,
        curvature: Curvature,
        line_search: LineSearch,
        forcing: Forcing,
        switch: PositiveInt = 1000,
        learning_rate: PositiveFloat = 1e-3,
        batch_size: PositiveInt = 32,
        second_switch: PositiveInt = 1000,
        memory: PositiveInt = 10,
        rank: PositiveInt = 60,
        every: PositiveInt = 20,
        damping: NonNegativeFloat = 1e-6,
        maxiter: PositiveInt = 1000,
    ) -> None:
        super().__init__(
            (Adam(learning_rate, batch_size=batch_size), switch),
            (LBFGS(line_search, memory), second_switch),
            (NNCG(curvature, line_search, forcing, rank, every, damping, maxiter), None),
        )
