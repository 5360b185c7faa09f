"""Read STAC documents, and check their form, which comes from many programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ItemError
from ..input_files import MAX_DOCUMENT, check_input
from ..urls import public_href
from .places import REFUSED, Places, refusal


def read_document(path: str) -> str:
    """Return the text of a file, in UTF-8.

    Raises:
        ItemError: it is not a file, or too large.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    check_input(path, ItemError, MAX_DOCUMENT)
    with open(path, encoding="utf-8-sig") as file:
        return file.read()


def links_of(document: Any) -> list[Mapping[str, Any]]:
    """Return the links of a document that are objects; nothing if it has no list of links."""
    links = document.get("links") if isinstance(document, Mapping) else None
    return [link for link in links if isinstance(link, dict)] if isinstance(links, list) else []


def catalog_links(document: Mapping[str, Any], place: str) -> list[Mapping[str, Any]]:
    """Return the links of a catalog or collection, of which each can lead to an item.

    Raises:
        ItemError: one of them is not an object, or there is no list of links.
    """
    links = document.get("links")
    if not isinstance(links, list):
        raise ItemError(
            f"{public_href(place)} has no list of `links`, so its items cannot be found: add the "
            "links, or set `location` to the files of the items."
        )
    _check_objects(links, "links", place, "an object with `rel` and `href`")
    return links


def features_of(document: Mapping[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the items of an item collection.

    Raises:
        ItemError: it has no list of objects.
    """
    features = document.get("features")
    if not isinstance(features, list):
        raise ItemError(
            f"{public_href(place)} is an item collection whose `features` is {_kind(features)}, "
            "not a list of items: fix it."
        )
    _check_objects(features, "features", place, "a STAC item")
    return features


def _check_objects(entries: Sequence[Any], key: str, place: str, expected: str) -> None:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise ItemError(
                f"Entry {number} of `{key}` of {public_href(place)} is {_kind(entry)}, not "
                f"{expected}: fix or remove it."
            )


def checked_item(item: dict[str, Any], place: str, places: Places) -> dict[str, Any]:
    """Return an item with a text as id and with absolute asset URLs; assets without a URL are
    removed.

    Args:
        item: a STAC item, which is modified.
        place: URL or path of its file or service.
        places: where its assets may be. One elsewhere gets the reason under `REFUSED`.

    Raises:
        ItemError: the item has no id, or its properties or assets are not of STAC's form.
    """
    if item.get("id") in (None, ""):
        raise ItemError(f"An item of {public_href(place)} has no `id`: fix or remove it.")
    item["id"] = str(item["id"])
    if not isinstance(item.get("properties"), dict):
        raise _invalid(item, place, "properties", item.get("properties"))
    assets = {} if item.get("assets") is None else item["assets"]
    if not isinstance(assets, dict):
        raise _invalid(item, place, "assets", assets)
    item["assets"] = {}
    for key, asset in assets.items():
        if asset is None:
            continue  # as if the item did not have it
        if not isinstance(asset, dict):
            raise _invalid(item, place, f"assets.{key}", asset)
        href = asset.get("href")
        if href in (None, ""):
            continue
        if not isinstance(href, str):
            raise _invalid(item, place, f"assets.{key}.href", href, "a text")
        found, problem = places.find(href, place)
        item["assets"][key] = asset | {"href": found}
        if problem:
            item["assets"][key][REFUSED] = refusal(key, href, problem)
    return item


def _invalid(
    item: Mapping[str, Any], place: str, key: str, value: Any, expected: str = "an object"
) -> ItemError:
    return ItemError(
        f"Item {item['id']} of {public_href(place)} is not a valid STAC item: `{key}` is "
        f"{_kind(value)}, not {expected}. Fix or remove it."
    )


def _kind(value: Any) -> str:
    """Return the kind of a JSON value in words."""
    if value is None:
        return "missing or null"
    names = {bool: "a truth value", str: "a text", list: "a list", dict: "an object"}
    return next((name for type_, name in names.items() if isinstance(value, type_)), "a number")
