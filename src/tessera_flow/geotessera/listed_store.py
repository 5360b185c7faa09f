"""Read a Zarr store with a list of its files, of which none may be missing.

A file that does not exist is a chunk of the fill value, an area without embeddings, in any Zarr
store. Only a list of the files distinguishes it from one that was lost. Stores that tessera-flow
wrote have one.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from ..errors import TesseraFlowError
from .metadata import FILE_LIST

MakesError = Callable[[str], TesseraFlowError]


class ListedStore(WrapperStore[Store]):
    """A store in which a listed file that does not exist is an error.

    Attributes:
        listed: names of the files.
        error: makes the error of a missing file from its message.
    """

    def __init__(self, store: Store, listed: frozenset[str], error: MakesError) -> None:
        super().__init__(store)
        self.listed = listed
        self.error = error

    def _with_store(self, store: Store) -> ListedStore:
        return type(self)(store, self.listed, self.error)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a file, None if neither the store nor the list has it.

        Raises:
            TesseraFlowError: it is listed, but does not exist.
        """
        data = await super().get(key, prototype, byte_range)
        if data is None and key in self.listed:
            raise self.error(f"{key} is in its {FILE_LIST}, but does not exist")
        return data


def listed_files(text: bytes) -> frozenset[str]:
    """Return the names of the files in a list.

    Raises:
        ValueError: it is damaged.
    """
    document = json.loads(text)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict):
        raise ValueError("it has no files")
    return frozenset(files)
