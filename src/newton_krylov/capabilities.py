"""What parts need of one another and offer to one another, and the one place that checks it.

A part says at its registration what it needs and what it offers, in words that a message can show::

    @register("optimizer", "saga", needs=(LINEAR_MODEL, ALL_SAMPLES))

The words below are those of this package; a third party's parts may agree on words of their own. A
class says what it offers by an attribute `offers`, which its subclasses inherit.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from newton_krylov.errors import CombinationError, listed
from newton_krylov.registry import Entry, entry, groups, names

# Offered by data sets.
TABLE = "a table of features"
LABELLED = "samples with targets"
TRANSPORT = "a transport problem"
RESIDUALS = "residuals to be made small"
GENERATED = "data made by the program"
# Offered by losses.
SAMPLES = "a mean over samples"
LINEAR_MODEL = "a linear model"
SQUARE_ROOT = "a Hessian of the form X'DX"
SAMPLE_GRADIENTS = "the gradients of single samples"
LOG_LINK = "a mean that is the exponential of the output"
LIKELIHOOD = "a likelihood to draw targets from"
LAYERS = "a network's layers"
TRANSPORT_DUAL = "the dual of a transport problem"
SKLEARN_LOGISTIC = "the loss of scikit-learn's LogisticRegression"
LIBLINEAR_LOSS = "a loss of LIBLINEAR"
SUM_OF_SQUARES = "a sum of squares"
NORMAL_EQUATIONS = "a loss of squares, whose Newton systems are of least squares"
FUNCTION = "a function of its parameters alone"
# Offered by optimizers.
CORNERS = "a method for penalties with corners"
# Offered by curvatures.
SAMPLED_HESSIAN = "a Hessian that is a sum over samples"
LAYER_PRODUCTS = "products with a network's own matrix"
# Offered by devices.
ALL_SAMPLES = "all samples in one process"

PARAMETERS = {
    "solver": "solver",
    "curvature": "hessian_approx",
    "line_search": "line_search",
    "forcing": "forcing",
    "preconditioner": "preconditioner",
    "damping": "damping",
    "schedule": "schedule",
    "M": "preconditioner",
}
"""What a signature calls the part of a group that it takes."""

_MOST_CHOICES = 4


def uses(part: Entry) -> frozenset[str]:
    """Return the groups whose parts a part takes: as registered, else read from its signature."""
    if part.uses is not None:
        return part.uses
    return frozenset(group for name, group in PARAMETERS.items() if name in part.parts)


def used(chosen: Mapping[str, Entry]) -> dict[str, Entry]:
    """Return those of the chosen parts that the run will use.

    Parameters
    ----------
    chosen : mapping of str to Entry
        Group to part; with an optimizer.

    Returns
    -------
    dict of str to Entry
        Without the optimizer's parts that the optimizer, or the solver it uses, does not take.
    """
    return {group: part for group, part in chosen.items() if _dropped_by(group, chosen) is None}


def _dropped_by(group: str, chosen: Mapping[str, Entry]) -> str | None:
    """Return the group of the part that does not take the part of a group; None if it is used."""
    if group not in PARAMETERS.values() or "optimizer" not in chosen:
        return None
    taken = uses(chosen["optimizer"])
    if group not in taken:
        return "optimizer"
    solver_decides = group == "preconditioner" and "solver" in taken and "solver" in chosen
    return "solver" if solver_decides and group not in uses(chosen["solver"]) else None


def _dropper(
    group: str, chosen: Mapping[str, Entry], options: Mapping[str, Mapping[str, Any]]
) -> str | None:
    """Name the choice that leaves the part of a group unused; None if it is used."""
    if (dropper := _dropped_by(group, chosen)) is not None:
        return f"{dropper}={chosen[dropper].name}"
    if group not in PARAMETERS.values() or "optimizer" not in chosen:
        return None
    optimizer, given = chosen["optimizer"], options.get("optimizer", {})
    for key, groups_used in optimizer.uses_with.items():
        default = optimizer.parameters[key][1]
        if group in groups_used and given.get(key, default) == default:
            return f"optimizer={optimizer.name} with optimizer.{key}={_text(default)}"
    damping = chosen.get("damping")
    if group == "line_search" and damping is not None and "damping" in uses(optimizer):
        # Such a damping answers for a step's length alone (see `optimizers.damping.Damping`).
        return f"damping={damping.name}" if getattr(damping.target, "full_steps", False) else None
    return None


def idle(
    chosen: Mapping[str, Entry], options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Return the groups whose chosen parts the run will not use, and the keys that change nothing.

    Parameters
    ----------
    chosen : mapping of str to Entry
        Group to part; with an optimizer.
    options : mapping of str to mapping, optional
        Group to the part's checked keyword values, for what a parameter decides.

    Returns
    -------
    list of str
        Names of groups and dotted keys: runs that differ in these alone are the same run.
    """
    groups_unused = [g for g in chosen if _dropper(g, chosen, options or {}) is not None]
    keys = [f"{group}.{key}" for group, part in chosen.items() for key in part.idle]
    return sorted([*groups_unused, *keys])


