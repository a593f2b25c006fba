"""tfc: a tensor graph compiler."""
