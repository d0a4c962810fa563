"""The command: `python run.py solver=cr dataset=a9a`; `python run.py --help` lists the choices."""

import signal

if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as a script's background has it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the first imports

import sys
from pathlib import Path

from newton_krylov.terminal import end_on_interrupt, end_quickly

end_on_interrupt()  # the imports take seconds
end_quickly()

from newton_krylov.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent / "conf"))
