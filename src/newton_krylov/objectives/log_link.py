"""Generalized linear models with a logarithmic link: the predicted mean is exp(x'w + offset).

A loss is half the unit deviance: the negative log-likelihood less that of a model that predicts
every target (McCullagh and Nelder, "Generalized Linear Models", 1989, section 2.3). So it is at
least 0, and has the gradient and the Hessian of the negative log-likelihood with a dispersion of 1.
It is computed from t = z - log(y), which does not cancel where the fit is good.
"""

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Annotated

import pydantic
import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from newton_krylov.capabilities import CORNERS, LIKELIHOOD, LOG_LINK, TABLE
from newton_krylov.data.dataset import Dataset, LabelledData
from newton_krylov.errors import CombinationError, ConfigError
from newton_krylov.objectives.linear_model import Factors, Intercept, SingleOutputTerms, averaged
from newton_krylov.objectives.regression import Regression
from newton_krylov.registry import register


def _scaled_expm1(rate: float, t: Tensor) -> Tensor:
    """Return (exp(rate t) - 1) / rate, which is t at rate 0."""
    return torch.expm1(rate * t) / rate if rate else t


_FAR = 40.0
"""An error of the logarithm of the mean, beyond which 1 is nothing beside its exponential."""


class _LogLinkTerms(SingleOutputTerms):
    """The terms of a loss of the mean exp(z), in t = z - log(y), or z where y is 0."""

    @cached_property
    def _positive(self) -> Tensor:
        return self.targets > 0

    @cached_property
    def _log_target(self) -> Tensor:
        return torch.where(self._positive, self.targets, 1.0).log_()

    @cached_property
    def _t(self) -> Tensor:
        return self.Z - self._log_target


class TweedieTerms(_LogLinkTerms):
    """Half the unit deviance of variance mu^p, mu = exp(z), and its derivatives.

    Parameters
    ----------
    Z, targets, sample_weight
        As in `Terms`.
    power : float
        p >= 1.
    """

    def __init__(
        self, Z: Tensor, targets: Tensor, sample_weight: Tensor | None = None, *, power: float
    ) -> None:
        super().__init__(Z, targets, sample_weight)
        self.power = power
        self._a, self._b = 1 - power, 2 - power

    @cached_property
    def _size(self) -> Tensor:
        """y^(2 - p), or 1 where y is 0."""
        return torch.where(self._positive, self.targets, 1.0) ** self._b

    @cached_property
    def _front(self) -> Tensor:
        """The larger of mu^b and y mu^a, and mu^b where y is 0; inf only where that is."""
        of_mean, of_target = self._b * self.Z, self._a * self.Z + self._log_target
        return torch.exp(torch.where(self._positive & (self._t < 0), of_target, of_mean))

    @cached_property
    def value(self) -> Tensor:
        """Mean of y^b ((e^(bt) - 1) / b - (e^(at) - 1) / a), a = 1 - p, b = 2 - p."""
        a, b, t = self._a, self._b, self._t
        positive = self._size * (_scaled_expm1(b, t) - _scaled_expm1(a, t))
        if b < 0:  # both exponentials grow, and y mu^a is the larger one
            of_mean = self._front * (torch.exp(t) / b - 1 / a)
            positive = torch.where(t < -_FAR, of_mean + self._size * (1 / a - 1 / b), positive)
        return self.mean(self._with_zeros(positive, 1 / b if b > 0 else 0.0))

    @cached_property
    def gradient(self) -> Tensor:
        """(mu^b - y mu^a) / n."""
        share = torch.sign(self._t) * -torch.expm1(-self._t.abs())
        return self.averaged(self._with_zeros(self._front * share, 1.0))

    @cached_property
    def weights(self) -> Tensor:
        """(b mu^b - a y mu^a) / n; of either sign where p > 2."""
        smaller = torch.exp(-self._t.abs())
        above = self._b - self._a * smaller
        share = torch.where(self._t > 0, above, self._b * smaller - self._a)
        return self.averaged(self._with_zeros(self._front * share, self._b))

    @property
    def gauss_newton_weights(self) -> Tensor:
        """The Hessian's where they are >= 0, else their expectation, mu^(2 - p) / n."""
        if self.power <= 2:
            return self.weights
        return self.averaged(torch.exp(self._b * self.Z))

    def _with_zeros(self, positive: Tensor, factor: float) -> Tensor:
        """Return these, and factor mu^b where y is 0."""
        return torch.where(self._positive, positive, factor * self._front)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return targets of mean exp(z): Poisson's for p = 1, exponential ones for p = 2."""
        mean = torch.exp(self.Z).cpu()
        if self.power == 1:
            return torch.poisson(mean, generator=generator).to(self.Z)
        if self.power == 2:
            return (mean * _exponential(mean, generator)).to(self.Z)
        return super().drawn(generator)


