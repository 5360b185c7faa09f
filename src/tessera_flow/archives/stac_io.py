"""Read STAC documents from URLs and files, within the limits of `transfer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import IO, Any

import requests
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO

from ..config.sections import Download
from ..urls import is_url
from .documents import read_document
from .paging import SearchTooLong
from .transfer import MAX_TABLE, TimeLimit, pieces, receive, session_of


class LimitedIO(StacApiIO):
    """Reads of STAC documents within a time limit, and up to a size."""

    def __init__(
        self, download: Download, modifier: Callable[[Any], None], limit: TimeLimit
    ) -> None:
        super().__init__(timeout=download.timeout, max_retries=None, request_modifier=modifier)
        self.session = session_of(download, limit)
        self.limit = limit
        self._seconds = download.timeout
        self._modifier = modifier

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """Return the text at a URL.

        Raises:
            APIError: the request fails.
            SearchTooLong: it exceeds a limit.
        """
        method = (method or "GET").upper()
        values = dict(parameters or {})
        with_body = method in ("POST", "PUT", "PATCH")
        request = requests.Request(
            method,
            href,
            headers,
            params={} if with_body else values,
            json=values if with_body else None,
        )
        try:
            self._modifier(request)
            prepared = self.session.prepare_request(request)
            response, body = receive(self.session, prepared, self._seconds, self.limit)
        except (requests.RequestException, OSError, ValueError) as error:
            raise APIError(str(error)) from error
        if not response.ok:
            failure = APIError(body.decode("utf-8", "replace"))
            failure.status_code = response.status_code
            raise failure
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise APIError(f"the answer is not UTF-8 text ({error.reason})") from error

    def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
        """Return the text at a URL or path.

        Raises:
            ItemError: it is not a file, or too large.
            OSError: it cannot be read.
            APIError, SearchTooLong: see `request`.
        """
        if is_url(str(source)):
            return self.request(str(source), *args, **kwargs)
        return read_document(str(source))

    def copy(self, href: str, file: IO[bytes]) -> None:
        """Write the body at a URL to a file.

        Raises:
            requests.RequestException: the request fails.
            SearchTooLong: it exceeds a limit.
        """
        request = requests.Request("GET", href)
        self._modifier(request)
        prepared = self.session.prepare_request(request)
        self.limit.call(partial(self._copy, prepared, file))

    def _copy(self, prepared: requests.PreparedRequest, file: IO[bytes]) -> None:
        settings = self.session.merge_environment_settings(str(prepared.url), {}, True, None, None)
        with self.session.send(prepared, timeout=self._seconds, **settings) as response:
            response.raise_for_status()
            size = 0
            for piece in pieces(response, self.limit):
                size += file.write(piece)
                if size > MAX_TABLE:
                    raise SearchTooLong(f"the file has more than {MAX_TABLE / 1e9:.0f} GB")
