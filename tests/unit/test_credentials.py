"""Tokens: their sources, and that they are never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tessera_flow.archives.credentials import earthdata_token, netrc_login, warn_if_shared
from tessera_flow.archives.opera import Opera
from tessera_flow.archives.signing import Access
from tessera_flow.errors import CredentialsError

ASF = "https://cumulus.asf.earthdatacloud.nasa.gov/OPERA/x_VV.tif"
TOKEN = "eyJ0.abc-DEF_123~x/y+z=="


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    warn_if_shared.cache_clear()
    return tmp_path


def write_token(path: Path, text: str = f"{TOKEN}\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_order_of_variable_file_and_default_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CredentialsError, match=rf"write it to the file {home}/\.edl_bearer_token"):
        earthdata_token()
    write_token(home / ".edl_bearer_token", "one")
    assert earthdata_token() == "one"
    write_token(home / "other", "  Bearer two\n")
    monkeypatch.setenv("EARTHDATA_TOKEN_FILE", "~/other")
    assert earthdata_token() == "two"
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    assert earthdata_token() == TOKEN


@pytest.mark.parametrize("text", ["", "two words", "a\nb: c", "ä", "a\r\nHost: evil"])
def test_invalid_token_is_an_error_that_does_not_show_it(home: Path, text: str) -> None:
    path = write_token(home / ".edl_bearer_token", text)
    with pytest.raises(CredentialsError, match=str(path)) as raised:
        earthdata_token()
    assert not text or text not in str(raised.value)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_file_readable_by_others_is_logged_once(
    home: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    caplog.set_level(logging.WARNING)
    write_token(home / ".edl_bearer_token", mode=mode)
    assert [earthdata_token() for _ in range(3)] == [TOKEN] * 3
    assert caplog.text.count("chmod 600") == warned
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "href",
    [
        "http://cumulus.asf.earthdatacloud.nasa.gov/OPERA/x_VV.tif",
        "https://cumulus.asf.earthdatacloud.nasa.gov.example.org/x_VV.tif",
        "https://cumulus.asf.earthdatacloud.nasa.gov@example.org/x_VV.tif",
        "https://example.org/cumulus.asf.earthdatacloud.nasa.gov/x_VV.tif",
        "https://datapool.asf.alaska.edu/RTC/x_VV.tif",
        "/data/x_VV.tif",
    ],
)
def test_only_one_host_receives_the_token_and_only_by_https(
    href: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    assert Opera().access(href) == Access(href)
    assert Opera().access(ASF).gdal == {"GDAL_HTTP_HEADERS": f"Authorization: Bearer {TOKEN}"}


def test_repr_of_access_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_TOKEN", TOKEN)
    assert TOKEN not in f"{Opera().access(ASF)!r} {Opera().access(ASF)}"
    assert "sig" not in repr(Access("https://x/?sig=1"))


def test_only_an_entry_of_the_very_host_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    assert netrc_login("https://data.example.org/a.tif") is None
    text = "machine Data.example.org login me password one\ndefault login you password two\n"
    path = write_token(home / ".netrc", text, 0o644)
    # The mode matters only if a password is used.
    assert netrc_login("https://bucket.s3.amazonaws.com/a.tif") is None
    assert netrc_login("https://default/a.tif") is None
    with pytest.raises(CredentialsError, match=r"data\.example\.org, but other users can read it"):
        netrc_login("https://data.example.org:8080/a.tif")
    path.chmod(0o600)
    assert netrc_login("https://DATA.example.org:8080/a.tif") == ("me", "one")
    assert netrc_login("https://other.example.org/a.tif") is None
    assert not caplog.records
    path.write_text("machine data.example.org login me passwort secret\n")
    assert netrc_login("https://data.example.org/a.tif") is None
    assert f"line 1 of {path} is wrong" in caplog.text and "secret" not in caplog.text
