"""The command line: mistakes in one sentence, help, completion, third parties' parts."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from command import CONF, QUICK, ROOT, command, environment

from newton_krylov.cli.choices import choices, groups
from newton_krylov.cli.compose import PLUGINS
from newton_krylov.cli.main import DONE, FAILED, MISTAKE, TERMINATED, hydra_at, main
from newton_krylov.errors import ConfigError

MISTAKES = [
    # what was typed, what the sentence says
    (["solver=crr"], r"solver=crr is unknown; did you mean 'cr'\? Choices: cg, cr, exact,"),
    (["dataset=a9b"], r"dataset=a9b is unknown; did you mean 'a\da'\? Choices: .*breast_cancer"),
    (["experiment=paper"], r"experiment=paper is unknown.* Choices: .*paper_convex"),
    (["solvr=cr"], "solvr is not a key of the configuration; did you mean 'solver'"),
    (["sed=1"], "sed is not a key of the configuration; did you mean 'seed'"),
    (["+sed=1"], "'sed' is not a key of the configuration; did you mean 'seed'"),
    (["solver.rtoll=1"], "solver.rtoll is not a key of solver; did you mean 'rtol'"),
    (["+solver.rtoll=1"], "solver.rtoll is not a parameter of solver=cg; did you mean 'rtol'"),
    (["solver=gmres", "solver.restrt=5"], "solver.restrt is not a key of solver.*'restart'"),
    (
        ["solver.restart=20"],
        r"solver\.restart is not a key of solver.*; solver=gcr and gmres have restart",
    ),
    (["+solver.restart=20"], "not a parameter of solver=cg.*; solver=gcr and gmres have restart"),
    (["line_search.step_size=1"], "step_size is not a key.*; line_search=fixed has step_size"),
    (["dataset=/tmp/mine.svm"], r"is a path, .*: write dataset\.path=/tmp/mine\.svm with .*libsvm"),
    (
        ["dataset=mine.csv"],
        r"write dataset\.path=mine\.csv with dataset=table, and dataset\.target=COLUMN",
    ),
    (
        ["model=/mine/nets.py"],
        r'is unknown; .* by @register\("model", "NAME"\) .* model=NAME is known with '
        r"NEWTON_KRYLOV_PLUGINS=nets PYTHONPATH=/mine set .*Choices: auto,",
    ),
    (["-m", "dataset=/mine/sets.py,a9a"], r'@register\("dataset", "NAME"\)'),
    (["method=/mine/ours.yaml"], r"--config-dir FOLDER method=ours with the file at FOLDER/method"),
    (["dataset=small/convectoin"], r"did you mean 'small/convection'\?"),
    (["-m", "method=pinn/adam_1e,adam"], r"Choices: pinn/adam_1e2"),
    (["-m", "dataset=mine.csv,a9a"], r"write dataset\.path=mine\.csv with dataset="),
    (["solver.rtol.x=1"], "solver.rtol.x|solver.rtol="),
    (["stop.epochs=-1"], "stop.epochs=-1 is not valid: it should be greater than or equal to 0"),
    (["stop.epochs=many"], "stop.epochs='many' is not valid: it should be a valid integer"),
    (["seed=1.5"], "seed=1.5 is not valid"),
    (["start=ones"], "start='ones' is not valid: it should be 'auto', 'zeros', 'uniform'"),
    (["dtype=float16"], "dtype='float16' is not valid: it should be .*'float64'"),
    (["stop=3"], "stop must be a group of keys, but is 3"),
    (["~solver"], "solver is missing"),
    (["stop.epochs=null", "stop.grad_norm=null"], "Nothing would stop the run: set a key of stop"),
    (["optimum=none", "stop.suboptimality=1e-6"], "needs a certified optimum"),
    (
        ["solver=["],
        r"'solver=\[' cannot be read: the bracket \[ is not closed; .*type 'solver=\"\[",
    ),
    (["-m", "solver=cg,"], r"a value is missing beside the comma: write solver=A,B\.$"),
    (["-m", "solver=cg,,cr"], r"a value is missing beside the comma: write solver=A,B\.$"),
    (["-m", "seed=range(1,"], r"the bracket \( is not closed"),
    (["dataset.drop=[a]]"], r"the bracket \] closes none"),
    (["dataset.path='a"], "the quotation mark ' is not closed"),
    (["dataset.target=price (€)"], r"""type 'dataset\.target="price \(€\)"'\.$"""),
    (["dataset.target=Größe"], r"""needs? quotation marks: type 'dataset\.target="Größe"'\.$"""),
    (
        ["dataset.target=a,b"],
        r"""write dataset\.target=\[a,b\] .*, 'dataset\.target="a,b"' for one""",
    ),
    (["loss.l2=0,01"], r"loss\.l2=0\.01 for a decimal number"),
    (["solver = cg"], r"has spaces around '=': type solver=cg\.$"),
    (["solver:cg"], r"has no '=': type solver=cg\.$"),
    (["solver"], r"'solver' has no value: write solver=VALUE\.$"),
    (["help"], r"or --help for an option"),
    (["=cg"], r"A key is missing before '='"),
    (["~"], r"A key is missing before '='"),
    (["~x"], r"x is not a key of the configuration"),
    (["+solver=cg"], r"solver is chosen already: write solver=NAME, without \+"),
    (["++solver=cg"], r"solver is chosen already: write solver=NAME, without \+"),
    (["solver=true"], r"solver=true is unknown\. Choices: cg"),
    (["–m"], r"en dash: type -m\.$"),
    (["–multirun"], r"en dash: type --multirun\.$"),
    (["solver=‘cg’"], r"type solver=cg, or, if it belongs to the value"),
    (["loss.l2=−1"], r"minus sign: type loss\.l2=-1"),
    (["loss.l2\u00a0=1"], r"no-break space: type loss\.l2=1"),
    (["'solver=cg'"], r"is quoted as a whole: type solver=cg\.$"),
    (["solver=cg solver=cr"], r"several overrides: put a space between them"),
    (["--solver=cg"], r"--solver=cg is no option: type solver=cg, without dashes"),
    (["hydra.run.dir=a,b"], r"hydra\.run\.dir=a,b gives several values: write "),
    (["label=a b=c"], "'label=a b=c' cannot be read"),
    (["solver=cr,cg"], "solver=cr,cg gives several values: add -m to sweep over them"),
    (["-m", "solver=cg", "seed=a,b"], "seed='a' is not valid: it should be a valid integer"),
    (["-m", "solver=cg,cr", "loss.l2=1,x"], "loss.l2='x' is not valid"),
    (["-m", "solver=cr,bogus"], "solver=bogus is unknown. Choices: cg"),
    (["-m", "solver.rtoll=1,2"], "solver.rtoll is not a key of solver; did you mean 'rtol'"),
    (["-m", "hydra/launcher=joblibb"], "hydra/launcher=joblibb is unknown.*'joblib'"),
    (["label=${nope}"], "The configuration cannot be resolved: .*nope"),
    (["label=${oc.env:NOT_SET_ANYWHERE}"], "cannot be resolved: .*NOT_SET_ANYWHERE"),
    (["--bogus"], "unrecognized arguments: --bogus. See python run.py --help"),
    (["--config-dir", "/no/such/folder"], "there is no folder /no/such/folder"),
    (["-cd", "/no/such/folder", "--cfg", "job"], "there is no folder /no/such/folder"),
    (["--config-dir"], "--config-dir: expected one argument. See python run.py --help"),
    (["--config-name", "mine"], "unrecognized arguments: --config-name mine. See python run.py"),
    (["--info", "nope"], "--info: invalid choice: 'nope' .*defaults-tree.* See python run.py"),
    (["-m", "--cfg", "job"], "Only one of --multirun, --cfg, --info"),
    (["--package", "solver"], "--package and --resolve are of --cfg"),
    (["resume=true"], "there is no earlier run of this command in .*outputs"),
    (["resume=maybe"], "resume='maybe' is not valid"),
    (["line_search=null"], "line_search=null chooses nothing. Choices: armijo"),
    (["-m", "line_search=null", "seed=0,1"], "line_search=null chooses nothing. Choices: armijo"),
    (["-m", "solver=gmres,cg", "solver.restart=5,6"], "solver.restart is not a key of solver"),
    (["hydra.run.dir=/dev/null/x"], "/dev/null/x cannot be written: Not a directory"),
    (["loss=multinomial"], "loss=multinomial needs more than two classes, but dataset=synthetic"),
    (["device=cuda", "device.index=99"], "device=cuda: torch finds no NVIDIA GPU|device.index=99"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEWTON_KRYLOV_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("NEWTON_KRYLOV_DATA", str(tmp_path / "data"))
    return tmp_path


def reported(capsys: pytest.CaptureFixture[str]) -> str:
    """What stderr got: one sentence, no traceback."""
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(("typed", "sentence"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_sentence_with_what_would_be_right(typed, sentence, capsys):
    quick = [] if any("dataset=" in line for line in typed) else list(QUICK)
    assert main(CONF, [*quick, "tracking=none", *typed]) == MISTAKE
    assert re.search(sentence, reported(capsys))


def test_explicit_choices_that_the_run_drops_are_told_in_one_sentence(capsys):
    typed = ["optimizer=sgd", "solver=gmres", "preconditioner=nystrom", "stop.epochs=1"]
    assert main(CONF, [*QUICK, "tracking=none", *typed]) == DONE
    assert capsys.readouterr().err == (
        "optimizer=sgd does not use solver=gmres and preconditioner=nystrom: these change "
        "nothing.\n"
    )


def test_an_interruption_that_comes_out_as_another_error_is_an_interruption(
    monkeypatch, folder, capsys
):
    def broken_off(*_):
        with contextlib.suppress(KeyboardInterrupt):  # as a library's clean-up may
            signal.raise_signal(signal.SIGTERM)
        raise ConfigError("The configuration cannot be composed: half of it is missing.")

    monkeypatch.setattr("newton_krylov.cli.main._multirun", broken_off)
    typed = [*QUICK, "tracking=none", "-m", "seed=0,1", "hydra.sweep.dir=here"]
    assert main(CONF, typed) == TERMINATED
    assert json.loads((folder / "here" / "sweep.json").read_text())["status"] == "killed"
    assert "cannot be composed" not in capsys.readouterr().err


def test_a_ctrl_c_after_all_has_been_written_changes_nothing(monkeypatch, capsys):
    @contextlib.contextmanager
    def late(folder):
        with hydra_at(folder) as found:
            yield found
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("newton_krylov.cli.main.hydra_at", late)
    assert main(CONF, [*QUICK, "tracking=none"]) == DONE
    assert capsys.readouterr().err == ""


def test_a_sweep_says_once_what_its_members_drop(capsys):
    typed = ["schedule=linear", "stop.epochs=1", "seed=0,1,2", "optimizer=newton,sgd"]
    assert main(CONF, [*QUICK, "tracking=none", "-m", *typed, "solver=gmres"]) == DONE
    assert capsys.readouterr().err == (
        "optimizer=newton with optimizer.batch_size=null does not use schedule=linear: this "
        "changes nothing.\n"
        "optimizer=sgd does not use solver=gmres: this changes nothing.\n"
    )


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["stop.seconds=null"], r"set stop\.seconds"),
        (["verdict.trials=0"], r"verdict\.trials=0 should be a whole number"),
        (["dataset=libsvm", "dataset.path=gone.svm"], r"There is no file gone\.svm"),
        (
            ["dataset=libsvm", "dataset.path=gone.svm", "loss=logistic"],
            r"There is no file gone\.svm",
        ),
    ],
)
def test_a_verdict_s_mistakes_leave_nothing_in_its_folder(typed, sentence, folder, capsys):
    command = ["experiment=verdict", "dataset=breast_cancer", "tracking=none", *typed]
    assert main(CONF, [*command, "hydra.sweep.dir=here"]) == MISTAKE
    assert re.search(sentence, reported(capsys))
    assert not any((folder / "here").iterdir())


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["dataset=libsvm"], r"dataset=libsvm needs a file: dataset\.path=FILE"),
        (["dataset=libsvm", "dataset.path=gone.txt"], "There is no file .*gone.txt"),
        (["dataset=libsvm", "dataset.path=bad.txt"], r"bad\.txt.*line 2"),
    ],
)
def test_missing_and_malformed_data_is_one_sentence(overrides, sentence, folder, capsys):
    (folder / "bad.txt").write_text("+1 1:0.5\n-1 1:x\n")
    assert main(CONF, [*overrides, "tracking=none"]) == MISTAKE
    assert re.search(sentence, reported(capsys))


@pytest.mark.parametrize(
    "given",
    [
        *(["dataset=" + kind, "dataset.path=LONG"] for kind in ("table", "shards")),
        ["dataset=image_folder", "dataset.path=LONG", "loss=cross_entropy", "optimizer=sgd"],
        ["dataset=libsvm", "dataset.path=LONG", "dataset.weights_path=LONG"],
        ["dataset=mushrooms", "data_dir=LONG"],
        ["--config-dir", "LONG"],
        ["hydra.run.dir=LONG"],
    ],
)
def test_a_name_that_no_file_can_have_is_one_sentence(given, folder, capsys):
    typed = [word.replace("LONG", "x" * 5000) for word in given]
    assert main(CONF, [*typed, "tracking=none", "optimum=none"]) == MISTAKE
    err = capsys.readouterr().err
    assert re.fullmatch(r"Error: .*x{5000}\S* cannot be .*: File name too long\.\n", err)


def test_a_folder_is_never_overwritten(folder, capsys):
    run = [*QUICK, "tracking=none", "hydra.run.dir=here"]
    assert main(CONF, run) == 0
    capsys.readouterr()
    assert main(CONF, run) == MISTAKE
    assert "here holds a run already: continue it by resume=true" in reported(capsys)
    sweep = ["-m", *QUICK, "tracking=none", "hydra.sweep.dir=there", "solver=cg,cr"]
    assert main(CONF, sweep) == 0
    capsys.readouterr()
    assert main(CONF, sweep) == MISTAKE
    assert "there holds a sweep already" in reported(capsys)


@pytest.mark.parametrize("missing", sorted(PLUGINS.items()))
def test_a_launcher_that_is_not_installed_names_its_package(missing):
    from hydra.errors import MissingConfigException

    from newton_krylov.cli.compose import explain

    choice, package = missing
    error = MissingConfigException("", choice.replace("=", "/"), ["basic"])
    assert f"{choice} needs the package {package}: pip install {package}" in explain(error, None)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed_is_asked_for_before_a_sweep_starts(folder, capsys):
    given = ["-m", "hydra/launcher=ray", "solver=cg,cr", *QUICK, "hydra.sweep.dir=s"]
    assert main(CONF, given) == MISTAKE
    sentence = "hydra/launcher=ray needs the package hydra-ray-launcher: pip install hydra-ray"
    assert sentence in reported(capsys)
    assert not (folder / "s").exists()


# Nothing that a configuration says makes the program import or run something foreign.

HOSTILE = [
    ["+hydra.callbacks.x._target_=os.system"],
    ["hydra.launcher._target_=subprocess.run"],
    ["hydra.sweeper._target_=evil.Sweeper"],
    ["+hydra.job_logging.handlers.x.class=evil.Handler"],
    ["hydra.job_logging.handlers.console.stream=ext://evil.stream"],
    ["+solver._target_=evil.solve"],
    ["+dataset._target_=evil.load"],
    ["+evil._target_=evil.load"],
]


@pytest.fixture
def evil(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a trace if it is imported."""
    (folder / "evil.py").write_text(f"open({str(folder / 'imported')!r}, 'w')")
    monkeypatch.syspath_prepend(str(folder))
    return folder / "imported"