class NegativeBinomialTerms(_LogLinkTerms):
    """Half the unit deviance of variance mu + mu^2 / theta, mu = exp(z), and its derivatives.

    Parameters
    ----------
    Z, targets, sample_weight
        As in `Terms`.
    theta : float
        > 0.
    """

    def __init__(
        self, Z: Tensor, targets: Tensor, sample_weight: Tensor | None = None, *, theta: float
    ) -> None:
        super().__init__(Z, targets, sample_weight)
        self.theta = theta

    @cached_property
    def _total(self) -> Tensor:
        return self.targets + self.theta

    @cached_property
    def _share(self) -> Tensor:
        """Mu / (mu + theta)."""
        return torch.sigmoid(self.Z - math.log(self.theta))

    @cached_property
    def value(self) -> Tensor:
        """Mean of (y + theta) log((mu + theta) / (y + theta)) - y t."""
        t, q, r = self._t, self.targets / self._total, self.theta / self._total
        near = torch.log1p(q * torch.expm1(t.clamp(max=_FAR)))
        far = t + torch.log(q + r * torch.exp(-t.clamp(min=_FAR)))
        few = self._total * torch.where(t <= _FAR, near, far) - self.targets * t
        # Of counts above theta the two terms cancel: to theta t and a logarithm near 0.
        near = torch.log1p(r * torch.expm1(-t.clamp(min=-_FAR)))
        far = _softplus(r.log() - t.clamp(max=-_FAR))
        many = self.theta * t + self._total * torch.where(t >= -_FAR, near, far)
        positive = torch.where(q <= 0.5, few, many)
        zero = self.theta * _softplus(self.Z - math.log(self.theta))
        return self.mean(torch.where(self._positive, positive, zero))

    @cached_property
    def gradient(self) -> Tensor:
        """Theta (mu - y) / (mu + theta) / n."""
        # (mu - y) / (mu + theta) = share (1 - y / mu), and 1 - e^(-t) has no cancellation.
        near = self._share * -torch.expm1(-self._t.clamp(min=0.0))
        far = torch.expm1(self._t.clamp(max=0.0)) * self.targets * (1 - self._share) / self.theta
        positive = torch.where(self._t > 0, near, far)
        return self.averaged(torch.where(self._positive, positive, self._share), self.theta)

    @cached_property
    def weights(self) -> Tensor:
        """(y + theta) mu theta / (mu + theta)^2 / n."""
        other = torch.sigmoid(math.log(self.theta) - self.Z)
        return self.averaged(self._total * self._share * other)

    def drawn(self, generator: torch.Generator) -> Tensor:
        """Return Poisson counts whose means are gamma distributed, of mean exp(z)."""
        mean = torch.exp(self.Z).cpu()
        shape = torch.full_like(mean, self.theta)
        factor = torch._standard_gamma(shape, generator=generator) / self.theta
        return torch.poisson(mean * factor, generator=generator).to(self.Z)


def _softplus(z: Tensor) -> Tensor:
    """Return log(1 + e^z) to all digits; torch's own is z beyond 20."""
    return torch.logaddexp(z, torch.zeros_like(z))


