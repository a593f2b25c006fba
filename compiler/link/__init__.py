"""tfc's own ELF writer: shared objects, relocatable objects and archives without any linker.

Not a general linker: it accepts what LLVM emits for position-independent kernels.
Start reading at `shared.py`.
"""
