"""The command line of tfc: one module per command."""

if __name__ != "tfc.cli":
    raise ImportError("import this package as tfc.cli")
