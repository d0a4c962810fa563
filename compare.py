"""The command: `python compare.py outputs/<date>/<time>`; `python compare.py --help` says more."""

import sys

from newton_krylov.report.command import main

if __name__ == "__main__":
    sys.exit(main())
