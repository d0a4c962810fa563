"""Make the embedded text from the copy of the play that Brotli's tests carry.

    python data/text/build.py asyoulik.txt

The file is `tests/testdata/asyoulik.txt` of the source distribution of `brotli` 1.2.1, where it
stands as a part of the Canterbury corpus.
"""

import hashlib
import lzma
import sys
from pathlib import Path

SHA256 = "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc"
TARGET = Path(__file__).parents[2] / "src" / "newton_krylov" / "data" / "files" / "asyoulik.txt.xz"


def main() -> None:
    """Check the source and compress it."""
    content = Path(sys.argv[1]).read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{sys.argv[1]} is not the file whose SHA-256 is {SHA256}.")
    TARGET.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