@pytest.mark.parametrize("typed", HOSTILE, ids=lambda typed: typed[0][:50])
def test_no_key_names_code(typed, evil, capsys):
    assert main(CONF, [*QUICK, "tracking=none", *typed]) == MISTAKE
    assert not evil.exists()
    assert "a configuration is data" in (err := reported(capsys)) or "is not a" in err


def test_no_key_of_a_sweep_names_code(evil):
    hostile = ["tracking=none", "+hydra.job_logging.handlers.x.class=evil.Handler,logging.Handler"]
    assert main(CONF, ["-m", *QUICK, *hostile]) in (MISTAKE, FAILED)
    assert not evil.exists()


FILES = {
    "callbacks": {"hydra": {"callbacks": {"x": {"_target_": "evil.Callback"}}}},
    "logging": {"hydra": {"job_logging": {"handlers": {"x": {"class": "evil.Handler"}}}}},
    "formatter": {"hydra": {"job_logging": {"formatters": {"x": {"()": "evil.make"}}}}},
    "filter": {"hydra": {"hydra_logging": {"filters": {"x": {"()": "evil.make"}}}}},
    "environment": {"hydra": {"job": {"env_set": {"LD_PRELOAD": "/tmp/evil.so"}}}},
    "setup": {
        "defaults": [{"override /hydra/launcher": "submitit_slurm"}],
        "hydra": {"launcher": {"setup": ["touch imported"]}},
    },
    "worker": {
        "defaults": [{"override /hydra/launcher": "ray"}],
        "hydra": {"launcher": {"ray": {"init": {"runtime_env": {"pip": ["evil"]}}}}},
    },
    "cluster": {
        "defaults": [{"override /hydra/launcher": "ray"}],
        "hydra": {"launcher": {"ray": {"init": {"address": "ray://evil:10001"}}}},
    },
    "rented": {"defaults": [{"override /hydra/launcher": "ray_aws"}]},
    "part": {"solver": {"_target_": "evil.solve"}},
}
LAUNCHERS = {"setup": "submitit", "worker": "ray", "cluster": "ray", "rented": "ray"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_of_somebody_else_s_runs_code(name, folder, evil, capsys):
    if launcher := LAUNCHERS.get(name):
        pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    theirs = folder / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump(FILES[name], sort_keys=False)
    (theirs / "evil.yaml").write_text(text)
    given = ["--config-dir", "theirs", "experiment=evil", *QUICK, "tracking=none"]
    assert main(CONF, given) == MISTAKE
    assert not evil.exists()
    reported(capsys)


def test_a_damaged_file_of_the_user_s_is_named(folder, capsys):
    theirs = folder / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    (theirs / "mine.yaml").write_text("# @package _global_\nstop: [1\n")
    assert main(CONF, ["--config-dir", "theirs", "experiment=mine"]) == MISTAKE
    err = reported(capsys)
    assert "mine.yaml" in err and "line 3" in err


def test_a_user_s_own_folder_of_presets(folder):
    theirs = folder / "theirs" / "experiment"
    theirs.mkdir(parents=True)
    (theirs / "mine.yaml").write_text("# @package _global_\nlabel: mine\nstop: {epochs: 2}\n")
    given = ["--config-dir", "theirs", "experiment=mine", *QUICK, "tracking=none"]
    assert main(CONF, [*given, "hydra.run.dir=r"]) == 0
    assert yaml.safe_load((folder / "r" / "config.yaml").read_text())["label"] == "mine"


def test_help_lists_every_group_and_choice_with_a_line_on_it(capsys):
    assert main(CONF, ["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for group in groups(CONF):
        assert group in lines
        for name, summary in choices(CONF, group).items():
            assert summary, f"{group}={name} has no comment in its file's first line"
            assert any(line.split() == [name, *summary.split()] for line in lines)
    assert any("seed: 0" in line and "of the start" in line for line in lines)
    assert groups(CONF)[-2:] == ["experiment", "method"]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from pathlib import Path; from newton_krylov.cli.main import main\n"
        f"main(Path({str(CONF)!r}), ['--help'])\n"
        "print('heavy:', {'torch', 'hydra', 'mlflow', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: set()" in done.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("python run.py solver=", {"solver=cg", "solver=cr", "solver=gmres"}),
        ("python run.py solver=gm", {"solver=gmres"}),
        ("python run.py dataset=phi", {"dataset=phishing"}),
        ("python run.py dataset=w8a dataset.mir", {"dataset.mirror="}),
        ("python run.py solver=gmres solver.re", {"solver.restart="}),
        ("python run.py exper", {"experiment="}),
        ("python run.py line_search=armijo stop.ep", {"stop.epochs="}),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes(line, offered, tmp_path):
    script = f"""
        cd {ROOT}
        eval "$(python run.py --shell-completion install=bash)"
        COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; words=($COMP_LINE)
        COMP_WORDS=("${{words[@]}}"); COMP_CWORD=$((${{#words[@]}} - 1))
        hydra_bash_completion
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment(tmp_path, PATH=path),
    )
    assert offered <= set(done.stdout.split()), done.stdout + done.stderr


@pytest.mark.slow
def test_a_third_party_s_solver_is_used_by_name(tmp_path):
    plugin = {"NEWTON_KRYLOV_PLUGINS": "third_party", "PYTHONPATH": str(ROOT / "tests")}
    run = [*QUICK, "solver=steepest", "tracking=none", "hydra.run.dir=r", "stop.epochs=20"]
    command(*run, "solver.steps=40", cwd=tmp_path, **plugin)
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    assert config["solver"] == {"name": "steepest", "rtol": 1e-5, "atol": 0.0, "steps": 40}
    out, _ = command("--help", cwd=tmp_path, **plugin)
    assert re.search(r"^  steepest +Steepest descent on x'A x / 2 - b'x$", out, re.MULTILINE)
    _, err = command("solver=steepest", "solver.stps=3", cwd=tmp_path, code=2, **plugin)
    assert "solver.stps is not a key of solver; did you mean 'steps'" in err
    _, err = command("solver=steepst", cwd=tmp_path, code=2, **plugin)
    assert "did you mean 'steepest'" in err
    _, err = command("solver=cg", cwd=tmp_path, code=2, NEWTON_KRYLOV_PLUGINS="no_such_module")
    assert "NEWTON_KRYLOV_PLUGINS names the module 'no_such_module'" in err


def test_the_configuration_can_be_shown_without_running(folder, capsys):
    assert main(CONF, ["--cfg", "job", "solver=gmres", "--resolve"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["solver"]["name"] == "gmres"
    assert main(CONF, ["--cfg", "job", "solver=gmress"]) == MISTAKE
    assert "did you mean 'gmres'" in reported(capsys)
    assert not (folder / "outputs").exists()


def test_a_folder_of_ones_own_serves_runs_sweeps_and_studies(folder, capsys):
    own = folder / "own"
    for group, name, lines in (
        ("method", "mine", "defaults:\n  - override /solver: gmres\nlabel: Mine\n"),
        ("experiment", "wrong", STUDY.format("crr")),
        ("experiment", "right", STUDY.format("cr")),
    ):
        (own / group).mkdir(parents=True, exist_ok=True)
        (own / group / f"{name}.yaml").write_text(f"# @package _global_\n{lines}")
    where = ["--config-dir", str(own), *QUICK]
    assert main(CONF, [*where, "method=mine"]) == 0
    assert main(CONF, ["-m", *where, "method=mine,newton_cr"]) == 0
    assert main(CONF, [*where, "experiment=right"]) == 0
    capsys.readouterr()
    assert main(CONF, ["-m", *where, "method=mine,mina"]) == MISTAKE
    assert re.search("method=mina is unknown; did you mean 'mine'", reported(capsys))
    assert main(CONF, [*where, "experiment=wrong"]) == MISTAKE  # before any of it starts
    assert re.search("solver=crr is unknown; did you mean 'cr'", reported(capsys))


def test_a_part_of_ones_own_folder_is_chosen_by_its_file_s_name(folder, capsys):
    (folder / "own" / "solver").mkdir(parents=True)
    (folder / "own" / "solver" / "short.yaml").write_text("name: gmres\nrestart: 3\nmaxiter: 9\n")
    mine = ["-cd", "own", *QUICK, "tracking=none"]
    assert main(CONF, [*mine, "solver=short", "hydra.run.dir=r"]) == 0
    used = yaml.safe_load((folder / "r" / "config.yaml").read_text())["solver"]
    assert (used["name"], used["restart"], used["maxiter"]) == ("gmres", 3, 9)
    assert main(CONF, ["-m", *mine, "solver=short,cg", "hydra.sweep.dir=s"]) == 0
    capsys.readouterr()
    assert main(CONF, [*mine, "solver=shrt"]) == MISTAKE
    assert "solver=shrt is unknown; did you mean 'short'" in reported(capsys)
    (folder / "own" / "solver" / "short.yaml").write_text("name: gmres\nrestrt: 3\n")
    assert main(CONF, [*mine, "solver=short"]) == MISTAKE
    assert "solver.restrt is not a parameter of solver=gmres; did you" in reported(capsys)


@pytest.mark.parametrize(
    ("solver", "more", "sentence"),
    [
        ("crr", "", "solver=crr is unknown; did you mean 'cr'"),
        ("cr", "solver.rtoll: 1e-3", "solver.rtoll is not a key of solver; did you mean 'rtol'"),
        ("cr", "sed: 3", "sed is not a key of the configuration; did you mean 'seed'"),
        ("cr", "solvr: cg", "solvr is not a key of the configuration; did you mean 'solver'"),
        ("cr", "seed.x: 3", "seed.x is not a key: seed holds a single value"),
        ("gmres,cg", "solver.restart: 5", "solver.restart is not a key of solver"),
        ("'[cr'", "", r"'solver=\[cr' cannot be read"),
    ],
)
def test_a_study_s_mistake_is_told_before_anything_of_it_starts(
    solver, more, sentence, folder, capsys
):
    own = folder / "own" / "experiment"
    own.mkdir(parents=True)
    text = "# @package _global_\n" + STUDY.format(solver) + f"      {more}\n"
    (own / "mine.yaml").write_text(text)
    assert main(CONF, ["-cd", "own", *QUICK, "experiment=mine", "hydra.sweep.dir=s"]) == MISTAKE
    assert re.search(sentence, reported(capsys))
    assert not (folder / "s").exists() and not (folder / "mlflow.db").exists()


def test_a_sweep_gives_values_to_keys_that_only_its_choices_have(folder):
    run = ["-m", *QUICK, "tracking=none", "solver=gmres,gcr"]
    assert main(CONF, [*run, "solver.restart=5,6", "hydra.sweep.dir=several"]) == 0
    assert main(CONF, [*run, "++solver.restart=5", "hydra.sweep.dir=one"]) == 0
    restarts = [
        yaml.safe_load((folder / sweep / str(number) / "config.yaml").read_text())["solver"]
        for sweep, members in (("several", 4), ("one", 2))
        for number in range(members)
    ]
    assert [solver["restart"] for solver in restarts] == [5, 6, 5, 6, 5, 5]


STUDY = """
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      solver: {}
      seed: 0,1
"""


@pytest.mark.parametrize("command", ["run.py", "compare.py"])
def test_a_process_without_a_standard_output_says_its_error_and_no_more(
    command: str, tmp_path: Path
) -> None:
    """As a service starts one: Python has no stream then, and a file would take its number."""
    words = [
        sys.executable,
        str(ROOT / command),
        *(["solver=cgg"] if command == "run.py" else ["x"]),
    ]
    done = subprocess.run(
        ["bash", "-c", '"$@" >&- <&-', "-", *words], cwd=tmp_path, env=environment(tmp_path),
        stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Error: " in done.stderr and "Traceback" not in done.stderr


def test_a_large_sweep_says_how_far_its_composing_is(monkeypatch, capsys):
    ticks = itertools.count(step=6)  # seconds: before the first, then after each
    monkeypatch.setattr("newton_krylov.cli.compose.monotonic", lambda: next(ticks))
    sweep = ["-m", *QUICK, "tracking=none", "seed=0,1,2,3", "hydra.sweep.dir=s"]
    assert main(CONF, sweep) == DONE
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("composing")]
    assert said == [f"composing the runs' configurations: {n} so far" for n in (2, 4)]
