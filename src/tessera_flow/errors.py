"""The errors a user sees: each says what was wrong, where, and what to do."""


class TesseraFlowError(Exception):
    """Base of every error that is the user's to mend; its text is the whole message.

    Front ends (the command line, the Snakemake scripts) print the text without a
    traceback. Anything else that escapes is a defect of this program.
    """


class ConfigError(TesseraFlowError):
    """A configuration key is missing, misspelt, of the wrong type or contradictory."""


class RegionError(TesseraFlowError):
    """A region of interest cannot be read or used."""


class ItemError(TesseraFlowError):
    """Source items are missing, or one of them contradicts what its source promises."""


class CredentialsError(TesseraFlowError):
    """A token that an archive asks for is missing or cannot be used."""


class ReadError(TesseraFlowError):
    """A raster could not be read; never turned into empty data."""


class CheckpointError(TesseraFlowError):
    """Model weights are missing, corrupt, of another family or not plain data."""


class TileError(TesseraFlowError):
    """A tile folder or an intermediate file is missing, truncated or inconsistent."""


class OutputError(TesseraFlowError):
    """A result cannot be written (disk full, not writable, in the way)."""


class Stopped(TesseraFlowError):
    """A job was asked to stop (SIGTERM) before it was done; it is to be run again."""
