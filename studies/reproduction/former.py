"""Commands that made kept runs, as one types them today."""

import shlex
from collections import Counter
from collections.abc import Mapping

from newton_krylov.errors import rewritten

_RACE = (
    "python run.py experiment=time_to_accuracy dataset.limit=3000 dataset.test_limit=2000 "
    "'model.channels=[8,16]' model.hidden=64"
)
_RIVALS = ("sgd", "sgd_nesterov", "adam", "adamw", "schedule_free_adamw", "muon", "shampoo")
_RACED = (*_RIVALS, "soap", "kfac", "ekfac")
_EARLIER = ("kfac_512", "newton_network", "gauss_newton_samples", "sophia")
_EVERY = (*_RACED, *_EARLIER, "adahessian", "layerwise_gauss_newton")


def _race(options: str, methods: tuple[str, ...] = _EVERY, then: str = "") -> str:
    """Return the command of a race of some methods."""
    others = (f"verdict.methods.{other}=null" for other in _EVERY if other not in methods)
    return " ".join(filter(None, (_RACE, options, *others, then)))


_BEFORE = "device.threads=1 verdict.trials=4 verdict.seeds=3"
_FORMER: Mapping[str, str] = {
    "python run.py experiment=time_to_accuracy stop.seconds=190": (
        "python run.py -m experiment=paper_nonconvex method=newton_network,sgd,adam seed=0,1,2 "
        "schedule=constant schedule.epochs=1 stop.epochs=null stop.seconds=190 "
        "name=time_to_accuracy"
    ),
    _race(_BEFORE): _race(_BEFORE, _EARLIER),
}
"""Commands whose experiment is another one today, to what does the same."""

_PIECES = frozenset(
    {
        _race("clock=processor"),
        _race("clock=processor", (*_RIVALS, "soap", "kfac")),
        _race("clock=processor", ("ekfac",)),
        _race("clock=processor", ("ekfac",), "verdict.trials=2"),
        _race("clock=processor", ("kfac",), "verdict.trials=2"),
        _race("clock=processor", ("soap",), "verdict.trials=4"),
    }
)
"""Commands that made one race together, while methods and settings were added to it."""

_WHOLE = _race("clock=processor verdict.trials=7", _RACED)


def todays(commands: Mapping[str, int]) -> Counter[str]:
    """Return the commands that do the same today, and how many runs each makes.

    Parameters
    ----------
    commands : mapping
        Commands of any time to the number of their runs.
    """
    joined = dict.fromkeys(_PIECES, _WHOLE) if commands.keys() >= _PIECES else {}
    made: Counter[str] = Counter()
    for command, count in commands.items():
        now = joined.get(command) or _FORMER.get(command, command)
        made[shlex.join(map(rewritten, shlex.split(now)))] += count
    return made
