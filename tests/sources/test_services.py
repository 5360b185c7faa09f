"""Searches of a STAC API: pages, fields, failures, and secrets in its URL."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ConfigError, CredentialsError, ItemError

from ..support.pipeline import ingest, manifest
from ..support.search_run import (
    PASSWORD,
    TOKEN,
    Items,
    assert_no_secret,
    assert_same,
    ids,
    located,
    outcome,
    relocated,
    search,
)
from ..support.servers import FileServer, closed_port, serve_files, serve_stac


@pytest.mark.parametrize("post", [True, False])
def test_api_with_paging_and_repeated_items(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    scenes: Path,
    server: FileServer,
    expected: dict[str, Any],
    post: bool,
) -> None:
    items = relocated(archive, scenes, f"{server.url}/")
    with serve_stac(items, page_size=2, overlap=1, post=post) as api:
        run_files = ingest(located(tmp_path / "x", roi, api.url))
        assert_same(outcome(run_files), expected)
        # Five scenes (including midnight after the end), two per page, each page starting with
        # the last scene of the previous page. Then parts of the period confirm the list.
        first = api.searches()[:5]
        assert ["token" in json.dumps([r.path, r.body]) for r in first] == [
            False, True, True, True, False,
        ]  # fmt: skip
        assert {r.method for r in api.searches()} == {"POST" if post else "GET"}


def test_search_includes_the_complete_last_day(tmp_path: Path, roi: Path, archive: Items) -> None:
    with serve_stac(archive) as api:
        run_files = search(tmp_path, roi, api.url)
        # One day more: the time of an item can be after midnight, that of its datatake before.
        assert api.searches()[0].body["datetime"] == "2021-06-01T00:00:00Z/2021-07-02T00:00:00Z"
    assert ids(run_files)[-1] == archive[0]["id"]
    # The response also contains midnight of 1 July, which is not in the period.
    assert archive[4]["id"] not in ids(run_files)


FIELDS = "https://api.stacspec.org/v1.0.0/item-search#fields"
CUT = ("s2:datastrip_id", "s2:processing_baseline", "proj:epsg", "eo:cloud_cover")


def _reducing(api: Any, how: str) -> list[str]:
    """Let an API announce the fields extension and reduce items; return the list of methods of
    searches that used it, which grows."""
    respond, used = api.respond, []

    def reduced(item: dict[str, Any], include: set[str]) -> dict[str, Any]:
        item = {key: value for key, value in item.items() if key in include or key == "assets"}
        keys = {name.partition(".")[2] for name in include if name.startswith("assets.")}
        item["assets"] = {key: item["assets"][key] for key in keys & item["assets"].keys()}
        if how == "no assets":
            item.pop("assets")
        if how == "no properties of some extensions":
            for name in CUT:
                item["properties"].pop(name, None)
        if how == "no projection of assets":
            for asset in item["assets"].values():
                asset.pop("proj:transform", None)
        return item

    def with_fields(method: str, path: str, headers: Any, body: Any) -> Any:
        status, kind, content = respond(method, path, headers, body)
        document = json.loads(content)
        if "conformsTo" in document:
            document["conformsTo"] = [*document["conformsTo"], FIELDS]
        include = set((body or {}).get("fields", {}).get("include", ()))
        for text in parse_qs(urlsplit(path).query).get("fields", ()):
            include = {name for name in text.split(",") if not name.startswith("-")}
        if include and path.startswith("/search"):
            used.append(method)
            document["features"] = [reduced(item, include) for item in document["features"]]
        return status, kind, json.dumps(document).encode()

    api.respond = with_fields
    return used


@pytest.mark.parametrize("post", [True, False])
@pytest.mark.parametrize(
    "how",
    ["obeys", "no assets", "no properties of some extensions", "no projection of assets"],
)
def test_fields_are_requested_where_announced_and_nothing_is_lost(
    tmp_path: Path, roi: Path, archive: Items, how: str, post: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """An API that announces the extension but cuts what was requested is asked without it."""
    caplog.set_level("INFO")
    expected = search(tmp_path / "plain", roi, _written(tmp_path / "all.json", archive))
    with serve_stac(archive, page_size=9, post=post) as api:
        used = _reducing(api, how)
        run_files = search(tmp_path / "x", roi, api.url)
        total = len(api.searches())
    assert set(used) == {"POST" if post else "GET"}
    if how == "obeys":
        assert len(used) == total - 1  # some items are compared with complete ones, once
        assert "without the fields extension" not in caplog.text
    else:
        assert len(used) == 1
        assert "searching without the fields extension: " in caplog.text
    if how == "no properties of some extensions":
        assert "items lack requested fields (properties." in caplog.text
    assert len(manifest(run_files, "sentinel2").items) == 4
    for item, other in zip(
        manifest(run_files, "sentinel2").items, manifest(expected, "sentinel2").items, strict=True
    ):
        # The reason for an item that is left out would name fewer unused assets.
        assert item.stac["properties"] == other.stac["properties"]
        assert item.stac["assets"] == other.stac["assets"]
        assert item.extent == other.extent


@pytest.mark.parametrize("announces", [True, False])
def test_relative_urls_of_assets_are_relative_to_the_item(
    tmp_path: Path, roi: Path, archive: Items, announces: bool
) -> None:
    (first, other), names = (dict(item) for item in archive[:2]), {}
    for item in (first, other):
        item["assets"] = {
            key: asset | {"href": f"./data/{item['id']}/{key}.tif"}
            for key, asset in item["assets"].items()
        }
    first["links"] = [{"rel": "self", "href": "https://files.test/items/1/item.json?x=1"}]
    other["links"] = [None]
    with serve_stac([first, other]) as api:
        used = _reducing(api, "obeys") if announces else []
        run_files = search(tmp_path / "x", roi, api.url)
        names = {
            first["id"]: f"https://files.test/items/1/data/{first['id']}/B02.tif",
            other["id"]: f"{api.url.rstrip('/')}/data/{other['id']}/B02.tif",
        }
    assert len(used) == announces
    for item in manifest(run_files, "sentinel2").items:
        assert item.stac["assets"]["B02"]["href"] == names[item.id]


def _written(path: Path, items: Items) -> Path:
    write_item_collection(path, items)
    return path


def test_search_is_retried_if_the_service_is_busy(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with serve_stac(archive, unavailable=2) as api:
        run_files = search(tmp_path, roi, api.url, download={"attempts": 3})
        assert [r.status for r in api.requests[:3]] == [503, 503, 200]
    assert len(ids(run_files)) == 4


def test_search_fails_after_the_configured_number_of_attempts(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with (
        serve_stac(archive, unavailable=99) as api,
        pytest.raises(ItemError, match=r"Searching sentinel-2-l2a at http://127.*503"),
    ):
        search(tmp_path, roi, api.url, download={"attempts": 2})
    assert len(api.requests) == 2


def test_search_fails_after_the_timeout(tmp_path: Path, roi: Path, archive: Items) -> None:
    """The timeout applies to every request, not only to the first one (the landing page)."""
    with serve_stac(archive) as api:
        respond = api.respond

        def slow_search(method: str, path: str, *rest: Any) -> Any:
            if path.startswith("/search"):
                time.sleep(1.0)
            return respond(method, path, *rest)

        api.respond = slow_search  # type: ignore[method-assign]
        with pytest.raises(ItemError, match=r"Searching sentinel-2-l2a.*2021-06-01.*timed out"):
            search(tmp_path, roi, api.url, download={"attempts": 1, "timeout": 0.2})


@pytest.fixture
def with_secrets(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function that adds variables with a password and a token to a URL."""
    monkeypatch.setenv("ARCHIVE_PASSWORD", PASSWORD)
    monkeypatch.setenv("ARCHIVE_TOKEN", TOKEN)

    def with_variables(url: str) -> str:
        login = "http://${ARCHIVE_USER}:${ARCHIVE_PASSWORD}@"
        return f"{url.replace('http://', login)}/?token=${{ARCHIVE_TOKEN}}"

    monkeypatch.setenv("ARCHIVE_USER", "user")
    return with_variables


