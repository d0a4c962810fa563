"""Passwords in the address of a tracking server stay in the process."""

import pytest

from newton_krylov.tracking.address import keep, masked, revealed

ADDRESSES = {
    "http://bob:s3cret@host:5000": "http://bob:***@host:5000",
    "https://bob:p@ss:w@host/mlflow": "https://bob:***@host/mlflow",
    "https://s3cret@host": "https://***@host",
    "https://:s3cret@host": "https://:***@host",
    "postgresql+psycopg2://u:s3cret@h/db": "postgresql+psycopg2://u:***@h/db",
    "mysql://h/db?user=u&password=s3cret&x=1": "mysql://h/db?user=u&password=***&x=1",
    "https://host/?access_token=s3cret": "https://host/?access_token=***",
}


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch):
    monkeypatch.setenv("NEWTON_KRYLOV_ADDRESSES", "{}")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("address", ADDRESSES)
def test_it_is_masked_and_known_to_this_process_alone(address, monkeypatch):
    assert masked(address) == masked(masked(address)) == ADDRESSES[address]
    assert masked(f"request to {address}, failed") == f"request to {ADDRESSES[address]}, failed"
    with pytest.raises(ValueError, match="is not kept in a record"):
        revealed(ADDRESSES[address])
    assert keep(f"tracking.uri='{address}'") == f"tracking.uri='{ADDRESSES[address]}'"
    assert revealed(ADDRESSES[address]) == address
    monkeypatch.setenv("NEWTON_KRYLOV_ADDRESSES", "{}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert revealed(ADDRESSES[address]) == address


@pytest.mark.parametrize(
    "address", ["sqlite:////home/a@b/mlflow.db", "http://host:5000/x@y", "databricks", "file:///x"]
)
def test_what_has_no_password_stays_as_it_is(address):
    assert masked(address) == keep(address) == revealed(address) == address


def test_of_a_list_each_is_kept():
    keep("tracking.uri=http://a:x1@h,http://b:y2@k")
    assert revealed("http://a:***@h") == "http://a:x1@h"
    assert revealed("http://b:***@k") == "http://b:y2@k"
