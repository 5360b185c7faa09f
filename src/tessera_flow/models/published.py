"""Published checkpoints, by the names that can be given instead of a path."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, ConfigError
from ..input_files import check_input

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Attributes:
        repository: its repository on Hugging Face.
        file: its path in the repository.
        parameters: number of parameters of its encoder.
        dim: largest number of dimensions that may be stored.
        revision: branch, tag or commit of the repository.
        sha256: of the file. None where it is not known: the first download of each work folder is
            recorded then (`models.weights_pin`).
    """

    repository: str
    file: str
    parameters: int
    dim: int = 128
    revision: str = "main"
    sha256: str | None = None

    @property
    def page(self) -> str:
        """URL of the model's page."""
        return f"{HUB}/{self.repository}"

    @property
    def url(self) -> str:
        """URL to download the file."""
        return f"{HUB}/{self.repository}/resolve/{self.revision}/{self.file}"


PUBLISHED = {
    f"v2-{size}": Published(
        f"geotessera/TESSERA-V-2.0-2B-{letter}", f"ckpt/student_{size}.pt", parameters
    )
    for size, letter, parameters in (
        ("nano", "N", 1_070_000),
        ("small", "S", 7_110_000),
        ("medium", "M", 21_030_000),
        ("large", "L", 43_830_000),
    )
} | {
    "v2-teacher": Published(
        "geotessera/TESSERA-V-2.0-2B-Teacher", "ckpt/tessera_v2_2B_teacher.pt", 2_064_266_242, 1024
    )
}


def weights_file(weights: str) -> Path | None:
    """Return the path of a checkpoint file, or None for a published name.

    Raises:
        ConfigError: `weights` is neither a published name nor similar to a path.
        CheckpointError: the file does not exist.
    """
    if weights in PUBLISHED:
        return None
    path = Path(weights).expanduser()
    if path.exists():
        check_input(path, CheckpointError)
        return path
    if path.suffix or len(path.parts) > 1:
        raise CheckpointError(
            f"The checkpoint {weights} does not exist: check the path (`model.weights`, or "
            f"`--weights`; a relative one is relative to {Path.cwd()}), or give a published name: "
            f"{', '.join(PUBLISHED)}."
        )
    nearest = difflib.get_close_matches(weights.lower(), PUBLISHED, n=1, cutoff=0.0)
    raise ConfigError(
        f"The weights `{weights}` are neither a file nor a published name: did you mean "
        f"`{nearest[0]}`? Published names are {', '.join(PUBLISHED)}."
    )
