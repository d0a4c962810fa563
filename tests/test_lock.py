"""The lock file has every pinned package, and hashes for each."""

import re

from command import ROOT


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lock_has_every_requirement_and_its_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    locked = pins(lock)
    wanted = pins((ROOT / "requirements.txt").read_text())
    assert wanted.items() <= locked.items(), "make requirements.lock again (its head says how)"
    for block in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.partition("\n")[0]


def test_no_index_is_named():
    assert not re.search(r"://|--(extra-)?index-url", (ROOT / "requirements.lock").read_text())
