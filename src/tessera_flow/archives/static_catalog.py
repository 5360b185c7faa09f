"""Read the items of a static STAC catalog: files that link to each other."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from pystac_client.exceptions import APIError

from ..errors import ItemError
from ..urls import absolute_href, is_url, public_href, redacted
from .documents import catalog_links, features_of, links_of

_CHILDREN = ("child", "item")


def catalog_items(
    location: str, document: dict[str, Any], read: Callable[[str], str]
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield all items of a catalog, each with the URL or path of its file.

    In a copy on disk, links to the server that it was copied from lead to the copied files.

    Args:
        location: URL or path of the catalog.
        document: its content.
        read: returns the text of a URL or path.

    Raises:
        ItemError: a linked file is missing, cannot be read, or is not a STAC document.
    """
    location = location.partition("?")[0] if is_url(location) else location
    relations = {str(link.get("rel")) for link in links_of(document)}
    if "items" in relations and not relations & set(_CHILDREN):
        raise ItemError(
            f"{public_href(location)} is a collection of a STAC API: set `location` to the URL of "
            "the API itself (its landing page), and `collection` to the name of the collection."
        )
    waiting = [(document, location, _own_url(document, location))]
    seen = {location}
    while waiting:
        document, source, url = waiting.pop()
        kind = document.get("type")
        if kind == "Feature":
            yield _local_assets(document, source, url), source
            continue
        if kind == "FeatureCollection":
            items = features_of(document, source)
            check_complete(document, source, len(items))
            waiting += [({"type": "Feature"} | item, source, url) for item in reversed(items)]
            continue
        following = []
        for link in catalog_links(document, source):
            if link.get("rel") not in _CHILDREN:
                continue
            target, target_url = _resolve(str(link.get("href") or ""), source, url)
            if target in seen:
                continue
            seen.add(target)
            linked = _read(target, source, read)
            following.append((linked, target, target_url or _own_url(linked, target)))
        waiting += reversed(following)


def check_complete(document: dict[str, Any], place: str, number: int, last: bool = True) -> None:
    """Raise if an item collection is only one page of the response of an API.

    Args:
        document: an item collection.
        place: its URL or path, for the message.
        number: number of items of the collection and of those that belong to it.
        last: whether no other collection can contain the items of its next page.

    Raises:
        ItemError: it has fewer items than it states, or a next page.
    """
    context = document.get("context")
    stated = str(
        document.get("numberMatched")
        or (context.get("matched") if isinstance(context, dict) else None)
        or ""
    )
    if stated.isdigit():
        incomplete = int(stated) > number
    else:
        incomplete = last and any(link.get("rel") == "next" for link in links_of(document))
    if incomplete:
        raise ItemError(
            f"{public_href(place)} has {number} items, but is only one page of a search"
            f"{f' with {stated} items' if stated.isdigit() else ' (it has a next page)'}: save "
            "the items of all pages, or set `location` to the URL of the API."
        )


def _own_url(document: dict[str, Any], place: str) -> str:
    """Return the URL at which a file on disk was published; empty if it is unknown."""
    if is_url(place):
        return place
    links = {
        str(link.get("rel")): str(link.get("href") or "") for link in reversed(links_of(document))
    }
    self_links = [links.get("self", "")]
    if document.get("type") == "Catalog":
        self_links.append(links.get("root", ""))
    return next((href for href in self_links if is_url(href)), "")


def _resolve(href: str, place: str, url: str) -> tuple[str, str]:
    """Return the URL or path of a linked file, and the URL at which it was published."""
    if not href:
        raise ItemError(f"{public_href(place)} has a link without a target: fix or remove it.")
    if is_url(place):
        target = urljoin(place, href)
        if not is_url(target):
            raise ItemError(
                f"{public_href(place)} links to {public_href(target)}: a catalog of a service may "
                "link to http and https URLs only."
            )
        return target, target
    if is_url(href):
        local = _copied(href, place, url)
        if local is None:
            return href, href  # a catalog of our own, which links to another server
        return local, href
    path = absolute_href(href, place) if href.startswith("file://") else ""
    path = path or os.path.normpath(os.path.join(os.path.dirname(place), href))
    if not os.path.exists(path) and os.path.exists(unquote(path)):
        path = unquote(path)
    return path, urljoin(url, href) if url else ""


def _copied(href: str, place: str, url: str) -> str | None:
    """Return the path of the copy of a URL; None if `place` is not a copy from its server."""
    ours, theirs = urlsplit(url), urlsplit(href)
    if not url or ours.netloc != theirs.netloc:
        return None
    relative = posixpath.relpath(theirs.path, posixpath.dirname(ours.path) or "/")
    path = os.path.normpath(os.path.join(os.path.dirname(place), relative))
    return unquote(path) if not os.path.exists(path) else path


def _read(target: str, place: str, read: Callable[[str], str]) -> dict[str, Any]:
    where = f"{public_href(target)} (linked in {public_href(place)})"
    try:
        text = read(target)
    except FileNotFoundError as error:
        raise ItemError(f"{where} does not exist: copy it, or fix or remove the link.") from error
    except (OSError, APIError) as error:
        cause = redacted((str(error).strip() or type(error).__name__).splitlines()[0], target)
        raise ItemError(f"{where} cannot be read ({cause}).") from error
    try:
        document = json.loads(text)
    except ValueError as error:
        raise ItemError(f"{where} is not JSON: {error}.") from error
    kinds = ("Catalog", "Collection", "Feature", "FeatureCollection")
    if not isinstance(document, dict) or document.get("type") not in kinds:
        raise ItemError(f"{where} is not a STAC catalog, collection or item.")
    return document


def _local_assets(item: dict[str, Any], place: str, url: str) -> dict[str, Any]:
    """Return an item of a copied catalog with the paths of assets that were copied, too."""
    if is_url(place) or not url:
        return item
    assets, stated = {}, item.get("assets")
    for key, asset in stated.items() if isinstance(stated, dict) else ():
        if not isinstance(asset, dict):
            return item  # refused by `checked_item`
        href = str(asset.get("href") or "")
        local = _copied(href, place, url) if is_url(href) else None
        assets[key] = asset | {"href": local} if local and os.path.exists(local) else asset
    return item | {"assets": assets} if assets else item
