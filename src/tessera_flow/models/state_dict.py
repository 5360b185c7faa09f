"""Find the weights and the sizes in the content of a checkpoint file.

People keep the same weights in several forms: under the names of the published code, as a bare
state dict (as in TorchGeo), in a Lightning checkpoint, or with prefixes that wrappers of a module
add to the names of its tensors. Only names are changed here, never numbers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError

logger = logging.getLogger(__name__)

WEIGHTS_ENTRIES = (
    "model",
    "encoder_state_dict",
    "model_state",
    "model_state_dict",
    "state_dict",
    "module",
)
"""Entries with weights: of the published code, then of Lightning and DeepSpeed."""

SETTINGS_ENTRIES = ("args", "arch", "config", "hyper_parameters", "hparams")
"""Entries with sizes."""

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that torch.compile, DataParallel, FSDP and activation checkpoints add."""

_BACKBONE = re.compile(r"^(.*?)(?<![^.])s[12]_backbone\.")
_ONE_ENCODER = re.compile(r"(^|\.)(embedding\.0\.weight|attn_pool\.query\.weight)$")
_OPTIMISER = ("optim", "param_groups", "exp_avg")
_SHOWN = 5


def find_weights(content: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a model by their names in the published code.

    Args:
        content: what the file contains, see `checkpoint_file.load_content`.
        path: the file, for messages.

    Raises:
        CheckpointError: there are no weights of a TESSERA model, or several.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(_no_checkpoint(path, f"it contains a {type(content).__name__}"))
    entries = {"": content} | {str(key): value for key, value in content.items()}
    tensors = {key: _tensors(entry) for key, entry in entries.items()}
    _refuse_divided(tensors, path)
    found = {
        key: state for key, state in tensors.items() if any(_BACKBONE.match(name) for name in state)
    }
    chosen = [key for key in found if key in WEIGHTS_ENTRIES] or list(found)
    if not chosen:
        raise CheckpointError(_no_checkpoint(path, _what_it_is(content)))
    if len(chosen) > 1:
        listed = " and ".join(f"`{key}`" if key else "the file itself" for key in chosen)
        raise CheckpointError(
            f"{path} contains several sets of weights ({listed}): keep the one that is to be used "
            "and save the file again."
        )
    if len(found) > 1 or chosen[0] not in ("", *WEIGHTS_ENTRIES):
        logger.warning("%s: using the weights in its entry `%s`", path.name, chosen[0])
    return _named_as_published(found[chosen[0]], path)


def find_settings(content: object) -> tuple[Mapping[str, Any], str]:
    """Return the entry with the sizes of the model, and its name; empty if there is none."""
    if isinstance(content, Mapping):
        for name in SETTINGS_ENTRIES:
            settings = content.get(name)
            if not isinstance(settings, Mapping):
                continue
            inner = [key for key in SETTINGS_ENTRIES if isinstance(settings.get(key), Mapping)]
            return (settings[inner[0]], f"{name}.{inner[0]}") if inner else (settings, name)
    return {}, "args"


def _tensors(entry: object) -> dict[str, Tensor]:
    """Return the tensors of an entry by name."""
    if not isinstance(entry, Mapping):
        return {}
    return {
        key: value.detach()
        for key, value in entry.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _refuse_divided(tensors: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    """Raise an error if the tensors of a model are divided among the files of several processes."""
    for state in tensors.values():
        flat = [name for name in state if "flat_param" in name.rpartition(".")[2]]
        empty = [name for name, value in state.items() if value.numel() == 0]
        if flat or (state and len(empty) == len(state)):
            what = f"{flat[0]} is a flat parameter" if flat else f"{empty[0]} is empty"
            raise CheckpointError(
                f"{path} is one part of a model that was divided among processes by FSDP or "
                f"DeepSpeed ({what}): save the complete state dict (FSDP: FULL_STATE_DICT; "
                "DeepSpeed: zero_to_fp32.py), and use that file."
            )


def _named_as_published(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove what wrappers added to the names, and a common prefix.

    Tensors outside the common prefix (of losses, of other networks of a training module) are left
    out, with a warning.

    Raises:
        CheckpointError: two tensors would have one name, or there are several models.
    """
    names = {
        key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in state
    }
    prefixes = sorted({match[1] for name in names.values() if (match := _BACKBONE.match(name))})
    if len(prefixes) > 1:
        shown = ", ".join(f"{prefix}s2_backbone" for prefix in prefixes[:_SHOWN])
        raise CheckpointError(
            f"{path} contains several models ({shown}): save the one that is to be used as a file "
            "of its own."
        )
    prefix = prefixes[0]
    outside = [key for key, name in names.items() if not name.startswith(prefix)]
    if outside:
        logger.warning(
            "%s: %d tensors outside `%s` are not part of the model and are not used (%s)",
            path.name, len(outside), prefix.rstrip("."), _listed(outside),
        )  # fmt: skip
    published: dict[str, Tensor] = {}
    for key, name in names.items():
        if name.startswith(prefix):
            if name[len(prefix) :] in published:
                raise CheckpointError(
                    f"{path} contains the tensor {name[len(prefix) :]} with and without the prefix "
                    f"of a wrapped model ({', '.join(w + '.' for w in WRAPPERS[:2])}, ...), which "
                    "is ambiguous: use the file as it was published."
                )
            published[name[len(prefix) :]] = state[key]
    return published


def _no_checkpoint(path: Path, detail: str) -> str:
    return (
        f"{path} is not a TESSERA checkpoint ({detail}): set the weights to the file as it was "
        "published, for example ckpt/student_nano.pt of a v2 student."
    )


def _what_it_is(content: Mapping[Any, Any]) -> str:
    """Return what a file without a model contains."""
    entries = {"": content} | {
        str(key): value for key, value in content.items() if isinstance(value, Mapping)
    }
    tensors = [name for entry in entries.values() for name in _tensors(entry)]
    if any(_ONE_ENCODER.search(name) for name in tensors):
        return (
            "it contains the encoder of a single sensor; a model has s2_backbone, s1_backbone and "
            "dim_reducer"
        )
    keys = [str(key) for key in content]
    if keys and any(word in key for key in keys for word in _OPTIMISER) and not tensors:
        return "it contains the state of an optimiser and no weights"
    if tensors:
        return f"it contains tensors of another model: {_listed(tensors)}"
    return f"it contains {', '.join(f'`{key}`' for key in keys[:_SHOWN]) or 'nothing'}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown}, ..."
