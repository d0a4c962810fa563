"""A preset that somebody else wrote runs nothing, writes nowhere else and leaks nothing."""

import os
from pathlib import Path

import pytest
import yaml
from command import CONF, QUICK

from newton_krylov.cli.main import MISTAKE, main

SWEEPER = {"override /hydra/sweeper": "optuna"}
JOBLIB = {"override /hydra/launcher": "joblib"}
TABLE = {"override /dataset": "table"}
LIBSVM = {"override /dataset": "libsvm"}
TEXT = {"override /dataset": "text"}
IMAGES = {"override /dataset": "image_folder"}
SLURM = {"override /hydra/launcher": "submitit_slurm"}


def _hydra(**nodes):
    return {"hydra": nodes}


HOSTILE = {
    "a hidden factory": {
        "stolen": {"()": "evil.make"},
        "hydra": {"job_logging": {"handlers": {"x": "${stolen}"}}},
    },
    "a hidden node": {"stolen": {"x": {"_target_": "evil.C"}}, **_hydra(callbacks="${stolen}")},
    "a hidden logging": {"stolen": {"version": 1}, "hydra": {"job_logging": "${stolen}"}},
    "a file elsewhere": _hydra(job_logging={"handlers": {"file": {"filename": "HOME/.bashrc"}}}),
    "a file emptied": _hydra(job_logging={"handlers": {"file": {"mode": "w", "delay": False}}}),
    "a text in the log": _hydra(job_logging={"formatters": {"simple": {"format": "rm -rf #"}}}),
    "another handler": _hydra(
        job_logging={"handlers": {"x": {"class": "logging.handlers.SocketHandler"}}}
    ),
    "a formatter of code": _hydra(job_logging={"formatters": {"x": {"class": "evil.Formatter"}}}),
    "a sampler that walks": {
        "defaults": [SWEEPER],
        **_hydra(sweeper={"sampler": {"_target_": "optuna.samplers._cmaes.np.load"}}),
    },
    "a nested sampler": {
        "defaults": [SWEEPER, {"override /hydra/sweeper/sampler": "cmaes"}],
        **_hydra(sweeper={"sampler": {"independent_sampler": {"_target_": "evil.Sampler"}}}),
    },
    "a study elsewhere": {"defaults": [SWEEPER], **_hydra(sweeper={"storage": "sqlite:////x.db"})},
    "a search space of code": {
        "defaults": [SWEEPER], **_hydra(sweeper={"custom_search_space": "evil.space"}),
    },
    "a line feed": {"defaults": [SLURM], **_hydra(launcher={"partition": "long\ntouch x #"})},
    "an option more": {"defaults": [SLURM], **_hydra(launcher={"partition": "long --wrap=x"})},
    "set-up": {"defaults": [SLURM], **_hydra(launcher={"setup": ["touch x"]})},
    "more parameters": {
        "defaults": [SLURM], **_hydra(launcher={"additional_parameters": {"wrap": "touch x"}}),
    },
    "jobs' files": {"defaults": [SLURM], **_hydra(launcher={"submitit_folder": "/tmp/x"})},
    "a worker's folder": {
        "defaults": [{"override /hydra/launcher": "joblib"}],
        **_hydra(launcher={"temp_folder": "HOME"}),
    },
    "set-up by the sweep": _hydra(sweeper={"params": {"hydra.job.env_set.LD_PRELOAD": "x"}}),
    "an address by the sweep": _hydra(sweeper={"params": {"tracking.uri": "http://evil"}}),
    "an address in parts by the sweep": _hydra(sweeper={"params": {"+tracking": "{uri: http://x}"}}),
    "another tracker by the sweep": _hydra(sweeper={"params": {"tracking": "mlflow"}}),
    "a secret by the sweep": _hydra(sweeper={"params": {"label": "\\${oc.env:SECRET}"}}),
    "an environment": _hydra(job={"env_set": {"LD_PRELOAD": "evil.so"}}),
    "a variable that is not set": _hydra(job={"env_copy": ["NO_SUCH_VARIABLE"]}),
    "a variable that is no name": _hydra(job={"env_copy": 5}),
    "no job at all": _hydra(job=None),
    "no sweeper at all": _hydra(sweeper=None),
    "a copied environment": _hydra(job={"env_copy": ["SECRET"]}),
    "overrides never given": _hydra(overrides={"task": ["tracking.uri=http://evil"]}),
    "a given key never given": _hydra(overrides={"hydra": ["hydra.job.env_set.X=1"]}),
    "a folder elsewhere": _hydra(run={"dir": "/tmp/elsewhere"}),
    "a folder above": _hydra(run={"dir": "outputs/../../elsewhere"}),
    "the working folder": _hydra(run={"dir": "."}),
    "a hidden folder": _hydra(sweep={"dir": "outputs/.git/hooks"}),
    "a member elsewhere": _hydra(mode="MULTIRUN", sweep={"subdir": "../../../elsewhere"}),
    "hydra's files elsewhere": _hydra(output_subdir="../../elsewhere"),
    "a nested target": {
        "defaults": [JOBLIB], **_hydra(launcher={"_args_": [{"_target_": "evil.C"}]}),
    },
    "a convert": {"defaults": [JOBLIB], **_hydra(launcher={"_convert_": {"_target_": "evil.C"}})},
    "a text that joblib evaluates": {
        "defaults": [JOBLIB], **_hydra(launcher={"pre_dispatch": "__import__('evil')"}),
    },
    "a carriage return": {"defaults": [SLURM], **_hydra(launcher={"qos": "a\rtouch x"})},
    "a separator of lines": {"defaults": [SLURM], **_hydra(launcher={"account": "a\u2028touch x"})},
    "a substitution": {"defaults": [SLURM], **_hydra(launcher={"comment": "$(touch x)"})},
    "weights of code": {
        "defaults": [SWEEPER], **_hydra(sweeper={"sampler": {"weights": "evil.w"}}),
    },
    "a callback of Hydra's": _hydra(
        callbacks={"x": {"_target_": "hydra.experimental.callbacks.LogJobReturnCallback"}}
    ),
    "a filter": _hydra(job_logging={"filters": {"x": {"()": "evil.make"}}}),
    "a stream": _hydra(
        job_logging={"handlers": {"x": {"class": "logging.StreamHandler", "stream": "ext://evil.x"}}}
    ),
    "a target of a handler": _hydra(
        job_logging={"handlers": {"x": {"class": "logging.handlers.MemoryHandler",
                                        "target": "ext://evil.C"}}}
    ),
    "a setting of a handler": _hydra(job_logging={"handlers": {"console": {".": {"level": 0}}}}),
    "a folder by a clock": _hydra(run={"dir": "outputs/${now:../../../elsewhere}"}),
    "a folder by a name": _hydra(run={"dir": "outputs/${hydra.job.name}"},
                                 job={"name": "../../elsewhere"}),
    "a folder with a zero": _hydra(run={"dir": "outputs/a\0b"}),
    "a member by a label": {
        "label": "../../../elsewhere", **_hydra(mode="MULTIRUN", sweep={"subdir": "${label}"}),
    },
    "other files of configuration": _hydra(searchpath=["file:///etc"]),
    "plug-ins": _hydra(job={"env_set": {"NEWTON_KRYLOV_PLUGINS": "evil"}}),
    "a decoded text": {"label": "${oc.decode:'{a: 1}'}"},
    "a created node": {"x": "${oc.create:{a: '${oc.env:SECRET}'}}", "label": "${x.a}"},
    "a selected secret": {"label": "${oc.select:nowhere,${oc.env:SECRET}}"},
    "a secret after a line feed": {"label": "x\n${oc.env:SECRET}\ny"},
    "a secret of an older version": {"label": "${env:SECRET}"},
    "a version": {"label": "${python_version:}"},
    "an address by a merge": {"t": {"uri": "http://evil"}, "tracking": "${t}"},
    "a member's environment": _hydra(sweeper={"params": {"++hydra.job.env_set.X": "1"}}),
    "a member's other package": _hydra(sweeper={"params": {"+dataset@tracking": "a9a"}}),
    "a text for the terminal": {"label": "x\x1b[2J"},
    "a member's package": _hydra(sweeper={"params": {"tracking@loss": "mlflow"}}),
    "a secret": {"label": "${oc.env:SECRET}"},
    "a secret by a detour": {"which": "SECRET", "label": "${oc.env:${which}}"},
    "a secret by another name": {"how": "oc.env", "label": "${${how}:SECRET}"},
    "a secret within": {"label": "${oc.decode:${oc.env:SECRET}}"},
    "a secret behind a key": {"x": {"y": "${oc.env:SECRET}"}, "label": "${x.y}"},
    "an address": {"tracking": {"uri": "http://evil"}},
    "an address in parts": {"host": "evil", "tracking": {"uri": "http://${host}"}},
    "data elsewhere": {"data_dir": "HOME"},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, a home beside it, a secret, and a module that leaves a trace."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    (home / ".bashrc").write_text("# mine\n")
    (here / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    monkeypatch.setenv("SECRET", "hunter2")
    return here


def _write(folder: Path, preset: dict) -> list[str]:
    place = folder / "theirs" / "experiment"
    place.mkdir(parents=True)
    text = yaml.safe_dump(preset, sort_keys=False).replace("HOME", str(folder.parent / "home"))
    (place / "evil.yaml").write_text(f"# @package _global_\n{text}")
    return ["--config-dir", "theirs", "experiment=evil", *QUICK, "tracking=none"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_preset_is_refused_in_a_sentence(name, folder, capsys):
    given = _write(folder, HOSTILE[name])
    for launcher in ("optuna", "submitit", "joblib"):
        if launcher in str(HOSTILE[name].get("defaults")):
            kind = "sweeper" if launcher == "optuna" else "launcher"
            pytest.importorskip(f"hydra_plugins.hydra_{launcher}_{kind}")
    if "tracking" in HOSTILE[name]:
        given.remove("tracking=none")
    before = sorted(folder.parent.rglob("*"))
    assert main(CONF, given) == MISTAKE
    err = capsys.readouterr().err
    assert err.startswith("Error: ")
    assert "Traceback" not in err
    assert "hunter2" not in err
    assert len(err.strip().splitlines()) == 1
    assert sorted(folder.parent.rglob("*")) == before
    assert (folder.parent / "home" / ".bashrc").read_text() == "# mine\n"


SETS_THE_ENVIRONMENT = """\
# @package _global_
hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}
"""
TEN_TIMES = "".join(f"b{k}: '" + f"${{b{k - 1}}}" * 10 + "'\n" for k in range(1, 10))
TWICE = "b0: ''\n" + "".join(f"b{k}: '" + f"${{b{k - 1}}}" * 2 + "'\n" for k in range(1, 40))
LISTS = ", ".join(f"a{k}: [" + ", ".join([f"'${{x.a{k - 1}}}'"] * 10) + "]" for k in range(1, 9))
SWEPT = "hydra: {mode: MULTIRUN, sweeper: {params: {seed: 'RANGE'}}}"

HOSTILE_TEXTS = {
    "a part of Hydra's by its path": ("defaults: [{override /hydra/output: UP/here/theirs/part}]",
                                      {"part.yaml": SETS_THE_ENVIRONMENT}),
    "another part by its path": ("defaults: [{override /hydra/env: UP/here/theirs/part}]",
                                 {"part.yaml": SETS_THE_ENVIRONMENT}),
    "a file of the user's": ("defaults: [/UP/home/hosts@optimizer]\nlabel: ${optimizer.token}", {}),
    "a file above": ("defaults: [../../../home/hosts@optimizer]", {}),
    "a link": ("defaults: [/linked@optimizer]", {"linked.yaml": "-> HOME/hosts.yaml"}),
    "a folder's link": ("defaults: [/linked/hosts@optimizer]", {"linked": "-> HOME"}),
    "a member's file": (SWEPT.replace("seed: 'RANGE'", "loss: ../../../home/hosts"), {}),
    "a default by a secret": ("defaults: [{/x: '${oc.env:SECRET}'}]", {}),
    "an override by a secret": ("defaults: [{override /loss: '${oc.env:SECRET}'}]", {}),
    "a file by a secret": ("defaults: ['${oc.env:SECRET}']", {}),
    "a key made up": ("which: seed\nlabel: '${${which}}'", {}),
    "texts ten times each": ("b0: xxxxxxxxxx\n" + TEN_TIMES + "label: ${b9}", {}),
    "nothing at all, twice each": (TWICE, {}),
    "a copied variable that unfolds": (TWICE + "hydra: {job: {env_copy: ['${b39}']}}", {}),
    "a separator that unfolds":
        (TWICE + "hydra: {job: {config: {override_dirname: {kv_sep: '${b39}'}}}}", {}),
    "a name that unfolds":
        (TWICE + "hydra: {job: {name: '${b39}'}}\nname: '${hydra:job.name}'", {}),
    "a node that unfolds where it is merged": ("defaults: [/p, _self_]\nstop: {epochs: 1}",
                                               {"p.yaml": TWICE + "stop: '${b39}'"}),
    "a thousand clocks": ("".join(f"k{k}: '${{now:{'%c' * 100}}}'\n" for k in range(1000)), {}),
    "a long clock": ("label: '${now:" + "%c" * 9000 + "}'", {}),
    "empty lists ten times each": ("x: {a0: [[], []], " + LISTS.partition(", ")[2] + "}", {}),
    "a reference of blanks": ("label: '${" + " " * 60000 + "!'", {}),
    "a parameter of a thousand calls":
        (SWEPT.replace("RANGE", "sort(" * 2000 + "1" + ")" * 2000), {}),
    "a number of files": ("defaults: [" + ", ".join(f"/p@x{k}" for k in range(900)) + "]",
                          {"p.yaml": "a: 1"}),
    "lists ten times each": ("x: {a0: [x], " + LISTS + "}", {}),
    "defaults in a circle": ("defaults: [/experiment/evil]", {}),
    "defaults in a wider circle": ("defaults: [/p]",
                                   {"p.yaml": "defaults: [q]", "q.yaml": "defaults: [p]"}),
    "an endless range": (SWEPT.replace("RANGE", "range(0,100000000000)"), {}),
    "an endless range of numbers": (SWEPT.replace("RANGE", "range(0,1e300)"), {}),
    "a shuffled range": (SWEPT.replace("RANGE", "shuffle(range(0,10000000000))"), {}),
    "a range that stands still": (SWEPT.replace("RANGE", "range(0,10,0)"), {}),
    "a single value": ("5", {}),
    "a name over two lines": ('"a\\nb": x', {}),
    "a parameter over two lines": (SWEPT.replace("seed: 'RANGE'", '"label=1\\nx": a'), {}),
    "a folder over two lines": ('hydra: {run: {dir: "outputs/a\\nb"}}', {}),
    "a hidden folder of Hydra's": ("hydra: {output_subdir: .git}", {}),
    "a launcher of its own": ("defaults: [{override /hydra/launcher: joblib}]",
                              {"hydra/launcher/joblib.yaml": "_target_: evil.C"}),
    "Hydra's own beginning": ("label: x", {"hydra/config.yaml": "job: {env_set: {X: evil}}"}),
    "a tag": ("label: !!python/object/apply:os.system ['touch x']", {}),
    "a merged target": ("b: &b {_target_: evil.C}\nhydra: {launcher: {<<: *b}}", {}),
    "a thousand levels": ("label: " + "{a: " * 1000 + "1" + "}" * 1000, {}),
    "references within references": ("label: '" + "${" * 900 + "a" + "}" * 900 + "'", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_TEXTS)
def test_hostile_files_are_refused_in_a_sentence(name, folder, capsys, recwarn):
    """Files as they are written, with others beside them."""
    text, files = HOSTILE_TEXTS[name]
    if "joblib" in text:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    base, home = folder.parent, folder.parent / "home"
    (home / "hosts.yaml").write_text("token: hunter2\n")
    up = "../" * 20 + str(base).lstrip("/")
    given = _write(folder, {})
    (folder / "theirs" / "experiment" / "evil.yaml").write_text(
        f"# @package _global_\n{text.replace('UP', up)}\n"
    )
    for path, content in files.items():
        place = folder / "theirs" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content.startswith("-> "):
            place.symlink_to(content[3:].replace("HOME", str(home)))
        else:
            place.write_text(content)
    before = sorted(base.rglob("*"))
    assert main(CONF, given) == MISTAKE
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and "hunter2" not in err
    assert len(err.strip().splitlines()) == 1
    assert not [str(each.message) for each in recwarn if "ConfigStore" in str(each.message)]
    outputs = folder / "outputs"
    after = [path for path in base.rglob("*") if not path.is_relative_to(outputs)]
    assert sorted(after) == before


def test_a_path_is_no_choice_on_the_command_line_either(folder, capsys):
    (folder / "evil.yaml").write_text(SETS_THE_ENVIRONMENT)
    path = "../" * 20 + str(folder / "evil").lstrip("/")
    for group in ("experiment", "hydra/env"):
        assert main(CONF, [f"{group}={path}", *QUICK, "tracking=none"]) == MISTAKE
        assert "--config-dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("tracking.uri=http://evil", "gd"),
        ("hydra.job.env_set.LD_PRELOAD=evil.so", "gd"),
        ("label=${oc.env:SECRET}", "gd"),
        ("dataset.path=evil.py", "gd"),
        ("optimizer.step_size=1", "../../elsewhere"),
    ],
)
def test_a_verdict_s_methods_set_what_is_theirs(override, name, folder, capsys):
    method = {"family": "first order", "settings": [[override]]}
    node = {"name": "theirs", "trials": 2, "seeds": 1, "methods": {name: method}}
    given = _write(folder, {"defaults": ["/experiment/verdict"], "verdict": node})
    assert main(CONF, [*given, "loss=logistic"]) == MISTAKE
    err = capsys.readouterr().err
    assert err.startswith("Error: ") and "hunter2" not in err
    assert not [path for path in folder.rglob("outputs/**/*") if path.is_file()]


PRIVATE = {
    "a private file": {"defaults": [TABLE], "dataset": {"path": "HOME/key"}},
    "a private file to test with": {"defaults": [LIBSVM], "dataset": {"test_path": "../home/key"}},
    "a private file of weights": {"defaults": [LIBSVM], "dataset": {"weights_path": "HOME/key"}},
    "a private text": {"defaults": [TEXT], "dataset": {"path": "HOME/key"}},
    "a file of the working folder": {"defaults": [TABLE], "dataset": {"path": "evil.py"}},
    "a private folder": {"defaults": [IMAGES], "dataset": {"path": "~"}},
    "a private file by a reference": {
        "t": {"path": "HOME/key", "name": "libsvm"}, "dataset": "${t}",
    },
    "a private file in bytes": {"defaults": [TABLE], "dataset": {"path": b"HOME/key"}},
    "a private file by the sweep": {
        "defaults": [LIBSVM],
        **_hydra(mode="MULTIRUN", sweeper={"params": {"dataset.path": "evil.py"}}),
    },
    "another server of data": {"dataset": {"mirror": "http://evil"}},
}  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
def test_a_foreign_preset_names_no_file_but_of_its_own_folder(name, folder, capsys):
    """What is wrong with a file is said with a piece of it: so it may be no private one."""
    (folder.parent / "home" / "key").write_text("hunter2 1:1\n")
    given = [word for word in _write(folder, PRIVATE[name]) if word not in QUICK]
    assert main(CONF, given) == MISTAKE
    err = capsys.readouterr().err
    assert "may not set it" in err and "hunter2" not in err and err.count("\n") == 1


def test_a_preset_may_bring_its_data_or_be_given_some(folder, capsys):
    data = "".join(f"{k % 2} 1:{k} 2:1\n" for k in range(40))
    mine, theirs = folder / "mine.svm", folder / "theirs" / "data.svm"
    preset = {"defaults": [LIBSVM], "dataset": {"path": "theirs/data.svm"}}
    given = [word for word in _write(folder, preset) if word not in QUICK]
    mine.write_text(data)
    theirs.write_text(data)
    assert main(CONF, given) == 0
    theirs.unlink()
    theirs.symlink_to(mine)
    capsys.readouterr()
    assert main(CONF, given) == MISTAKE
    assert "dataset.path" in capsys.readouterr().err
    assert main(CONF, [*given, "dataset.path=mine.svm"]) == 0


@pytest.mark.parametrize("link", ["one/7.png", "train", "one"])
def test_a_link_in_a_preset_s_folder_of_images_leads_nowhere(link, folder, capsys):
    images = folder / "theirs" / "images"
    private = folder.parent / "home" / "private"
    for place in (images / "two", private / "two", private / "one"):
        place.mkdir(parents=True, exist_ok=True)
    (private / "7.png").write_text("hunter2")
    (images / link).parent.mkdir(parents=True, exist_ok=True)
    (images / link).symlink_to(private / "7.png" if link.endswith(".png") else private)
    preset = {"defaults": [{"override /dataset": "image_folder"}], "dataset": {"path": str(images)}}
    given = [word for word in _write(folder, preset) if word not in QUICK]
    assert main(CONF, given) == MISTAKE
    err = capsys.readouterr().err
    assert f"{images / link} is a link that leads out" in err and err.count("\n") == 1


@pytest.mark.parametrize("key", ["n_jobs=0", "n_jobs=-1", "n_trials=0", "max_batch_size=0"])
def test_a_sweeper_s_number_with_which_it_never_ends_is_refused(key, folder, capsys):
    given = ["-m", *QUICK, "seed=0,1", "tracking=none", f"hydra.sweeper.{key}"]
    if not key.startswith("max"):
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
        given.append("hydra/sweeper=optuna")
    assert main(CONF, given) == MISTAKE
    assert f"{key} is not valid: it should be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize("shown", [["--cfg", "all"], ["--info", "all"]])
def test_a_hostile_preset_runs_nothing_when_it_is_shown(shown, folder):
    given = _write(folder, HOSTILE["a hidden factory"])
    main(CONF, [*given, *shown])
    assert not (folder.parent / "imported").exists()


def test_references_of_a_foreign_file_are_not_resolved_to_be_shown(folder, monkeypatch, capsys):
    monkeypatch.setenv("A_SECRET", "of-mine")
    given = _write(folder, {"label": "${oc.env:A_SECRET}"})
    for way in (["--resolve"], ["--package", "label"]):
        assert main(CONF, [*given, "--cfg", "job", *way]) == 2
        shown = capsys.readouterr()
        assert way[0] in shown.err and "of-mine" not in shown.out + shown.err


HARMLESS = {
    "a study": _hydra(mode="MULTIRUN", sweeper={"params": {"seed": "0,1", "solver": "cg"}}),
    "places": _hydra(run={"dir": "outputs/mine/${name}"}, job={"name": "mine"}),
    "levels": _hydra(job_logging={"root": {"level": "DEBUG"}}, verbose=False),
    "a queue": {"defaults": [SLURM], **_hydra(launcher={"partition": "long", "timeout_min": 60})},
    "a search": {"defaults": [SWEEPER], **_hydra(sweeper={"n_trials": 2, "sampler": {"seed": 1}})},
    "references": {"width": 3, "label": "w${width}"},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_preset_sets_what_is_data(name, folder):
    from newton_krylov.cli.compose import CheckedLoader
    from newton_krylov.cli.main import hydra_at

    if "defaults" in HARMLESS[name]:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    from hydra.types import RunMode

    given = _write(folder, HARMLESS[name])
    where = f"hydra.searchpath=['file://{folder}/theirs']"
    with hydra_at(CONF) as hydra:
        assert isinstance(hydra.config_loader, CheckedLoader)
        config = hydra.config_loader.load_configuration(
            "config", [where, *given[2:], *QUICK], RunMode.MULTIRUN
        )
    assert config.name == "newton-krylov"


def test_the_command_line_may_say_what_a_file_may_not(folder):
    given = _write(folder, {"label": "theirs"})
    assert main(CONF, [*given, "hydra.run.dir=elsewhere", "label=${oc.env:SECRET}"]) == 0
    assert "hunter2" in (folder / "elsewhere" / "config.yaml").read_text()
    assert os.environ["SECRET"] == "hunter2"


def _aliases() -> str:
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    for k in range(1, 9):
        lines.append(f"a{k}: &a{k} [" + ",".join([f"*a{k - 1}"] * 9) + "]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (_aliases(), "unfolds to more than a configuration can be"),
        ("label: " + "[" * 5000 + "]" * 5000, "unfolds to more than a configuration can be"),
        ("label: " + "9" * 3000, "unfolds to more than a configuration can be"),
        ("label: " + "x" * 2**21, "is larger than the 1 MiB"),
    ],
    ids=["aliases", "brackets", "digits", "length"],
)
def test_a_file_that_blows_up_is_a_sentence(text, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs" / "experiment" / "evil.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\n{text}\n")
    code = main(CONF, ["--config-dir", "theirs", "experiment=evil", *QUICK, "tracking=none"])
    error = capsys.readouterr().err
    assert code == MISTAKE
    assert "evil.yaml " + reason in error and len(error.strip().splitlines()) == 1
