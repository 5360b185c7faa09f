"""Secrets in URLs of every kind."""

from __future__ import annotations

import pytest

from tessera_flow.urls import public_href, redacted, stated_secret

CLEANED = {
    "https://u:pw@h/a.tif?sig=pw#pw": "https://h/a.tif",
    "abfs://user:pw@h/a.tif?sig=pw": "abfs://h/a.tif",
    "abfss://c@account.dfs.core.windows.net/a": "abfss://account.dfs.core.windows.net/a",
    "new+scheme.2://x:pw@h/a?pw": "new+scheme.2://h/a",
    "HTTPS://u:pw@H/a?pw": "HTTPS://H/a",
    "http://u:p/pw@h/a": "http://h/a",
    "http://[::1]:80/a?pw": "http://[::1]:80/a",
    "http://[bad?pw": "http://[bad",
    "file://u:pw@h/a?pw": "file://h/a",
    "/vsicurl/https://u:pw@h/a.tif?sig=pw": "/vsicurl/https://h/a.tif",
    "/vsicurl?url=https%3A//h&sig=pw": "/vsicurl",
    "https://h/@scope/x@1": "https://h/@scope/x@1",
    "/data/tile #2/a?b@c.tif": "/data/tile #2/a?b@c.tif",
    "file:///data/a?b.tif": "file:///data/a?b.tif",
}


@pytest.mark.parametrize(("url", "cleaned"), CLEANED.items())
def test_secret_parts_of_urls_are_removed(url: str, cleaned: str) -> None:
    assert public_href(url) == cleaned
    if "pw" in url:
        assert "pw" not in redacted(f"cannot open {url}: refused")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://h/stac?f=json&limit=5", None),
        ("https://h/?token=${TOKEN}", None),
        ("https://${USER}:${PASSWORD}@h/", None),
        ("/data/a?token=x", None),
        ("https://h/?a=1&X-Amz-Signature=x", "the parameter X-Amz-Signature"),
        ("https://h/?access_token=x", "the parameter access_token"),
        ("https://me:${PASSWORD}@h/", "a user name or password"),
        ("s3://key:x@bucket/", "a user name or password"),
    ],
)
def test_secrets_that_urls_state(url: str, secret: str | None) -> None:
    assert stated_secret(url) == secret
