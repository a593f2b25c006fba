"""What the C functions of an artifact return; 0 is success."""

from __future__ import annotations

BAD_SHAPE, SMALL_OUTPUT, SMALL_WORKSPACE, NO_FEATURE, FAILED_CHECK, OUT_OF_BOUNDS = range(1, 7)
NO_TILES = 7
MESSAGES = {
    BAD_SHAPE: "the dims of an input do not fit the model",
    SMALL_OUTPUT: "the capacity of an output is too small",
    SMALL_WORKSPACE: "the workspace is missing or too small",
    NO_FEATURE: "this CPU lacks an instruction set that the model was compiled for",
    FAILED_CHECK: "a check of the model failed",
    OUT_OF_BOUNDS: "a symbolic dim is outside of its bounds",
    NO_TILES: "the operating system does not let this process use the tile registers of AMX",
}
CODE_NAMES = {
    BAD_SHAPE: "BAD_SHAPE",
    SMALL_OUTPUT: "SMALL_OUTPUT",
    SMALL_WORKSPACE: "SMALL_WORKSPACE",
    NO_FEATURE: "NO_FEATURE",
    FAILED_CHECK: "FAILED_CHECK",
    OUT_OF_BOUNDS: "OUT_OF_BOUNDS",
    NO_TILES: "NO_TILES",
}
