"""The cost model: what schedules, passes and `tfc explain` ask how long something takes.

Start at `machine`, the table of what a core does in a cycle, and `choice`, how a schedule picks
among candidates. The rest are functions of sizes alone: nothing is measured here, so that equal
shapes and targets give equal code. What is legal is the schedules' business.
"""
