"""Write and read the state of a training, `state.pt`, which is replaced atomically."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vitcli.errors import CheckpointError, printable
from vitcli.files import explained, whole_file

FILE = "state.pt"
START_OVER = "the run cannot be resumed: --overwrite starts over"
# torch.load raises these for files that it did not write.
_DAMAGE = (
    OSError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    ImportError,
    struct.error,
)


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `folder`/state.pt. Raises WriteError on a failure, and then the earlier file stays."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / FILE) as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:  # torch's zip writer wraps the system's error
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise OSError(0, str(error).splitlines()[0]) from None


def read_state(folder: Path) -> dict[str, Any] | None:
    """Read the state of an earlier run; None if it had not saved one. Raises CheckpointError."""
    file = folder / FILE
    if not os.path.lexists(file):
        return None
    why = "it is not a file" if not file.is_file() else "it holds something else"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else None
    except _DAMAGE as error:
        state, why = None, (str(error) or type(error).__name__).splitlines()[0]
    if not isinstance(state, dict):
        raise CheckpointError(f"cannot read {printable(str(file))}: {why}", START_OVER)
    return state
