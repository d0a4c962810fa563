"""However a server keeps a run waiting, it does so for one deadline."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from command import QUICK, inside

from newton_krylov.tracking.deadline import within


def test_it_returns_raises_or_gives_up():
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.1, lambda: time.sleep(20))
    assert time.monotonic() - began < 5


class Staller(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        kind = self.server.kind
        with suppress(OSError):
            if kind == "silent":
                time.sleep(60)
            elif kind == "drip":
                self.send_response(200)
                self.send_header("content-length", "100000")
                self.end_headers()
                for _ in range(600):
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
    assert time.monotonic() - began < 20
    assert json.loads((tmp_path / "r" / "summary.json").read_text())["status"] == "finished"
