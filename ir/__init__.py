"""The intermediate representations of tfc: graph level, loop level, their text and checks."""

if __name__ != "tfc.ir":
    raise ImportError("import this package as tfc.ir")