def _text(value: Any) -> str:
    """Write a value as one types it."""
    return "null" if value is None else str(value)


def unused(
    chosen: Mapping[str, Entry],
    overrides: Iterable[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Say which explicit choices the run will not use, a sentence for each part that drops some.

    Parameters
    ----------
    chosen : mapping of str to Entry
        Group to part; with an optimizer.
    overrides : iterable of str
        What the user typed: `"solver=gmres"`, `"solver.restart=20"`.
    options : mapping of str to mapping, optional
        Group to the part's checked keyword values, for what a parameter decides.

    Returns
    -------
    list of str
        Sentences.
    """
    lines: dict[str, list[str]] = {}
    for line in overrides:
        key = line.lstrip("+~").partition("=")[0]
        group = key.partition(".")[0].partition("@")[0]
        if group not in chosen or chosen[group].name == "none":
            continue
        if (dropper := _dropper(group, chosen, options or {})) is not None:
            lines.setdefault(dropper, []).append(line.lstrip("+"))
    return [
        f"{dropper} does not use {listed(given, 'and')}: "
        f"{'this changes' if len(given) == 1 else 'these change'} nothing."
        for dropper, given in lines.items()
    ]


def refuse_unmet(
    chosen: Mapping[str, Entry], options: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Refuse parts that need what no other part of the run offers.

    Parameters
    ----------
    chosen : mapping of str to Entry
        Group to part.
    options : mapping of str to mapping, optional
        Group to the part's checked keyword values, for needs that depend on a parameter.

    Raises
    ------
    CombinationError
        For the first need that is not met, with what would meet it.
    """
    parts = used(chosen)
    for group, part in parts.items():
        given = (options or {}).get(group, {})
        for key, need in [(None, need) for need in part.needs] + _conditional(part, given):
            lacking = _lacking(need, parts)
            if lacking is not None:
                what = f"{group}={part.name}" if key is None else f"{group}.{key}={given[key]}"
                raise CombinationError(
                    f"{what} needs {need}, {_remedy(need, group, lacking, parts)}"
                )


def _conditional(part: Entry, given: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """Return the needs of parameters that have another value than their default."""
    return [
        (key, need)
        for key, needs in part.needs_with.items()
        if key in given and given[key] != part.parameters[key][1]
        for need in needs
    ]


def _lacking(need: str, parts: Mapping[str, Entry]) -> str | None:
    """Return the group whose chosen part should offer a need and does not; None if it is met.

    A part that declares nothing may offer anything: what it makes will be asked when it is there.
    The empty name stands for a need that no part in use could offer.
    """
    if any(part.offers and need in part.offers for part in parts.values()):
        return None
    offering = [group for group in groups() if group in parts and _offering(group, need)]
    if any(parts[group].offers is None for group in offering):
        return None
    return offering[0] if offering else ""


def _offering(group: str, need: str) -> list[str]:
    """Return the names of a group's parts that offer a need."""
    return [name for name in names(group) if need in (entry(group, name).offers or ())]


def _remedy(need: str, group: str, lacking: str, parts: Mapping[str, Entry]) -> str:
    if not lacking:
        return "which no part of this run offers."
    choices = _offering(lacking, need)
    shown = choices[:_MOST_CHOICES]
    more = [] if len(choices) <= _MOST_CHOICES else ["another"]
    text = f"{lacking}={listed([*shown, *more], 'or')}"
    if len(choices) == 1:
        text += "".join(f" with {line}" for line in _besides(entry(lacking, choices[0]), parts))
    other = "" if group == lacking else f", or another {group}"
    fitting = _fitting(group, parts[lacking]) if group == "loss" else []
    kept = ""
    if fitting:
        kept = f" With {lacking}={parts[lacking].name}, choose {group}={listed(fitting, 'or')}."
    return f"which {lacking}={parts[lacking].name} does not offer: choose {text}{other}.{kept}"


def _fitting(group: str, part: Entry) -> list[str]:
    """Return the few names of a group whose needs a part alone meets; none where they are many."""
    offered = {*(part.offers or ())}
    found = [
        name for name in names(group) if (needs := entry(group, name).needs) and {*needs} <= offered
    ]
    return found if len(found) <= _MOST_CHOICES else []


def _besides(part: Entry, parts: Mapping[str, Entry]) -> Iterable[str]:
    """Yield what else to choose with a part, where a single choice meets what it needs."""
    for need in part.needs:
        group = _lacking(need, parts)
        if group and len(_offering(group, need)) == 1:
            yield f"{group}={_offering(group, need)[0]}"
