"""Damping: the tau of (A + tau I) p = -g, fixed or adapted by what the last step achieved."""

from typing import Annotated, Literal

from pydantic import Field

from newton_krylov.errors import ConfigError

DampingRule = Literal["fixed", "levenberg_marquardt"]
Factor = Annotated[float, Field(gt=1)]

_POOR, _GOOD = 0.25, 0.75


class Damping:
    """tau, and how it moves.

    `levenberg_marquardt` is Marquardt's rule (1963) with the reduction ratio of trust-region
    methods (Nocedal and Wright, "Numerical Optimization", 2006, algorithm 4.1; for networks
    Martens, "Deep learning via Hessian-free optimization", 2010): with m(p) = g'p + p'A p / 2
    the model without damping,

        rho = (f(w + p) - f(w)) / m(p).

    Below 1/4 the model is not to be trusted that far, and tau grows by `factor`; above 3/4 it
    shrinks by it. A step that does not lower f is not made, and tau grows by `factor` squared.

    Parameters
    ----------
    tau : float
        The first value.
    rule : {"fixed", "levenberg_marquardt"}
        Whether it moves.
    factor : float
        By how much, above 1.
    lowest : float
        tau never falls below it. On mini-batches this is what keeps a step from fitting the
        batch: rho judges by the same samples as the model was made of, and sees no fault in it.

    Raises
    ------
    ConfigError
        If an adaptive tau starts at zero: no factor moves it.
    """

    def __init__(
        self, tau: float, rule: DampingRule = "fixed", factor: float = 2.0, lowest: float = 0.0
    ) -> None:
        if rule == "levenberg_marquardt" and tau == 0:
            raise ConfigError(
                "optimizer.damping_rule=levenberg_marquardt multiplies and divides the damping: "
                "set optimizer.damping to a first value above 0, for example 1."
            )
        self.tau = max(tau, lowest)
        self.adaptive = rule == "levenberg_marquardt"
        self.factor = factor
        self.lowest = lowest

    def judge(self, actual: float, predicted: float) -> bool:
        """Move tau by what a step achieved, and say whether the step is to be made.

        Parameters
        ----------
        actual : float
            f(w + p) - f(w); may be nan or infinite.
        predicted : float
            m(p).

        Returns
        -------
        bool
            Whether f went down. Where it did though m(p) > 0 (the model is not convex along p),
            the step is good and the model is not.
        """
        if not actual < 0:
            self.tau *= self.factor**2
            return False
        ratio = actual / predicted if predicted < 0 else 0.0
        if ratio < _POOR:
            self.tau *= self.factor
        elif ratio > _GOOD:
            self.tau = max(self.tau / self.factor, self.lowest)
        return True
