"""The command: `python run.py solver=cr dataset=a9a`; `python run.py --help` lists the choices."""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback of the first imports

import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from newton_krylov.terminal import end_on_interrupt, end_quickly  # noqa: E402

end_on_interrupt()  # the imports take seconds
end_quickly()

from newton_krylov.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent / "conf"))
