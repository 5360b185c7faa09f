"""Read all pages of a query, and confirm that nothing is missing.

A service can return a full page without a link to the next one, fewer items than it announces, or
the same page again. An answer of several pages is complete if it has as many items as every page
announced. A single page is not, because services can announce the items of the page instead of
those of the query. Otherwise the query is divided by dates, and a part of a single day by area: the
answer is complete if its parts have the same items. If they do not, each part is confirmed in the
same way, down to single days.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from .query import Query, QueryRefused

log = logging.getLogger(__name__)

MAX_REFUSED = 24
"""Number of refused answers, and of those with more items than their parts, after which a search
fails: the service is probably down."""

MAX_IDLE_PAGES = 3
"""Number of consecutive pages without a new item after which paging ends."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """One response of a service.

    Attributes:
        documents: the items.
        following: request of the next page, with a JSON representation; None on the last page.
        matched: number of items of the query that the service announces; None if it does not.
    """

    documents: list[Document]
    following: Any
    matched: int | None


@dataclass
class _Answer:
    """All pages of one query.

    Attributes:
        ids: time by id of an item; empty text if it has none.
        pages: number of pages.
        certain: the service announced exactly this number of items on every page, and there are
            several pages or no items.
        doubt: `_USUAL_LIMIT`, `_EQUAL_PAGES`, `_FULL_OR_REPEATED`, or 0.
        full: the last page has as many items as were requested.
    """

    ids: dict[str, str] = field(default_factory=dict)
    pages: int = 0
    certain: bool = False
    doubt: int = 0
    full: bool = False


_USUAL_LIMIT = 1
"""The number of items is a usual limit of services."""

_EQUAL_PAGES = 2
"""The last page has as many items as earlier pages of this service."""

_FULL_OR_REPEATED = 3
"""The last page has as many items as were requested, or leads to a page already read."""


class _FewerThanAnnounced(QueryRefused):
    """An answer has fewer items than the service announced."""


class SearchTooLong(Exception):
    """A search did not finish in time."""


class CompleteSearch:
    """Search of a service whose result is complete, or an error.

    Args:
        fetch: returns a page of a query, given the request of the page (None for the first) and
            the number of items requested.
        key: returns the id and the RFC 3339 time (or an empty text) of a document.
        limit: number of items requested per page.
        seconds: time limit of the complete search.
        noun: what the documents are, for messages.
    """

    def __init__(
        self,
        fetch: Callable[[Query, Any, int], Page],
        key: Callable[[Document], tuple[str, str]],
        limit: int,
        seconds: float,
        noun: str = "items",
    ) -> None:
        self._fetch, self._key = fetch, key
        self._limit, self._noun = limit, noun
        self._seconds, self._end = seconds, time.monotonic() + seconds
        self._yielded: set[bytes] = set()
        self._divided: list[set[str]] = []  # ids of each query that is being divided
        self._refused = 0
        self._largest_page = 0
        self._has_next = False
        self._cut_at_limit = False
        self._ignores_filters = False
        self._contradicted = False

    def documents(self, query: Query) -> Iterator[Document]:
        """Yield the documents of a query. An id is repeated only with other content.

        Raises:
            QueryRefused: the service refuses the smallest part of the query, or its answer cannot
                be completed.
            SearchTooLong: the time limit has passed.
        """
        yield from self._solve(query, None)

    def _solve(self, query: Query, answer: _Answer | None) -> Iterator[Document]:
        if answer is None:
            try:
                answer = yield from self._read(query, self._limit)
            except QueryRefused as error:
                yield from self._divide_refused(query, error)
                return
        if answer.certain and not answer.doubt:
            return
        if self._cut_at_limit and not self._has_next and not answer.doubt:
            return  # the service cuts its answers at the limit, and this one is shorter
        if answer.full and not self._has_next and query.days > 1:
            self._cut_at_limit = True
            log.info("%s has a full page without a next one: querying each half", query)
            for part in query.by_days():
                yield from self._solve(part, None)
            return
        yield from self._confirm(query, answer)

    def _confirm(self, query: Query, answer: _Answer) -> Iterator[Document]:
        """Compare an answer with those of the parts of its query; use the parts if they differ."""
        parts, by_area = query.by_times(answer.ids.values()), False
        if not parts:
            parts, by_area = query.by_area(), True
        answers: list[_Answer | None] = []
        ids: set[str] = set()
        for part in parts:
            try:
                partial = yield from self._read(part, self._limit)
            except QueryRefused as error:
                log.warning("%s was refused: %s", part, error)
                answers.append(None)
                continue
            answers.append(partial)
            ids |= partial.ids.keys()
        agree = parts and None not in answers and ids == answer.ids.keys()
        # A cut answer and a part with the same items can be cut in the same way.
        undivided = [a for a in answers if a and len(a.ids) == len(answer.ids)]
        # A service that contradicted itself is asked down to single days; so are doubtful parts.
        unsure = self._contradicted or any(a.doubt == _EQUAL_PAGES for a in answers if a)
        deeper = unsure and not by_area and bool(answer.ids)
        if agree and not deeper and not (undivided and self._is_strong(answer)):
            return
        if not parts or (agree and (by_area or self._ignores_filters)):
            if self._is_strong(answer):
                yield from self._probe(query, answer)
            return
        self._contradicted |= not agree
        if not agree and ids <= answer.ids.keys():
            self._count_refusal(
                query, f"its {len(answer.ids)} {self._noun} are not those of its parts"
            )
        for part, known in zip(parts, answers, strict=True):
            yield from self._solve(part, known)

    def _is_strong(self, answer: _Answer) -> bool:
        """Return whether a part with the same items does not confirm an answer."""
        if not answer.ids:
            return False
        return answer.doubt > (_EQUAL_PAGES if self._ignores_filters else 0)

    def _probe(self, query: Query, answer: _Answer) -> Iterator[Document]:
        """Confirm an indivisible full answer by reading it in smaller pages.

        A service that has a next page for a smaller page would have had one for this page, too.
        """
        size = len(answer.ids) // 2 + 1
        again = yield from self._read(query, size)
        paged = again.pages > 1 and again.doubt < _FULL_OR_REPEATED
        if again.ids.keys() != answer.ids.keys() or (answer.doubt > _EQUAL_PAGES and not paged):
            raise self._error(
                query,
                f"its {answer.pages} pages have {len(answer.ids)} {self._noun}, the last page is "
                "full or repeated and has no usable next page, so others can be missing",
            )

    def _divide_refused(self, query: Query, error: QueryRefused) -> Iterator[Document]:
        self._count_refusal(query, str(error))
        parts = query.by_days() or query.by_area()
        if not parts:
            raise self._error(query, str(error)) from error
        log.warning("%s was refused (%s); querying its parts", query, error)
        found: set[str] = set()
        self._divided.append(found)
        for part in parts:
            yield from self._solve(part, None)
        self._divided.pop()
        if isinstance(error, _FewerThanAnnounced):
            self._check_announced(query, len(found))

    def _check_announced(self, query: Query, number: int) -> None:
        """Raise if a service still announces more items of a query than its parts have."""
        try:
            announced = self._fetch(query, None, self._limit).matched
        except QueryRefused as error:
            raise self._error(query, str(error)) from error
        if announced is not None and announced > number:
            raise self._error(
                query,
                f"the service announced {announced} {self._noun} but its parts have {number}",
            )

    def _count_refusal(self, query: Query, cause: str) -> None:
        self._refused += 1
        if self._refused >= MAX_REFUSED:
            raise self._error(query, cause)

    def _error(self, query: Query, cause: str) -> QueryRefused:
        return QueryRefused(f"{query} was refused: {cause}")

    def _read(self, query: Query, limit: int) -> Generator[Document, None, _Answer]:
        """Yield the new documents of all pages of a query; return what the pages had."""
        answer = _Answer()
        requests: set[str] = set()
        announced: list[int | None] = []
        following: Any = None
        idle = 0
        while True:
            if time.monotonic() > self._end:
                raise SearchTooLong(
                    f"{query} did not finish: the search took more than {self._seconds:.0f} s"
                )
            page = self._fetch(query, following, limit)
            answer.pages += 1
            known = len(answer.ids)
            for document in page.documents:
                id_, moment = self._key(document)
                answer.ids[id_] = moment
                if self._is_new(document):
                    yield document
            announced.append(page.matched)
            idle = 0 if len(answer.ids) > known else idle + 1
            size = len(page.documents)
            following = page.following
            if following is None:
                answer.full = size == limit
                if 0 < self._largest_page <= size:
                    answer.doubt = _EQUAL_PAGES
                if answer.full:
                    answer.doubt = _FULL_OR_REPEATED
                break
            request = json.dumps(following, sort_keys=True)
            if request in requests or idle >= MAX_IDLE_PAGES:
                log.warning("%s: the next page repeats earlier ones", query)
                answer.doubt = _FULL_OR_REPEATED
                break
            requests.add(request)
            self._has_next = True
            self._largest_page = max(self._largest_page, size)
        for ids in self._divided:
            ids.update(answer.ids)
        if _is_usual_limit(len(answer.ids)):
            answer.doubt = max(answer.doubt, _USUAL_LIMIT)
        self._ignores_filters |= any(query.excludes(moment) for moment in answer.ids.values())
        most = max((number for number in announced if number is not None), default=None)
        if most is not None and len(answer.ids) < most:
            raise _FewerThanAnnounced(
                f"the service announced {most} {self._noun} but returned {len(answer.ids)} on "
                f"{answer.pages} {'page' if answer.pages == 1 else 'pages'}"
            )
        answer.certain = set(announced) == {len(answer.ids)} and (
            answer.pages > 1 or not answer.ids
        )
        return answer

    def _is_new(self, document: Document) -> bool:
        text = json.dumps(document, sort_keys=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self._yielded:
            return False
        self._yielded.add(digest)
        return True


def _is_usual_limit(number: int) -> bool:
    """Return whether services limit answers to this number: 10, 20, 25, 50, 100, 200, ..."""
    while number >= 1000 and number % 10 == 0:
        number //= 10
    return number in (10, 20, 25, 50, 100, 200, 250, 500)
