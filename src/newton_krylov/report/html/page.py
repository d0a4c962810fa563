"""Writes the page: a template, a style sheet, a script, Plotly's own script, and the data."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from newton_krylov.records.trace import COLUMNS
from newton_krylov.report.context import commands, differences_table, environments_table
from newton_krylov.report.figures import shared_styles, study_styles
from newton_krylov.report.folds import cross_validations
from newton_krylov.report.html.data import (
    plain_style,
    profiles_data,
    scaling_data,
    shown_quantities,
    study_data,
)
from newton_krylov.report.panel import cost_name, shown_costs
from newton_krylov.report.profiles import PROFILE_COSTS, Profile, profiles
from newton_krylov.report.records import RunRecord
from newton_krylov.report.results import (
    caution_text,
    endings_table,
    entry_text,
    failures,
    fastest_text,
    target_text,
    times,
    times_words,
)
from newton_krylov.report.scaling import Scaling, scaling
from newton_krylov.report.study import Entry, Study, power_text
from newton_krylov.report.style import LineStyle
from newton_krylov.report.tables import Preface, Table, count_text, number_text

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(
    groups: Sequence[Study],
    preface: Preface | None = None,
    fields: Sequence[bytes | None] | None = None,
) -> str:
    """Write a comparison as one HTML document, which loads nothing and needs no network.

    What labels, settings and reasons say is text and stays text: the template escapes it, the
    data are JSON without a `<`, and a content security policy lets the browser run the two
    scripts of this package and Plotly alone, and connect nowhere.

    Parameters
    ----------
    groups : sequence of Study
        Studies of any problems; at least one.
    preface : Preface, optional
        An answer that stands above everything else.
    fields : sequence of bytes or None, optional
        For each study a PNG picture of its solutions, where it is of an equation.

    Returns
    -------
    str
        HTML.
    """
    made = profiles(groups)
    labels = dict.fromkeys(label for profile in made for label in profile.ratios)
    styles = shared_styles(labels, groups[0].family)
    growth = scaling(groups)
    growing = {} if growth is None else shared_styles(growth.seconds, groups[0].family)
    data = {
        "studies": [study_data(study) for study in groups],
        "profiles": profiles_data(made, styles) if made else None,
        "scaling": scaling_data(growth, growing) if growth else None,
    }
    scripts = [_plotly(), _file("report.js")]
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            policy=_policy(scripts),
            style=_file("report.css"),
            scripts=scripts,
            data=data,
            title=_title(groups),
            preface=preface,
            answer=_halves(preface.paragraph) if preface is not None else None,
            answers=preface.table() if preface is not None else None,
            cards=_cards(groups),
            studies=[
                _study_view(*each)
                for each in zip(_names(groups), groups, fields or [None] * len(groups), strict=True)
            ],
            wrong=[(s.problem.title, *line) for s in groups for line in failures(s)],
            profiles=_profiles_view(made, styles) if made else None,
            growth=_growth_view(growth, growing) if growth else None,
            validations=cross_validations(groups),
            settings=differences_table(groups),
            environments=environments_table(groups),
            commands=list(commands(r for study in groups for r in study.records).items()),
            runs=_runs_table(groups),
        )
    )


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FunctionLoader

    made = Environment(
        loader=FunctionLoader(_file), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made.filters["swatch"] = _swatch
    return made


@cache
def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """Return Plotly's script, which its Python package carries."""
    file = resources.files("plotly").joinpath("package_data/plotly.min.js")
    return file.read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    """Return a content security policy under which no other script than these runs."""
    sources = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- views: what the template shows ---------------------------------------------------------


def _title(groups: Sequence[Study]) -> str:
    records = [record for study in groups for record in study.records]
    names = ", ".join(dict.fromkeys(record.study for record in records if record.study))
    return f"{names or 'Runs'}: {count_text(len(records), 'run')} compared"


def _halves(paragraph: str) -> tuple[str, str]:
    """Split an answer after what it says of the hardest target, which is shown the largest."""
    first, mark, rest = paragraph.partition("; ")
    return f"{first}{'.' if mark else ''}", rest[:1].upper() + rest[1:]


def _cards(groups: Sequence[Study]) -> list[dict[str, Any]]:
    """Return the numbers at the head of the page."""
    records = [record for study in groups for record in study.records]
    labels = {entry.label for study in groups for entry in study.entries}
    failed = sum(record.failed for record in records)
    return [
        _card("run", len(records)),
        _card("method", len(labels)),
        _card("problem", len(groups)),
        {"name": "failed or unfinished", "value": number_text(failed), "bad": failed > 0},
    ]


def _card(noun: str, count: int) -> dict[str, Any]:
    value, name = count_text(count, noun).split()
    return {"name": name, "value": value}


