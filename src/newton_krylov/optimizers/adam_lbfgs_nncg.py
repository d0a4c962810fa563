"""Adam, then L-BFGS, then Nystrom-preconditioned Newton-CG."""

from pydantic import PositiveInt

from newton_krylov.capabilities import SAMPLES
from newton_krylov.optimizers.adam_lbfgs import AdamLBFGS
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
    first : AdamLBFGS
        The first two; their parameters are set by name.
    last : NNCG
        The third, with the same line search; its parameters are set by name.
    second_switch : int
        Steps of L-BFGS, which may also end earlier by itself.
    """

    def __init__(self, first: AdamLBFGS, last: NNCG, second_switch: PositiveInt = 1000) -> None:
        adam, (lbfgs, _) = first.turns
        super().__init__(adam, (lbfgs, second_switch), (last, None))
