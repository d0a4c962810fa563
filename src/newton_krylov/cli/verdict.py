"""Carries out a verdict: tunes a portfolio of methods, races them, and measures the problem."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from newton_krylov.cli.compose import plain_values
from newton_krylov.cli.trust import may_vary
from newton_krylov.errors import ConfigError, UserError, suggest
from newton_krylov.registry import import_plugins
from newton_krylov.report.panel import seconds_text
from newton_krylov.report.records import read_record
from newton_krylov.report.tables import count_text
from newton_krylov.report.verdict import PlannedRun
from newton_krylov.runs.parts import register_parts
from newton_krylov.runs.portfolio import Portfolio
from newton_krylov.runs.verdict import Question, measure, question_of
from newton_krylov.terminal import console

_CONFIG = "config"
_AUTO = "auto"


@dataclass
class VerdictCommand:
    """What the runs of a verdict have in common.

    Attributes
    ----------
    overrides : sequence of str
        Those of the command.
    run_one : callable
        Runs what some overrides compose, as a sweep's member.
    portfolio : Portfolio
        The methods and what each may try.
    question : Question
        What is asked.
    folder : Path
        Of the race.
    seconds : float or None
        The optimizer's time that a run has.
    epochs : int or None
        Its steps, a mini-batch method's epochs; one of the two limits is set, or both.
    """

    overrides: Sequence[str]
    run_one: Callable[[list[str]], object]
    portfolio: Portfolio
    question: Question
    folder: Path
    seconds: float | None
    epochs: int | None
    _took: dict[str, list[float]] = field(default_factory=dict)
    _todo: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, loader: Any, command: Any, run_one: Callable[[list[str]], object]
    ) -> "VerdictCommand":
        """Read the command, and what its data set asks for.

        Parameters
        ----------
        loader : ConfigLoader
            Ours.
        command : Command
            The command, composed; its configuration has a `verdict` node.
        run_one : callable
            Runs what some overrides compose, as a sweep's member.

        Returns
        -------
        VerdictCommand
            Nothing of it has run.

        Raises
        ------
        UserError
            For a mistake in the configuration or the data.
        """
        register_parts()
        import_plugins()
        config, given = command.config, list(command.config.hydra.overrides.task)
        if config.stop.seconds is None and config.stop.epochs is None:
            raise ConfigError(
                "A verdict gives every method the same time: set stop.seconds, for example to 10 "
                "(or stop.epochs, for mini-batch methods on a machine that has other work)."
            )
        plain = plain_values(config)
        node = plain.pop("verdict")
        chosen = any(line.lstrip("+").startswith("loss=") for line in given)
        question = question_of(plain, loss_chosen=chosen)
        overrides = list(command.overrides)
        if not chosen:
            overrides.append(f"loss={question.loss}")
        if node.get("name") == _AUTO:
            overrides.append(f"verdict={question.portfolio}")
            from hydra.types import RunMode

            composed = loader.load_configuration(_CONFIG, overrides, RunMode.MULTIRUN)
            node = plain_values(composed)["verdict"]
        portfolio = Portfolio.of(node)
        where = [s for s in config.hydra.overrides.hydra if s.startswith("hydra.searchpath=")]
        known = loader.get_group_options("method", overrides=where)
        for method in portfolio.methods:
            if method.name not in known:
                wrong = f"verdict.methods: method={method.name} is unknown"
                raise ConfigError(f"{wrong}{suggest(method.name, known)}")
        for line in portfolio.overrides:
            if not may_vary(line):
                raise ConfigError(f"verdict.methods: {line} is no setting of a method.")
        return cls(
            overrides,
            run_one,
            portfolio,
            question,
            command.folder,
            config.stop.seconds,
            config.stop.epochs,
        )

    def judge(self) -> None:
        """Run the stages one after the other, in the folder of the sweep."""
        out = console()
        self.announce(out.print)
        tuning = self.portfolio.tuning()
        self.portfolio.write(self.folder, tuning)
        most = {m.name: self.portfolio.most_runs_of(m) for m in self.portfolio.methods}
        self.run(tuning, Counter(most))
        judged = self.portfolio.judged(self.folder)
        self.portfolio.write(self.folder, [*tuning, *judged])
        self.run(judged, Counter(run.method for run in judged))
        out.print(
            "measuring the problem: spectrum, cost of a product, gradient noise", highlight=False
        )
        try:
            measure(self.folder, self.portfolio.measuring)
        except UserError as error:
            out.print(f"The problem could not be measured: {error}", markup=False, highlight=False)

    @property
    def always(self) -> dict[str, Sequence[str]]:
        """What holds for all runs of a method."""
        return {method.name: method.overrides for method in self.portfolio.methods}

    def announce(self, show: Callable[..., None]) -> None:
        """Say beforehand what will be run, and how long it may take."""
        portfolio = self.portfolio
        methods = ", ".join(method.name for method in portfolio.methods)
        who = "its default and its best setting run" if portfolio.untuned else "its best one runs"
        for line in (
            f"verdict on {self.question.dataset} ({self.question.loss}): {methods}",
            f"each method tries up to {count_text(portfolio.trials, 'setting')}, then {who} with "
            f"{count_text(portfolio.seeds, 'fresh seed')}",
            f"at most {portfolio.most_runs} runs of {self._budget}",
            *filter(None, [self.question.intercept]),
        ):
            show(line, markup=False, highlight=False, soft_wrap=True)

    @property
    def _budget(self) -> str:
        """Say what each run has, and what that makes of them all."""
        if self.seconds is None:
            return count_text(self.epochs or 0, "epoch")
        at_most = "" if self.epochs is None else f"at most {count_text(self.epochs, 'epoch')} and "
        return f"{at_most}{seconds_text(self.seconds)} of the optimizer's time: {self._most}"

    @property
    def _most(self) -> str:
        """Say how much of the optimizer's time all of it takes at most."""
        most = seconds_text(self.portfolio.most_runs * (self.seconds or math.nan))
        return f"at most {most} of it in all; with evaluation and records it takes longer"

    def run(self, runs: Sequence[PlannedRun], todo: Counter[str]) -> None:
        """Run what is planned, method by method; `todo` counts each method's runs ahead."""
        self._todo = todo
        for method in dict.fromkeys(run.method for run in runs):
            mine = [run for run in runs if run.method == method]
            stage = "tuning" if mine[0].stage == "tuning" else "race"
            self._say(f"{method}: {stage}, {count_text(len(mine), 'run')}{self._left}")
            for run in mine:
                before = read_record(self.folder / run.folder).status == "finished"
                first = not (before or self._took)
                started = time.monotonic()
                self._one(run)
                self._todo[method] -= 1
                if not before:
                    self._took.setdefault(method, []).append(time.monotonic() - started)
                if first:
                    self._say(f"by the first run{self._left}")

    @property
    def _left(self) -> str:
        """Say how long the runs ahead will take, evaluation included, by those that have ended."""
        known = [seconds for each in self._took.values() for seconds in each]
        if not known:
            return ""
        left = sum(runs * median(self._took.get(name, known)) for name, runs in self._todo.items())
        return f": about {seconds_text(left)} left, with evaluation and records"

    def _say(self, text: str) -> None:
        console().print(text, markup=False, highlight=False, soft_wrap=True)

    def _one(self, run: PlannedRun) -> None:
        self.run_one(
            [
                *self.overrides,
                f"hydra.sweep.subdir={run.folder}",
                f"method={run.method}",
                f"seed={run.seed}",
                *self.always[run.method],
                *run.setting,
            ]
        )
