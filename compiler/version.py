"""The version of tfc, as pyproject.toml has it; part of the manifest of artifacts."""

VERSION = "0.1.0"
