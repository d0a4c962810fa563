import gzip
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from command import ROOT
from run_folders import rows, write_run
from study_runs import DEFAULTS, Methods, convex_study, growing_study

from newton_krylov.errors import DataError
from newton_krylov.report.records import RunRecord, read_records
from studies.reproduction.__main__ import main
from studies.reproduction.generate import PAGE, assemble, generate
from studies.reproduction.kept import thinned
from studies.reproduction.origin import origin
from studies.reproduction.page import Verdict


def verdicts(page: str) -> dict[str, str]:
    lines = [line.split(" | ") for line in page.splitlines() if line.endswith("** |")]
    return {quote: verdict.removesuffix(" |").strip("*") for _, quote, verdict in lines}


def verdict_on(page: str, beginning: str) -> str:
    (found,) = (v for quote, v in verdicts(page).items() if beginning in quote)
    return found


def test_the_page_holds_the_records_numbers_and_verdicts(tmp_path: Path) -> None:
    page = generate([convex_study(tmp_path / "study")], tmp_path / "docs").read_text()
    assert verdict_on(page, "wall-clock times") == Verdict.HOLDS
    assert verdict_on(page, "similar decreasing trend") == Verdict.HOLDS
    assert verdict_on(page, "slightly steeper") == Verdict.HOLDS
    assert verdict_on(page, "similar training accuracies") == Verdict.HOLDS
    assert verdict_on(page, "difference in time") == Verdict.QUALIFIED
    assert verdict_on(page, "¼ X Xᵀ") == Verdict.FAILS
    assert "4 epochs take exact Newton 84 ms, GMRES 21 ms and CR 16.8 ms" in page
    assert "exact Newton takes 4.0 and 5.0 times as long." in page
    assert "GMRES has 2.00 times and CR 3.00 times" in page
    # lambda_max = 1 / 0.5 = 2; without the 1/n: (2 - 0.01) 1000 + 0.01
    assert "by Lanczos, is 2.0000" in page and "is 1,990." in page
    assert "**Does not hold.**" in page
    assert "python run.py experiment=paper_convex    # 7 runs" in page


SLOW_KRYLOV = {"Newton-GMRES": (DEFAULTS["Newton-GMRES"][0], 0.03)}
STALLED = {"Newton-CR": ([1.0, 0.5, 0.4, 0.3, 0.2], 0.004)}
BETTER = {"Newton-GMRES": ([1.0, 1e-2, 1e-4, 1e-8, 1e-14], 0.005)}


@pytest.mark.parametrize(
    ("changed", "claim", "verdict"),
    [
        (SLOW_KRYLOV, "wall-clock times", Verdict.FAILS),
        (SLOW_KRYLOV, "difference in time", Verdict.FAILS),
        (STALLED, "similar decreasing trend", Verdict.FAILS),
        (BETTER, "slightly steeper", Verdict.FAILS),
        (
            {"Newton-GMRES": (DEFAULTS["Newton-GMRES"][0], 0.0195)},
            "wall-clock times",
            Verdict.QUALIFIED,
        ),
    ],
)
def test_other_numbers_turn_the_verdicts(
    tmp_path: Path, changed: Methods, claim: str, verdict: Verdict
) -> None:
    study = convex_study(tmp_path / "study", changed)
    assert verdict_on(generate([study], tmp_path / "docs").read_text(), claim) == verdict


def test_growth_is_judged_by_the_fitted_exponents(tmp_path: Path) -> None:
    cubic = growing_study(tmp_path / "cubic", lambda d: (d / 1e3) ** 3)
    page = generate([cubic], tmp_path / "a").read_text()
    assert verdict_on(page, "O(m n²)") == Verdict.QUALIFIED
    assert "exact Newton 3.00, Krylov methods up to 1.00" in page
    assert "1.0 at d = 100, 100.0 at d = 1,000, 10,000.0 at d = 10,000" in page
    flat = growing_study(tmp_path / "flat", lambda d: 1.0)
    page = generate([flat], tmp_path / "b").read_text()
    assert verdict_on(page, "O(m n²)") == Verdict.FAILS


