"""The small runtime: load an artifact, bind buffers, run; it never imports the compiler."""

if __name__ != "tfc.runtime":
    raise ImportError("import this package as tfc.runtime")
