"""However a server keeps a run waiting, it does so for one deadline."""

import json
import math
import socket
import threading
import time
from contextlib import suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from time import sleep

import pytest
from command import PATIENCE, QUICK, inside

from newton_krylov.errors import ConfigError
from newton_krylov.records.record import Record
from newton_krylov.registry import entry
from newton_krylov.terminal import one_line
from newton_krylov.tracking.address import keep
from newton_krylov.tracking.deadline import within
from newton_krylov.tracking.mlflow_tracker import MLflowTracker


def test_it_returns_raises_or_gives_up():
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    waiting = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.1, lambda: waiting.wait(PATIENCE))
    waiting.set()


class Staller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.server.kind
        with suppress(OSError):
            if kind == "silent":
                time.sleep(PATIENCE)
            elif kind == "drip":
                self.send_response(200)
                self.send_header("content-length", "100000")
                self.end_headers()
                for _ in range(10 * PATIENCE):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.1)
            elif kind == "slow":
                time.sleep(2)
                self._answer(200, {"experiments": [], "experiment": {"experiment_id": "1"}})
            else:
                self._answer(int(kind), {})

    do_POST = do_PUT = do_GET

    def _answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("retry-after", "3600")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def _head(status, *more):
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", *more, "")).encode()


def _whole(status, body, *more):
    return _head(status, f"content-length: {len(body)}", "connection: close", *more) + body


_RUN = b'{"experiment": {"experiment_id": "1"}, "run": {"info": {"run_id": "%s"}}}'
TOMORROW = formatdate(time.time() + 86400, usegmt=True)
ANSWERS = {
    "a date to come back": lambda: [_whole(503, b"{}", f"retry-after: {TOMORROW}")],
    "a huge number": lambda: [_whole(429, b"{}", f"retry-after: {'9' * 40}")],
    "no number": lambda: [_whole(429, b"{}", "retry-after: NaN")],
    "dripping headers": lambda: chain([b"HTTP/1.1 200 X\r\nx: "], repeat(b"y")),
    "endless interim answers": lambda: repeat(_head(100)),
    "endless chunks": lambda: chain(
        [_head(200, "transfer-encoding: chunked")], repeat(b"1\r\n \r\n")
    ),
    "a circle": lambda: [_whole(302, b"", "location: /again")],
    "an early end": lambda: [_head(200, "content-length: 99") + b"{"],
    "nothing": list,
    "half of JSON": lambda: [_whole(200, b'{"experiment": [1, {"x":')],
    "no identifier": lambda: [_whole(200, b'{"experiment": {"experiment_id": "1"}}')],
    "a path as identifier": lambda: [_whole(200, _RUN % b"../../x")],
    "a long identifier": lambda: [_whole(200, _RUN % (b"a" * 1000))],
    "other JSON": lambda: [_whole(200, b"[1, 2]")],
    "depth": lambda: [_whole(200, b"[" * 100_000)],
    "a page": lambda: [_whole(200, b"<html>\x1b[2JLog in</html>", "content-type: text/html")],
    "junk": lambda: [b"\x15\x03\x03\x00\x02\x02(" * 9],
    "the password": lambda: [_whole(403, b'{"message": "not bob:PW1secret\\u001b[2J"}')],
    "what was sent": lambda: [_whole(401, b'{"message": "Basic Ym9iOlBXMXNlY3JldA=="}')],
    "an error of its own": lambda: [_whole(500, b"")],
    "silence": lambda: [sleep(PATIENCE)],
}


def _answer(connection, answer):
    with suppress(OSError), connection:
        connection.recv(2**16)
        for piece in answer():
            connection.sendall(piece or b"")
            time.sleep(0.02)


def _serve(answer):
    server = socket.create_server(("127.0.0.1", 0))

    def accept():
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server


@pytest.mark.parametrize("kind", [*ANSWERS, "no such host", "no server"])
def test_whatever_a_server_answers_it_is_one_sentence_in_time(kind, tmp_path, caplog):
    caplog.set_level("INFO")
    with _serve(ANSWERS.get(kind, list)) as server:
        port = server.getsockname()[1]
        places = {"no such host": "no-such-host.invalid:80", "no server": "127.0.0.1:9"}
        address = keep(f"http://bob:PW1secret@{places.get(kind, f'127.0.0.1:{port}')}")
        tracker = MLflowTracker(address, timeout=1, deadline=1.0)
        record = Record.begin(tmp_path / "r", {"name": "x"}, [], {}, "x")
        import mlflow  # noqa: F401 - seconds that are not the server's

        began = time.monotonic()
        tracker.start(record, None)
        tracker.finish()
        assert time.monotonic() - began < PATIENCE / 2
        record.end(status="finished")
    problem = str(tracker.place.problem)
    assert tracker.place.run_id is None
    assert len(problem) > 10 and problem == one_line(problem)
    for text in (problem, caplog.text):
        assert "PW1secret" not in text and "Ym9iOlBXMXNlY3JldA" not in text and "\x1b" not in text


@pytest.mark.parametrize("kind", ["429", "503", "drip", "slow", "silent"])
def test_a_server_that_stalls_costs_its_deadline_and_a_sentence(kind, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Staller)
    server.daemon_threads, server.kind = True, kind
    threading.Thread(target=server.serve_forever, daemon=True).start()
    began = time.monotonic()
    out, err = inside(
        *QUICK, f"tracking.uri=http://127.0.0.1:{server.server_port}", "tracking.deadline=3",
        "hydra.run.dir=r", cwd=tmp_path,
    )  # fmt: skip
    server.shutdown()
    assert err == "" and "not tracked" in out and "within 3 s" in out
    assert time.monotonic() - began < PATIENCE / 2
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("given", [math.inf, math.nan, -1, 0, 1e300, 10**30, "soon"])
@pytest.mark.parametrize(
    ("group", "name", "key"),
    [
        ("tracking", "mlflow", "deadline"),
        ("tracking", "mlflow", "timeout"),
        ("device", "distributed", "timeout"),
    ],
)
def test_a_wait_that_no_clock_takes_is_a_sentence(group, name, key, given):
    with pytest.raises(ConfigError, match=f"^{group}.{key}=.* is not valid: it should be .*[^\n]$"):
        entry(group, name).validate({key: given})