def _names(groups: Sequence[Study]) -> list[str]:
    """Return a short name for each problem: of the data, and of the size where that is not one."""
    names = [study.problem.dataset for study in groups]
    return [
        name if names.count(name) == 1 else f"{name}, d = {study.problem.n_features:,}"
        for name, study in zip(names, groups, strict=True)
    ]


def _study_view(name: str, study: Study, fields: bytes | None) -> dict[str, Any]:
    styles = study_styles(study)
    chips = [_chip(i, entry, styles.get(entry.label)) for i, entry in enumerate(study.entries)]
    ranked = replace(study, entries=study.ranked)
    order = [study.entries.index(entry) for entry in ranked.entries]
    found = times(ranked)
    rows = [(chips[i], [each[k] for each in found.values()]) for k, i in enumerate(order)]
    return {
        "name": name,
        "title": study.problem.title,
        "fastest": fastest_text(study),
        "caution": caution_text(study),
        "chips": [chip for chip in chips if not chip["crowd"]],
        "crowd": [chip for chip in chips if chip["crowd"]],
        "quantities": [(q.column, q.name) for q in shown_quantities(study)],
        "costs": [(x.column, cost_name(study, x)) for x in shown_costs(study)],
        "targets": [target_text(target) for target in found],
        "times": rows if found else [],
        "times_words": times_words(study),
        "endings": endings_table(ranked),
        "failed": [bool(entry.failures) for entry in ranked.entries],
        "fields": None if fields is None else base64.b64encode(fields).decode(),
    }


def _chip(index: int, entry: Entry, style: LineStyle | None) -> dict[str, Any]:
    return {
        "index": index,
        "label": entry.label,
        "note": entry_text(entry),
        "failed": bool(entry.failures),
        "style": style,
        **plain_style(style),
    }


def _profiles_view(made: Sequence[Profile], styles: Mapping[str, LineStyle]) -> dict[str, Any]:
    first = made[0]
    notes = [
        f"{label} was not run on {count} of the problems, which count as not solved by it."
        for label, count in first.not_run.items()
    ]
    return {
        "problems": count_text(first.problems, "problem"),
        "targets": list(dict.fromkeys((profile.target, profile.target) for profile in made)),
        "costs": [(cost, COLUMNS[cost].words) for cost in PROFILE_COSTS],
        "notes": notes,
        "chips": _plain_chips(styles),
    }


def _growth_view(growth: Scaling, styles: Mapping[str, LineStyle]) -> dict[str, Any]:
    target = power_text(growth.target)
    return {
        "title": growth.title,
        "target": target,
        "chips": _plain_chips(styles),
        "table": growth.table(),
    }


def _plain_chips(styles: Mapping[str, LineStyle]) -> list[dict[str, Any]]:
    return [
        {"index": i, "label": label, "note": "", "failed": False, "style": style}
        | plain_style(style)
        for i, (label, style) in enumerate(styles.items())
    ]


def _runs_table(groups: Sequence[Study]) -> Table:
    several = len(groups) > 1
    heads = ["Method", *(["Problem"] if several else []), "Seed", "Repeat", "Status", "Ending"]
    heads += ["Steps", "Loss", "Seconds", "Where"]
    rows = [
        [
            entry.label,
            *([study.problem.title] if several else []),
            *_run_cells(record),
        ]
        for study in groups
        for entry in study.entries
        for record in entry.records
    ]
    return Table("All runs", heads, rows)


def _run_cells(record: RunRecord) -> list[str]:
    last = record.rows[-1] if record.rows else None
    return [
        str(record.settings.get("seed", "–")),
        str(record.settings.get("repeat", "–")),
        record.status,
        record.ending,
        "–" if last is None else str(last.iteration),
        "–" if last is None else number_text(last.loss, digits=10),
        "–" if last is None else number_text(last.seconds, digits=4),
        record.origin,
    ]


def _swatch(chip: Mapping[str, Any]) -> dict[str, str]:
    """Return what draws a method's line and marker in a legend, as figures have them."""
    style = chip["style"]
    dashes = {"solid": "none", "dash": "7 3", "dashdot": "7 3 2 3", "dot": "2 3"}
    path = "" if style is None else _marker_path(style.marker)
    return {"dash": dashes[chip["dash"]], "path": path}


@cache
def _marker_path(marker: str) -> str:
    """Return Matplotlib's marker as the path of an SVG picture, 10 wide."""
    from matplotlib.markers import MarkerStyle
    from matplotlib.path import Path as Outline

    shape = MarkerStyle(marker)
    outline = shape.get_path().transformed(shape.get_transform())
    size = np.ptp(outline.vertices, axis=0).max()
    letters = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE4: "C"}
    parts = []
    for points, code in outline.iter_segments():
        if code == Outline.CLOSEPOLY:
            parts.append("Z")
            continue
        pairs = " ".join(
            f"{x * 10 / size:.2f},{-y * 10 / size:.2f}" for x, y in points.reshape(-1, 2)
        )
        parts.append(f"{letters[code]}{pairs}")
    return "".join(parts)
