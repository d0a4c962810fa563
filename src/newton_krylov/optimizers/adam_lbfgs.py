"""Adam, then L-BFGS: the usual pair for physics-informed networks."""

from pydantic import PositiveFloat, PositiveInt

from newton_krylov.capabilities import SAMPLES
from newton_krylov.optimizers.adam import Adam
from newton_krylov.optimizers.lbfgs import LBFGS
from newton_krylov.optimizers.line_search import LineSearch
from newton_krylov.optimizers.turns import Turns
from newton_krylov.registry import assembled, register


@assembled
@register("optimizer", "adam_lbfgs", needs=(SAMPLES,))
class AdamLBFGS(Turns):
    """Adam for some epochs, and L-BFGS from there.

    Parameters
    ----------
    line_search : LineSearch
        Of L-BFGS; `strong_wolfe` makes every pair usable.
    switch : int
        Epochs of Adam.
    learning_rate : float
        Adam's.
    batch_size : int
        Samples in a mini-batch of Adam; more than there are takes all.
    memory : int
        Pairs that L-BFGS keeps.
    """

    def __init__(
        self,
        line_search: LineSearch,
        switch: PositiveInt = 1000,
        learning_rate: PositiveFloat = 1e-3,
        batch_size: PositiveInt = 32,
        memory: PositiveInt = 10,
    ) -> None:
        super().__init__(
            (Adam(learning_rate, batch_size=batch_size), switch),
            (LBFGS(line_search, memory), None),
        )