def test_every_figure_of_the_page_is_there_and_no_path_of_this_machine(tmp_path: Path) -> None:
    page = generate([convex_study(tmp_path / "study")], tmp_path / "docs")
    text = page.read_text()
    named = [part.partition(")")[0] for part in text.split("](")[1:]]
    assert len(named) == 4
    assert all((page.parent / name).stat().st_size > 5000 for name in named)
    assert str(tmp_path) not in text


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    study = convex_study(tmp_path / "study")
    first, second = (generate([study], tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_a_section_without_runs_stays_as_it_was(tmp_path: Path) -> None:
    convex, growth = convex_study(tmp_path / "convex"), growing_study(tmp_path / "growth", float)
    together = generate([convex, growth], tmp_path / "a").read_bytes()
    generate([convex], tmp_path / "b")
    assert generate([growth], tmp_path / "b").read_bytes() == together


def test_the_projects_page_is_what_its_sections_say(tmp_path: Path) -> None:
    assembled = assemble(tmp_path, ROOT / "studies" / "reproduction" / "sections")
    assert assembled.read_text() == (ROOT / "docs" / "reproduction.md").read_text()


@pytest.mark.slow
def test_the_projects_page_is_what_its_records_say(tmp_path: Path) -> None:
    """Anyone can check it: the records of all claims are kept, and give the page again."""
    studies = ROOT / "studies"
    race = studies / "race" / "time_to_accuracy.jsonl.gz"
    page = generate([studies / "reproduction" / "runs", race], tmp_path).read_text()
    assert page == (ROOT / "docs" / "reproduction.md").read_text()


def test_kept_runs_make_the_same_page_and_tell_nothing_of_the_machine(tmp_path: Path) -> None:
    study = convex_study(tmp_path / "study")
    for folder in study.iterdir():
        command = ["/usr/bin/python", "/home/me/run.py", "experiment=paper_convex", "repeat=0,1"]
        recorded = {
            "command": [*command, f"hydra.sweep.dir={tmp_path}"],
            "hostname": "my-machine",
        }
        (folder / "environment.json").write_text(json.dumps(recorded))
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(f"{config}data_dir: {tmp_path}\n")
    kept, docs = tmp_path / "kept", tmp_path / "docs"
    assert main([str(study), "--out", str(docs), "--keep", str(kept)]) == 0
    again = generate([kept], tmp_path / "again").read_text()
    assert sorted(again.splitlines()) == sorted((docs / PAGE).read_text().splitlines())
    assert main([str(kept), "--out", str(docs), "--keep", str(kept)]) == 0  # onto themselves
    (file,) = kept.iterdir()
    texts = gzip.decompress(file.read_bytes()).decode()
    assert len(texts.splitlines()) == 7
    assert not any(word in texts for word in (str(tmp_path), "my-machine", "/home", "/usr"))


def test_a_run_with_faults_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = convex_study(tmp_path / "study")
    (study / "gd" / "summary.json").write_text("{")
    assert main([str(study), "--out", str(tmp_path / "docs"), "--keep", str(tmp_path / "k")]) == 2
    assert "cannot be kept" in capsys.readouterr().err
    assert not (tmp_path / "k").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"title": "", "text": [], "claims": [{}]}'])
def test_a_damaged_section_is_one_sentence(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs" / "sections").mkdir(parents=True)
    (tmp_path / "docs" / "sections" / "sns.json").write_text(text)
    study = convex_study(tmp_path / "study")
    assert main([str(study), "--out", str(tmp_path / "docs")]) == 2
    reported = capsys.readouterr().err
    assert "sns.json is not a section of the page" in reported
    assert "Traceback" not in reported


def test_a_study_that_lacks_a_method_is_an_error(tmp_path: Path) -> None:
    for folder in convex_study(tmp_path / "study").glob("Newton-CR-*"):
        (folder / "config.yaml").write_text("name: elsewhere\n")
    with pytest.raises(DataError, match="paper_convex lack the method 'Newton-CR'"):
        generate([tmp_path], tmp_path / "docs")


def test_each_section_tells_the_commands_of_its_runs(tmp_path: Path) -> None:
    study = convex_study(tmp_path / "study")
    command = ["/usr/bin/python", "/home/me/run.py", "experiment=paper_convex", "repeat=0,1"]
    for folder in study.iterdir():
        recorded = [*command, f"hydra.sweep.dir={tmp_path}", "tracking=none"]
        (folder / "environment.json").write_text(json.dumps({"command": recorded}))
    page = generate([study], tmp_path / "docs").read_text()
    section = page.partition("## The convex case")[2]
    assert section.split("```")[1].strip() == (
        "python run.py experiment=paper_convex repeat=0,1    # 7 runs"
    )


@pytest.mark.parametrize("dataset", ["a9a", "w8a"])
def test_kept_runs_are_said_to_be_of_the_experiments_that_make_them_today(dataset: str) -> None:
    """Ye and Zhang's grid and its rivals were one sweep; the counts are those of two today."""
    kept = read_records([ROOT / "studies" / "reproduction" / "runs" / "ye_zhang_2017.jsonl.gz"])
    runs = {"ye_zhang_2017": [r for r in kept if r.settings["dataset.name"] == dataset]}
    made = {}
    for name in ("ye_zhang_2017_grid", "ye_zhang_2017"):
        lines = yaml.safe_load((ROOT / "conf" / "experiment" / f"{name}.yaml").read_text())
        swept = {"seed": "0,1,2"} | lines["hydra"]["sweeper"]["params"]
        words = ["python", "run.py", f"experiment={name}"]
        words += [f"dataset={dataset}"] if dataset != "a9a" else []
        made[" ".join(words)] = math.prod(str(each).count(",") + 1 for each in swept.values())
    assert origin(runs).commands == made


def swept(experiment: str) -> dict[str, str]:
    """What an experiment and those that it is made of sweep over; the verdict that it asks for."""
    lines = yaml.safe_load((ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text())
    found: dict[str, str] = {}
    for default in lines.get("defaults", ()):
        if isinstance(default, str) and "/" not in default and default != "_self_":
            found |= swept(default)
        elif isinstance(default, dict) and "override /verdict" in default:
            found["verdict"] = default["override /verdict"]
    return found | lines.get("hydra", {}).get("sweeper", {}).get("params", {})


def runs_today(command: str) -> int:
    """How many runs a command makes: of a sweep, or of a race of tuned methods."""
    given = dict(word.split("=", 1) for word in shlex.split(command) if "=" in word)
    parameters = swept(given.pop("experiment"))
    if name := parameters.pop("verdict", None):
        race = yaml.safe_load((ROOT / "conf" / "verdict" / f"{name}.yaml").read_text())
        trials, seeds = (int(given.get(f"verdict.{k}", race[k])) for k in ("trials", "seeds"))
        raced = [m for name, m in race["methods"].items() if f"verdict.methods.{name}" not in given]
        assert not race["untuned"]
        return sum(min(1 + len(method["settings"]), trials) + seeds for method in raced)
    lists = {key: value for key, value in given.items() if not value.startswith("[")}
    return math.prod(str(value).count(",") + 1 for value in {**parameters, **lists}.values())


def test_every_command_of_the_page_makes_as_many_runs_as_it_says() -> None:
    commands = (ROOT / "docs" / "reproduction.md").read_text().rpartition("## Commands")[2]
    lines = commands.split("```")[1].strip().splitlines()
    said = [re.fullmatch(r"(.+)    # (\d+) runs?", line).groups() for line in lines]
    assert [(command, int(count)) for command, count in said] == [
        (command, runs_today(command)) for command, _ in said
    ]


def test_a_run_that_was_made_again_is_counted_once(tmp_path: Path) -> None:
    study, again = (convex_study(tmp_path / name) for name in ("study", "again"))
    for folder in (*study.iterdir(), *again.iterdir()):
        command = ["python", "run.py", "experiment=paper_convex"]
        (folder / "environment.json").write_text(json.dumps({"command": command}))
    page = generate([study, again], tmp_path / "docs").read_text()
    assert "experiment=paper_convex    # 7 runs" in page


def test_runs_of_no_study_are_an_error(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "0", rows([1.0]))
    with pytest.raises(DataError, match="None of these runs"):
        generate([folder], tmp_path / "docs")
    assert main([str(folder), "--out", str(tmp_path / "docs")]) == 2


def test_a_long_trace_is_thinned_out_without_changing_what_targets_cost() -> None:
    gaps = np.geomspace(1.0, 1e-15, 20_000)
    whole = rows(list(gaps), step_seconds=1e-3)
    kept = thinned(whole)
    assert len(kept) < 1000 and kept[0] == whole[0] and kept[-1] == whole[-1]
    records = [RunRecord(Path(), each) for each in (whole, kept)]
    for power in range(-15, 1):
        costs = [record.seconds_to(10.0**power) for record in records]
        assert costs[0] == costs[1]
    assert thinned(whole[:100]) == whole[:100]
