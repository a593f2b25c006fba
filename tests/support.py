"""What several test modules share and pytest has no fixture for. Not test cases."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE_FOLDERS = ("ir", "compiler", "runtime", "cli")
MODELS_MISSING = "models not found: set TFC_MODELS"


def find_models() -> Path | None:
    """Return the folder of test models: TFC_MODELS, or shared/models beside the checkout."""
    folder = Path(os.environ.get("TFC_MODELS") or ROOT.parent / "shared" / "models")
    return folder if folder.is_dir() else None
