"""Downloads from a site on this machine: whole, verified, bounded, once."""

import hashlib
import io
import multiprocessing
import shutil
from collections import namedtuple

import pytest
from rich.console import Console

from newton_krylov.data import download
from newton_krylov.data.download import fetch, verify
from newton_krylov.errors import DataError

CONTENT = b"1 1:2\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(site):
    site.answers["/file"] = CONTENT
    return f"{site.address}/file"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "data" / "libsvm" / "file"


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_file_comes_whole_with_the_record_of_its_checksum(url, target):
    fetch(url, target)
    assert target.read_bytes() == CONTENT
    record = target.with_name("file.sha256")
    assert record.read_text() == f"{SHA256}  file\n"  # as sha256sum writes it
    assert visible(target.parent) == ["file", "file.sha256"]
    assert verify(target) == SHA256


def test_it_is_fetched_once(site, url, target):
    fetch(url, target)
    fetch(url, target)
    assert site.asked == ["/file"]


def test_a_file_that_differs_from_its_record_is_refused(url, target):
    fetch(url, target)
    target.write_bytes(CONTENT + b"1 1:3\n")
    with pytest.raises(DataError, match=rf"{SHA256} was recorded in .*file\.sha256 \(delete"):
        verify(target)


def test_a_download_that_differs_from_the_record_of_the_first_is_refused(site, url, target):
    fetch(url, target)
    target.unlink()
    site.answers["/file"] = CONTENT + b"changed"
    with pytest.raises(DataError, match="was recorded in"):
        fetch(url, target)
    assert not target.exists()


def test_the_checksum_asked_for_has_the_last_word(site, url, target):
    fetch(url, target, sha256=SHA256.upper())
    assert verify(target, sha256=SHA256) == SHA256
    with pytest.raises(DataError, match=f"but {'0' * 64} was asked for"):
        verify(target, sha256="0" * 64)
    other = target.with_name("other")
    with pytest.raises(DataError, match=f"has the SHA-256 {SHA256}, but {'0' * 64} was asked for"):
        fetch(url, other, sha256="0" * 64)
    assert visible(target.parent) == ["file", "file.sha256"]


def test_the_md5_that_its_publisher_gives(url, target):
    fetch(url, target, md5=hashlib.md5(CONTENT).hexdigest())
    other = target.with_name("other")
    with pytest.raises(DataError, match=f"has the MD5 .* but {'0' * 32} is published for it"):
        fetch(url, other, md5="0" * 32)
    assert not other.exists()


def test_without_a_network_the_sentence_says_what_to_do(target):
    with pytest.raises(DataError) as error:
        fetch("http://127.0.0.1:1/file", target)
    assert str(error.value) == (
        "http://127.0.0.1:1/file cannot be reached ([Errno 111] Connection refused); "
        f"without a network put the file there by hand: {target}."
    )


def test_a_name_that_nobody_knows(target):
    with pytest.raises(DataError, match=r"cannot be reached \(.*without a network put the file"):
        fetch("http://no-such-host.invalid/file", target)


def test_a_server_that_answers_no(site, target):
    with pytest.raises(DataError, match=r"/none answered 404 \(Not Found\); find it elsewhere"):
        fetch(f"{site.address}/none", target)


def refuse(request):
    request.send_response(200)
    request.send_header("Content-Type", "text/html; charset=utf-8")
    request.end_headers()
    request.wfile.write(b"<html>Please log in</html>")


def test_a_login_page_is_no_data(site, target):
    site.answers["/file"] = refuse
    with pytest.raises(DataError, match="answered with a web page, not a data file"):
        fetch(f"{site.address}/file", target)
    assert visible(target.parent) == []


def half(request):
    request.send_response(200)
    request.send_header("Content-Length", str(len(CONTENT)))
    request.end_headers()
    request.wfile.write(CONTENT[:100])


def test_a_connection_that_breaks_leaves_nothing(site, target):
    site.answers["/file"] = half
    with pytest.raises(DataError, match=r"broke off|cannot be reached"):
        fetch(f"{site.address}/file", target)
    assert visible(target.parent) == []


def hang(request):
    request.send_response(200)
    request.send_header("Content-Length", str(len(CONTENT)))
    request.end_headers()
    request.wfile.write(CONTENT[:100])
    request.wfile.flush()
    request.connection.settimeout(5)
    request.rfile.read(1)  # until the client gives up


def test_a_server_that_falls_silent_is_given_up(site, target, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 0.2)
    site.answers["/file"] = hang
    with pytest.raises(DataError, match=r"cannot be reached \(timed out\)"):
        fetch(f"{site.address}/file", target)
    assert visible(target.parent) == []


def endless(request):
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(1000))
    except OSError:
        pass


def test_an_answer_without_an_end_is_cut_off(site, target, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 10_000)
    monkeypatch.setattr(download, "_CHUNK", 1000)
    site.answers["/file"] = endless
    with pytest.raises(DataError, match="does not end after 10,000 bytes"):
        fetch(f"{site.address}/file", target)
    assert visible(target.parent) == []


def test_a_file_too_large_for_the_disk_is_refused_before_it_is_fetched(url, target, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000, 9_000, 1_000))
    with pytest.raises(DataError, match=r"has 6,000 bytes, but .* has room for 1,000"):
        fetch(url, target)
    assert visible(target.parent) == []


def test_a_full_disk_is_one_sentence(url, target, full_disk):
    with full_disk, pytest.raises(DataError, match=r"file cannot be written \(File too large\)"):
        fetch(url, target)
    assert visible(target.parent) == []


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/a", "a/b", ""])
def test_other_schemes_are_refused(address, target):
    with pytest.raises(DataError, match="is not an http or https address"):
        fetch(address, target)


def test_an_answer_cannot_lead_to_a_file_of_this_machine(site, target, tmp_path):
    (tmp_path / "secret").write_text("secret")

    def redirect(request):
        request.send_response(302)
        request.send_header("Location", f"file://{tmp_path}/secret")
        request.end_headers()

    site.answers["/file"] = redirect
    with pytest.raises(DataError):
        fetch(f"{site.address}/file", target)
    assert not target.exists()


def test_a_redirection_to_another_address_is_followed(site, url, target):
    def redirect(request):
        request.send_response(302)
        request.send_header("Location", url)
        request.end_headers()

    site.answers["/moved"] = redirect
    fetch(f"{site.address}/moved", target)
    assert target.read_bytes() == CONTENT


def _fetch(url, target):
    fetch(url, target)
    return target.read_bytes() == CONTENT


def test_of_several_processes_one_fetches(site, target):
    site.answers["/file"] = CONTENT
    with multiprocessing.get_context("fork").Pool(3) as pool:
        whole = pool.starmap(_fetch, [(f"{site.address}/file", target)] * 6)
    assert all(whole)
    assert site.asked == ["/file"]


def test_progress_is_drawn_on_a_terminal(url, target, monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr("rich.console.Console", lambda **_: console)
    fetch(url, target)
    shown = screen.getvalue()
    assert "file" in shown
    assert "6.0/6.0 kB" in shown


def test_elsewhere_nothing_is_drawn(url, target, capfd):
    fetch(url, target)
    assert capfd.readouterr() == ("", "")