@pytest.mark.parametrize("failure", ["dead", "busy", "refused"])
def test_error_of_a_failing_service_has_no_secrets(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    caplog: pytest.LogCaptureFixture,
    failure: str,
    with_secrets: Callable[[str], str],
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=9) as api:
        port = closed_port() if failure == "dead" else api.port
        location = with_secrets(f"http://127.0.0.1:{port}")
        if failure == "refused":
            api.unavailable = 0
            api.respond = lambda *_: (403, {}, f"bad token {TOKEN}".encode())  # type: ignore
        with pytest.raises(ItemError, match=rf"http://127\.0\.0\.1:{port}/") as raised:
            search(tmp_path, roi, location, download={"attempts": 2})
    assert_no_secret(str(raised.value), caplog.text)
    assert "\n" not in str(raised.value)
    if failure == "dead":
        assert "Retrying" in caplog.text


def test_secrets_in_a_url_are_sent_only_to_the_service(
    tmp_path: Path,
    roi: Path,
    archive: Items,
    caplog: pytest.LogCaptureFixture,
    with_secrets: Callable[[str], str],
) -> None:
    caplog.set_level(logging.INFO)
    with serve_stac(archive, unavailable=1) as api:
        search(tmp_path, roi, with_secrets(api.url), download={"attempts": 2})
        assert len(api.searches()) >= 3
        for request in api.requests:
            assert f"token={TOKEN}" in request.path
            assert "authorization" in request.headers
    written = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("work/**/*.*")]
    assert len(written) >= 2
    assert_no_secret(caplog.text, *written)