def _exponential(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty_like(like).exponential_(generator=generator)


class LogLink(Regression):
    """A generalized linear model of the mean exp(x'w + offset).

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    zeros : bool
        Whether targets may be 0.

    Raises
    ------
    CombinationError
        If a target is out of range, or so large or small that its losses are.
    """

    offers = Regression.offers | {LOG_LINK}

    def __init__(
        self,
        dataset: Dataset,
        l2: float,
        intercept: Intercept,
        l1: float,
        penalty: Factors,
        *,
        zeros: bool = True,
    ) -> None:
        super().__init__(dataset, l2, intercept, l1, penalty)
        assert isinstance(dataset, LabelledData)  # the linear model has refused others
        for split in filter(None, dataset.splits):
            lowest = float(split.y.min())
            if lowest < 0 or (lowest == 0 and not zeros):
                raise CombinationError(
                    f"loss={self.name} needs targets {'of at least' if zeros else 'above'} 0, and "
                    f"dataset={dataset.name} has {lowest:g}."
                )
        if not 0 < self.unit < math.inf:
            raise CombinationError(
                f"loss={self.name} works with y^2 / variance(y) of the targets, whose mean is "
                f"{self.unit:g} in {str(self.dtype).removeprefix('torch.')} for "
                f"dataset={dataset.name}: divide the targets by their median."
            )

    def mean(self, Z: Tensor) -> Tensor:
        """Return exp(Z)."""
        return torch.exp(Z)

    def link(self, mean: float) -> float:
        """Return log(mean)."""
        return math.log(mean) if mean > 0 else -math.inf

    def largest_curvatures(self) -> Tensor | None:
        """Refuse: the second derivative grows with the exponential of the output."""
        raise ConfigError(
            f"optimizer.step_size is missing: the curvature of loss={self.name} has no bound to "
            f"take it from; set it, or take optimizer=newton or lbfgs."
        )

    def rounding(self, value: float) -> float:
        """Return how far a computed value can be off: by the rounding of the outputs as well.

        Parameters
        ----------
        value : float
            A computed value of f.

        Returns
        -------
        float
            A bound on its rounding error, in the unit of f.
        """
        unit, digits = self.unit, self._digits
        off = torch.finfo(self.dtype).eps * digits
        near = math.sqrt(2 * abs(value) * unit) + off * unit
        return super().rounding(value) * digits + 10 * off * near

    @cached_property
    def unit(self) -> float:
        """The mean loss of an error of the outputs by 1, about: the mean of y^2 / variance(y)."""
        y = self._targets[self._targets > 0]
        return float(self._scale(y).mean()) if len(y) else 1.0

    @cached_property
    def _digits(self) -> float:
        """The size of the outputs, whose rounding is relative to it."""
        y = self._targets[self._targets > 0]
        return 1 + float(y.log().abs().max()) if len(y) else 1.0

    def _scale(self, y: Tensor) -> Tensor:
        return y


class _TweedieFamily(LogLink):
    """A loss whose variance is a power of the mean."""

    def __init__(
        self,
        dataset: Dataset,
        l2: float,
        intercept: Intercept,
        l1: float,
        penalty: Factors,
        *,
        power: float,
    ) -> None:
        self.power = power
        self.convex = power <= 2
        self.terms: Callable[..., TweedieTerms] = partial(TweedieTerms, power=power)
        super().__init__(dataset, l2, intercept, l1, penalty, zeros=power < 2)

    def _scale(self, y: Tensor) -> Tensor:
        return y ** (2 - self.power)


@register("loss", "poisson", needs=(TABLE,), offers=(LIKELIHOOD,), needs_with={"l1": (CORNERS,)})
class Poisson(_TweedieFamily):
    """Poisson regression of counts: half the mean deviance + l2/2 |w|^2, mean exp(x'w).

    Half the deviance is y log(y / mu) - y + mu, as in scikit-learn's `PoissonRegressor`; counts of
    different exposures have the logarithm of those as an offset (`dataset.exposure`).

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task, targets >= 0.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "poisson"

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
    ) -> None:
        super().__init__(dataset, l2, intercept, l1, penalty, power=1.0)


@register("loss", "gamma", needs=(TABLE,), offers=(LIKELIHOOD,), needs_with={"l1": (CORNERS,)})
class Gamma(_TweedieFamily):
    """Gamma regression of positive amounts: half the mean deviance + l2/2 |w|^2, mean exp(x'w).

    Half the deviance is y / mu - 1 - log(y / mu), as in scikit-learn's `GammaRegressor`.

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task, targets > 0.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    """

    name = "gamma"

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
    ) -> None:
        super().__init__(dataset, l2, intercept, l1, penalty, power=2.0)


@register("loss", "tweedie", needs=(TABLE,), needs_with={"l1": (CORNERS,)})
class Tweedie(_TweedieFamily):
    """Regression of variance mean^power: half the mean deviance + l2/2 |w|^2, mean exp(x'w).

    Power 1 is Poisson's, 2 the gamma distribution's, 3 the inverse Gaussian's; between 1 and 2 are
    compound Poisson sums of gamma amounts, such as the claims of an insurance with their many
    zeros. Above 2 the loss is not convex, and `hessian_approx=ggn` takes the expected Hessian.

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task, targets >= 0, from power 2 on > 0.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    power : float
        p >= 1 in the variance mu^p.
    """

    name = "tweedie"

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
        power: Annotated[float, pydantic.Field(ge=1, allow_inf_nan=False)] = 1.5,
    ) -> None:
        super().__init__(dataset, l2, intercept, l1, penalty, power=power)


@register(
    "loss", "negative_binomial", needs=(TABLE,), offers=(LIKELIHOOD,), needs_with={"l1": (CORNERS,)}
)
class NegativeBinomial(LogLink):
    """Regression of overdispersed counts: half the mean deviance + l2/2 |w|^2, mean exp(x'w).

    The variance is mu + mu^2 / theta (NB2); theta to infinity is Poisson's.

    Parameters
    ----------
    dataset : Dataset
        Data set of a regression task, targets >= 0.
    l2, intercept, l1, penalty
        As in `LinearModel`.
    theta : float
        > 0, as in R's MASS; statsmodels' alpha is 1 / theta.
    """

    name = "negative_binomial"

    def __init__(
        self,
        dataset: Dataset,
        l2: NonNegativeFloat = 0.01,
        intercept: Intercept = "auto",
        l1: NonNegativeFloat = 0.0,
        penalty: Factors = None,
        theta: PositiveFloat = 1.0,
    ) -> None:
        self.theta = theta
        self.terms = partial(NegativeBinomialTerms, theta=theta)
        super().__init__(dataset, l2, intercept, l1, penalty)

    def _scale(self, y: Tensor) -> Tensor:
        return y / (1 + y / self.theta)

    def largest_curvatures(self) -> Tensor:
        """Return (y + theta) / 4 / n, at mu = theta."""
        return averaged(self._targets + self.theta, self.sample_weight, 0.25)
