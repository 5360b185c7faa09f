"""A STAC API that fails as real ones do, by a schedule that follows from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from .servers import GEOJSON, Answer, StacServer, matches

FAULTS = (
    "lost_next", "loop", "duplicates", "shuffled", "bad_gateway", "truncated", "matched_more",
    "matched_page", "added", "deleted", "empty_page", "cap", "not_items", "ragged",
)  # fmt: skip


@dataclass
class FaultySearch(StacServer):
    """STAC API with faults.

    It never drops a single item of a day at random, without any sign: no reader can notice that.

    Attributes:
        seed: of the schedule.
        kinds: which of `FAULTS` occur.
        rate: probability that a page has a fault of those that are not permanent.
        announces: announce the number of matches.
    """

    seed: int = 0
    kinds: frozenset[str] = frozenset()
    rate: float = 0.1
    announces: bool = False
    random: random.Random = field(default_factory=random.Random)
    pages: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def respond(self, method: str, path: str, headers: Mapping[str, str], body: Any) -> Answer:
        if not path.startswith("/search"):
            return super().respond(method, path, headers, body)
        query = body
        if method == "GET":
            query = {k: v[0] for k, v in parse_qs(urlsplit(path).query).items()}
        with self.lock:
            return self._faulty(query, method == "POST")

    def _occurs(self, fault: str) -> bool:
        return fault in self.kinds and self.random.random() < self.rate

    def _faulty(self, query: Mapping[str, Any], post: bool) -> Answer:
        self.pages += 1
        if self._occurs("bad_gateway"):
            return 502, {}, b"<html>Bad Gateway</html>"
        if self._occurs("not_items"):
            return 200, {}, b'{"message": "Endpoint request timed out"}'
        found = [item for item in self.items if matches(item, query)]
        found.sort(key=lambda item: item["properties"]["datetime"], reverse=True)
        if "added" in self.kinds and self.pages == 1 and self.page_size < len(self.items):
            found = found[1:]  # the newest one is published after the first page
        if "shuffled" in self.kinds:
            self.random.shuffle(found)
        size = min(int(query.get("limit", 10)), self.page_size)
        if "ragged" in self.kinds:
            size = self.random.randint(max(2, size // 2), size)
        start = int(query.get("token", 0))
        if start and self._occurs("deleted"):
            found = found[:start] + found[start + 1 :]  # an offset leads past an item
        if self._occurs("duplicates"):
            start = max(0, start - 2)
        stop = start + size
        features = found[start:stop]
        has_next = stop < len(found)
        if self._occurs("empty_page"):
            features, stop, has_next = [], start, True
        document: dict[str, Any] = {"type": "FeatureCollection", "features": features, "links": []}
        if self.announces:
            document["numberMatched"] = len(found)
            if self._occurs("matched_more"):
                document["numberMatched"] += 7
            if "matched_page" in self.kinds:
                document["numberMatched"] = len(features)
        if "cap" in self.kinds:
            has_next = False
        if self._occurs("loop"):
            has_next, stop = True, start
        if has_next and not self._occurs("lost_next"):
            document["links"].append(self._link(query, post, stop))
        text = json.dumps(document).encode()
        if self._occurs("truncated"):
            text = text[: len(text) // 2]
        return 200, {"Content-Type": "application/json"}, text

    def _link(self, query: Mapping[str, Any], post: bool, stop: int) -> dict[str, Any]:
        link: dict[str, Any] = {"rel": "next", "type": GEOJSON}
        if post:
            return link | {"href": "search", "method": "POST", "body": {"token": stop},
                           "merge": True}  # fmt: skip
        return link | {"href": f"?{urlencode({**query, 'token': stop})}"}