def test_secrets_in_a_url_are_not_sent_to_another_host(
    tmp_path: Path, roi: Path, archive: Items, with_secrets: Callable[[str], str]
) -> None:
    with serve_stac(archive) as api, serve_stac(archive) as other:
        landing = api.respond("GET", "/", {}, None)[2].replace(
            f"{api.url}/search".encode(), f"{other.url}/search".encode()
        )
        api.respond = lambda *_: (200, {}, landing)  # type: ignore[method-assign]
        search(tmp_path, roi, with_secrets(api.url))
        assert "authorization" in api.requests[0].headers
        assert len(other.searches()) >= 3
        for request in other.requests:
            assert "authorization" not in request.headers
            assert_no_secret(request.path)


def test_login_of_a_netrc_file_is_used_and_must_be_private(
    tmp_path: Path, roi: Path, archive: Items, scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the search and for the scenes, and for that host only."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PASSWORD}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    netrc.chmod(0o644)
    optical = {"sentinel1": {"enabled": False}}
    with (
        serve_files(scenes) as files,
        serve_stac(relocated(archive[3:4], scenes, f"http://localhost:{files.port}/")) as api,
    ):
        with pytest.raises(CredentialsError, match="other users can read it: run `chmod 600"):
            search(tmp_path / "a", roi, api.url)
        netrc.chmod(0o600)
        ingest(located(tmp_path / "b", roi, api.url, **optical))
        assert all("authorization" in request.headers for request in api.requests)
        assert files.requests
        assert not any("authorization" in request.headers for request in files.requests)
        items = tmp_path / "items.json"
        write_item_collection(items, relocated(archive[3:4], scenes, f"{files.url}/"))
        files.requests.clear()
        ingest(located(tmp_path / "c", roi, items, **optical))
        assert {request.headers["authorization"] for request in files.requests} == {
            "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        }


def test_variable_that_is_not_set_is_named(tmp_path: Path, roi: Path) -> None:
    with pytest.raises(ConfigError, match=r"^sentinel2\.location needs a variable, but .* NO_SUCH"):
        search(tmp_path, roi, "http://127.0.0.1:9/?token=${NO_SUCH}")


def test_missing_collection_has_one_clear_message(
    tmp_path: Path, roi: Path, archive: Items
) -> None:
    with (
        serve_stac(archive) as api,
        pytest.raises(
            ItemError,
            match=r"No Sentinel-2 scene covers region here .* in collection sentinel-2-l1c of "
            rf"http://127\.0\.0\.1:{api.port} .*`sentinel2\.collection`",
        ),
    ):
        search(tmp_path, roi, api.url, sentinel2={"collection": "sentinel-2-l1c"})
