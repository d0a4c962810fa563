from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from run_folders import rows, write_run

from newton_krylov.report.figures import draw_profiles
from newton_krylov.report.profiles import Profile, _ratios, profiles
from newton_krylov.report.records import read_records
from newton_krylov.report.study import Study, studies


def four_problems(folder: Path) -> list[Study]:
    """Write the seconds a step of A and B, each of which takes one step, on four problems."""
    seconds = {"A": [1.0, 1.0, 4.0, 1.0], "B": [2.0, 3.0, 1.0, None]}
    for label, each in seconds.items():
        for i, step in enumerate(each):
            trace = rows([1.0, 1e-13 if step else 0.5], step_seconds=step or 1.0)
            write_run(folder / f"{label}{i}", trace, label=label, n_features=10 + i)
    return studies(read_records([folder]))


def by_seconds(groups: list[Study], target: str = "1e-6") -> Profile:
    (found,) = (p for p in profiles(groups) if (p.target, p.cost) == (target, "seconds"))
    return found


def test_known_times_give_the_known_profile(tmp_path: Path) -> None:
    profile = by_seconds(four_problems(tmp_path))
    np.testing.assert_allclose(profile.ratios["A"], [1, 1, 1, 4])
    np.testing.assert_allclose(profile.ratios["B"], [1, 2, 3])
    assert (profile.problems, profile.unsolved, profile.largest) == (4, 0, 4)
    assert [profile.share("A", ratio) for ratio in (1, 3.9, 4)] == [0.75, 0.75, 1.0]
    assert [profile.share("B", ratio) for ratio in (1, 2, 3, 1e9)] == [0.25, 0.5, 0.75, 0.75]


def test_steps_are_compared_too(tmp_path: Path) -> None:
    (profile,) = (
        p for p in profiles(four_problems(tmp_path)) if (p.target, p.cost) == ("1e-6", "iteration")
    )
    assert profile.share("A", 1) == 1.0 and profile.share("B", 1) == 0.75


def test_a_problem_that_nobody_solves_counts_against_everybody(tmp_path: Path) -> None:
    four_problems(tmp_path)
    for label in "AB":
        write_run(tmp_path / f"{label}9", rows([1.0, 0.9]), label=label, n_features=99)
    profile = by_seconds(studies(read_records([tmp_path])))
    assert (profile.problems, profile.unsolved) == (5, 1)
    assert profile.share("A", np.inf) == 0.8


def test_a_method_that_was_not_run_everywhere_says_so(tmp_path: Path) -> None:
    four_problems(tmp_path)
    for i in range(2):
        write_run(tmp_path / f"C{i}", rows([1.0, 1e-13]), label="C", n_features=10 + i)
    write_run(tmp_path / "D", rows([1.0, 1e-13]), label="D", n_features=10)
    profile = by_seconds(studies(read_records([tmp_path])))
    assert profile.not_run == {"C": 2}
    assert set(profile.ratios) == {"A", "B", "C"}  # D has nothing to be compared over


def test_one_problem_or_one_method_has_no_profile(tmp_path: Path) -> None:
    write_run(tmp_path / "0", rows([1.0, 1e-13]), label="A")
    write_run(tmp_path / "1", rows([1.0, 1e-13]), label="B")
    assert profiles(studies(read_records([tmp_path]))) == []
    assert draw_profiles([], [], tmp_path) == []


def test_profiles_are_drawn_a_panel_a_target(tmp_path: Path) -> None:
    groups = four_problems(tmp_path / "runs")
    (file,) = draw_profiles(profiles(groups), groups[0].family, tmp_path, formats=("svg",))
    assert file.read_text().count('<g id="axes_') == 4


times = st.lists(st.one_of(st.just(np.inf), st.floats(1e-9, 1e9)), min_size=3, max_size=3)


@given(a=times, b=times)
def test_ratios_are_at_least_one_and_somebody_is_the_best(a: list[float], b: list[float]) -> None:
    best = np.minimum(a, b)
    ratios = [_ratios(np.array(each), best) for each in (a, b)]
    for each, costs in zip(ratios, (a, b), strict=True):
        assert len(each) == np.isfinite(costs).sum()
        assert np.all(each >= 1) and np.all(np.diff(each) >= 0)
    firsts = sum(int(np.sum(each == 1)) for each in ratios)
    assert firsts >= np.isfinite(best).sum()
