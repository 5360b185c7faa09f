"""Searches of a STAC API: pages, fields, failures, and secrets in its URL."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from tessera_flow.demo.archive import write_item_collection
from tessera_flow.errors import ItemError

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
from ..support.servers import FileServer, closed_port, serve_stac


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


@pytest.mark.parametrize("obeys", [True, False])
def test_fields_are_requested_where_announced_and_nothing_is_lost(
    tmp_path: Path, roi: Path, archive: Items, obeys: bool
) -> None:
    """An API that announces the extension but returns items without assets is asked again."""
    expected = search(tmp_path / "plain", roi, _written(tmp_path / "all.json", archive))
    with serve_stac(archive, page_size=9) as api:
        respond = api.respond

        def with_fields(method: str, path: str, headers: Any, body: Any) -> Any:
            status, kind, content = respond(method, path, headers, body)
            document = json.loads(content)
            if "conformsTo" in document:
                uri = "https://api.stacspec.org/v1.0.0/item-search#fields"
                document["conformsTo"] = [*document["conformsTo"], uri]
            if body and "fields" in body:
                assert {"id", "properties", "assets.SCL"} <= set(body["fields"]["include"])
                for item in document["features"]:
                    item.pop("links")
                    if not obeys:
                        item.pop("assets")
            return status, kind, json.dumps(document).encode()

        api.respond = with_fields  # type: ignore[method-assign]
        run_files = search(tmp_path / "x", roi, api.url)
        first = api.searches()[0].body
    assert "fields" in first
    for item, other in zip(
        manifest(run_files, "sentinel2").items, manifest(expected, "sentinel2").items, strict=True
    ):
        assert item.stac["properties"] == other.stac["properties"]
        assert item.stac["assets"].keys() == other.stac["assets"].keys()
        assert item.extent == other.extent


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


def with_secrets(url: str) -> str:
    return f"{url.replace('http://', f'http://user:{PASSWORD}@')}/?token={TOKEN}"


@pytest.mark.parametrize("failure", ["dead", "busy", "refused"])
def test_error_of_a_failing_service_has_no_secrets(
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture, failure: str
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
    tmp_path: Path, roi: Path, archive: Items, caplog: pytest.LogCaptureFixture
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
    tmp_path: Path, roi: Path, archive: Items
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
