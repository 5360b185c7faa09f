"""Define the errors a user sees. Each message names the fault, its place, and the remedy."""


class TesseraFlowError(Exception):
    """Base of every error that the user can fix; its text is the complete message.

    Front ends (the command line, the Snakemake scripts) print the text without a
    traceback. Any other exception is an internal error.
    """


class ConfigError(TesseraFlowError):
    """A configuration key is missing, misspelt, of the wrong type or contradictory."""


class RegionError(TesseraFlowError):
    """A region of interest cannot be read or used."""


class ItemError(TesseraFlowError):
    """Source items are missing, or one of them contradicts its provider's conventions."""


class CredentialsError(TesseraFlowError):
    """A token that an archive requires is missing or cannot be used."""


class ReadError(TesseraFlowError):
    """A raster could not be read; never turned into empty data."""


class CheckpointError(TesseraFlowError):
    """Model weights are missing, corrupt, of another family or not plain data."""


class TileError(TesseraFlowError):
    """A tile folder or an intermediate file is missing, truncated or inconsistent."""


class OutputError(TesseraFlowError):
    """A result cannot be written (disk full, no permission, path in use)."""


class ToleranceError(TesseraFlowError):
    """Embeddings of a device or precision differ too much from the reference."""


class NotFiniteError(ToleranceError):
    """Embeddings are not finite numbers: a precision overflowed, or weights or values are bad."""


class Stopped(BaseException):
    """A job was stopped (SIGTERM) before it was done and must be run again.

    Like KeyboardInterrupt, it can be raised between any two statements and says nothing about what
    they were doing: it is no `Exception`, which code that reads a file may take for damage.
    """


class Refused(TesseraFlowError):
    """A job refuses files of other settings; no product may be written without its block."""


class LabelError(TesseraFlowError):
    """Labels for a map cannot be read, understood or used."""
