"""Measurements beside other engines. Not part of the package; run from the root of a checkout."""
