"""Signals: what arrives while a run computes, and while it writes."""

import json
import os
import signal
import threading

import pytest

import newton_krylov
from newton_krylov import distributed
from newton_krylov.runs import experiment as module
from newton_krylov.runs.experiment import _Experiment
from newton_krylov.runs.interruption import Interruption, interruptible
from newton_krylov.runs.watch import Watch


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "killed")]
)
def test_a_signal_interrupts_and_is_remembered(number, status):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with interruptible() as state:
        assert state.signal is None
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert (state.signal, state.status) == (number, status)
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert after == before


def test_an_ignored_ctrl_c_stays_ignored():
    """As in a script's background, for which a terminal's Ctrl-C is not meant."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible() as state:
            send(signal.SIGINT)
            assert state.signal is None
            with pytest.raises(KeyboardInterrupt):
                send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_first_signal_tells_the_status():
    with interruptible() as state:
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(KeyboardInterrupt):
                send(number)
        assert state.status == "killed"


def test_a_signal_waits_while_a_row_is_written():
    written = []
    with interruptible() as state:
        with pytest.raises(KeyboardInterrupt), state.held():
            written.append("begun")
            send(signal.SIGINT)
            written.append("whole")
        assert written == ["begun", "whole"]


def test_a_second_signal_does_not_wait():
    with interruptible() as state, pytest.raises(KeyboardInterrupt):
        state.hold()
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("it should have been obeyed")


def test_a_run_in_a_sweep_shares_the_sweep_s_signals():
    with interruptible() as sweep:
        with interruptible() as run:
            assert run is sweep
            run.hold()  # the record is being finished
            send(signal.SIGTERM)
        assert sweep.status == "killed"
        with interruptible() as following, pytest.raises(KeyboardInterrupt):
            following.release()
            send(signal.SIGTERM)
    assert not isinstance(signal.getsignal(signal.SIGTERM), Interruption)


def test_another_thread_handles_no_signals():
    seen = []

    def work() -> None:
        with interruptible() as state:
            seen.append(state.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
    assert not isinstance(signal.getsignal(signal.SIGTERM), Interruption)


def test_a_signal_between_the_last_step_and_the_record_loses_no_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(Watch, "end", lambda *_: signal.raise_signal(signal.SIGTERM))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        newton_krylov.run(dataset="synthetic", stop={"epochs": 2}, tracking="none", quiet=True)
    (summary,) = tmp_path.rglob("summary.json")
    found = json.loads(summary.read_text())
    assert found["status"] == "killed"
    assert 0 < found["loss"] < 0.69


def test_a_signal_between_an_error_and_its_record_is_in_the_record(tmp_path, monkeypatch):
    fail, came = _Experiment.fail, []

    def late(experiment, error):
        came.append(error)
        if len(came) == 1:
            raise KeyboardInterrupt
        fail(experiment, error)

    def broken(*_):
        raise ValueError("broken")

    monkeypatch.setattr(_Experiment, "fail", late)
    monkeypatch.setattr(Watch, "end", broken)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        newton_krylov.run(dataset="synthetic", stop={"epochs": 2}, tracking="none", quiet=True)
    (summary,) = tmp_path.rglob("summary.json")
    found = json.loads(summary.read_text())
    assert found["status"] == "interrupted" and found["iteration"] == 2


def test_a_process_leaves_the_others_before_it_draws(tmp_path, monkeypatch):
    """One of them cannot obey a signal while it waits for another's numbers."""
    done = []
    monkeypatch.setattr(module, "_draw", lambda _folder: done.append("drawn") or [])
    monkeypatch.setattr(distributed, "leave", lambda: done.append("left"))
    monkeypatch.chdir(tmp_path)
    newton_krylov.run(dataset="synthetic", stop={"epochs": 2}, tracking="none", quiet=True)
    assert done == ["left", "drawn"]
