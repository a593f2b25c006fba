"""Where compiled code and models are kept: the caches of `compiler.cache` and `tfc.kept`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TUNING = "tuning.txt"
"""What tuning found on this machine, in the directory of the caches."""
DIRECTORY_VARIABLE = "TFC_CACHE_DIR"
SWITCH_VARIABLE = "TFC_CACHE"


def default_directory(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where the caches are, or None where they are switched off."""
    if environ.get(SWITCH_VARIABLE, "").strip().lower() in ("off", "0", "no"):
        return None
    own = environ.get(DIRECTORY_VARIABLE)
    if own:
        return Path(own)
    base = environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path(environ.get("HOME", "~")).expanduser() / ".cache") / "tfc"
