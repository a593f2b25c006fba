"""The compiler proper: front ends, passes, lowering, code generation, linking."""

if __name__ != "tfc.compiler":
    raise ImportError("import this package as tfc.compiler")
