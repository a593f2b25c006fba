"""Code generation: loop level to LLVM text, and that to machine code. Start at `kernel.py`."""
