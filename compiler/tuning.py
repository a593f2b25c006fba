"""What tuning has found, as text: for a target and a CPU, choices by the keys of kernels.

The file is meant to be read, merged and kept in version control. `tfc.tune` fills it, the
schedules' `cost.choice.Chooser` is given what it says of a target.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from tfc.compiler.link.files import write_atomically
from tfc.compiler.target import Target
from tfc.ir.errors import ModelError, UsageError

HEADER = "tfc tuning 1"
_KEY = re.compile(r"[\w.-]+")
_CHOICE = re.compile(r"([\w.]+)=([\w.-]+)")


@dataclass(frozen=True)
class Tuned:
    """What is faster for a kernel than the model's choice; microseconds by the model and tuned."""

    choices: dict[str, str]
    before: float
    after: float


@dataclass
class Tuning:
    """Tuned kernels by their keys, by (target, CPU)."""

    machines: dict[tuple[str, str], dict[str, Tuned]] = field(default_factory=dict)

    def kernels(self, target: Target, cpu: str) -> dict[str, Tuned]:
        """Return what is known for a target, best of this CPU, else of another one."""
        wanted = target_text(target)
        own = self.machines.get((wanted, cpu))
        if own is not None:
            return own
        return next((found for (name, _), found in self.machines.items() if name == wanted), {})

    def choices(self, target: Target, cpu: str) -> dict[str, dict[str, str]]:
        """Return the choices by kernel for a `Chooser`."""
        return {key: tuned.choices for key, tuned in self.kernels(target, cpu).items()}

    def knows(self, target: Target) -> bool:
        """Whether kernels for a target were tried, be it that none was found better."""
        wanted = target_text(target)
        return any(name == wanted for name, _ in self.machines)

    def own(self, target: Target, cpu: str) -> dict[str, Tuned]:
        """Return what is known for a target on this very CPU, to be changed in place."""
        return self.machines.setdefault((target_text(target), cpu), {})

    def text(self) -> str:
        lines = [HEADER]
        for (target, cpu), kernels in sorted(self.machines.items()):
            lines += ["", f"target {target}", f"cpu {cpu}"]
            lines += [_line(key, tuned) for key, tuned in sorted(kernels.items())]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        data = self.text().encode()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, lambda out: out.write(data))
        except OSError as error:
            raise UsageError(error.strerror or str(error), where=str(path)) from error


def target_text(target: Target) -> str:
    """Return what tells targets apart whose kernels have other times."""
    features = ",".join(target.feature_list)
    return f"{target.arch} {features} l1={target.l1} l2={target.l2} l3={target.l3}"


def read_tuning(path: Path, *, missing: bool = False) -> Tuning:
    """Read a file of tuned kernels. missing: no file is an empty one.

    Raises UsageError where it cannot be read, and ModelError where it is not what it should be.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        if missing:
            return Tuning()
        raise UsageError("there is no such tuning file", where=str(path)) from error
    except OSError as error:
        raise UsageError(error.strerror or str(error), where=str(path)) from error
    try:
        return parse_tuning(text.decode(), str(path))
    except UnicodeDecodeError as error:
        raise ModelError("not a tuning file: no text", where=str(path)) from error


def parse_tuning(text: str, where: str = "tuning") -> Tuning:
    """Return what a text says."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        raise ModelError(f"not a tuning file: its first line is not {HEADER!r}", where=where)
    found = Tuning()
    target, kernels = "", None
    for number, line in enumerate(lines[1:], 2):
        word, _, rest = line.strip().partition(" ")
        place = f"{where}:{number}"
        match word:
            case "" | "#":
                continue
            case "target":
                target, kernels = rest.strip(), None
            case "cpu" if target:
                kernels = found.machines.setdefault((target, rest.strip()), {})
            case "kernel" if kernels is not None:
                key, tuned = _parse_kernel(rest, place)
                kernels[key] = tuned
            case "cpu" | "kernel":
                before = "target" if word == "cpu" else "cpu"
                raise ModelError(f"{word!r} stands before any {before!r}", where=place)
            case _:
                raise ModelError(f"{word!r} is none of target, cpu, kernel", where=place)
    return found


def _line(key: str, tuned: Tuned) -> str:
    choices = " ".join(f"{kind}={name}" for kind, name in sorted(tuned.choices.items()))
    return f"kernel {key} {choices} us {tuned.before:.1f} {tuned.after:.1f}"


def _parse_kernel(text: str, place: str) -> tuple[str, Tuned]:
    words = text.split()
    if len(words) < 4 or words[-3] != "us" or not _KEY.fullmatch(words[0]):
        raise ModelError("not 'kernel KEY KIND=NAME... us BEFORE AFTER'", where=place)
    choices: dict[str, str] = {}
    for word in words[1:-3]:
        match = _CHOICE.fullmatch(word)
        if match is None:
            raise ModelError(f"{word!r} is not KIND=NAME", where=place)
        choices[match[1]] = match[2]
    try:
        return words[0], Tuned(choices, float(words[-2]), float(words[-1]))
    except ValueError as error:
        raise ModelError("the times are not numbers", where=place) from error
