"""The check that this CPU has what the code was compiled for, as LLVM text: CPUID and XGETBV."""

from __future__ import annotations

from tfc.compiler.codegen import amx
from tfc.compiler.codegen.codes import NO_FEATURE, NO_TILES
from tfc.compiler.target import X86_FEATURES, Target

_REGISTERS = '"={ax},={bx},={cx},={dx},{ax},{cx},~{dirflag},~{fpsr},~{flags}"'


def cpu_check(prefix: str, target: Target, has_tiles: bool) -> str:
    """Return `i32 cpu_ready()`: asks CPUID once, for tiles the system too, and keeps the answer.

    It is the code that `run` returns, 0 for none, and is kept with 1 added.
    """
    lines: list[str] = []
    needed = [X86_FEATURES[name] for name in target.feature_list]
    masks: dict[tuple[int, int], dict[int, int]] = {}
    for bit in needed:
        registers = masks.setdefault((bit.leaf, bit.subleaf), {})
        registers[bit.register] = registers.get(bit.register, 0) | 1 << bit.bit
    state = 0
    for bit in needed:
        state |= bit.state
    if state:
        # OSXSAVE, without which XGETBV is illegal.
        registers = masks.setdefault((1, 0), {})
        registers[2] = registers.get(2, 0) | 1 << 27
    _leaf_tests(lines, masks)
    state_test = ["  br label %ready"]
    if state:
        state_test = [
            '  %x = call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)',
            "  %xl = extractvalue { i32, i32 } %x, 0",
            f"  %xm = and i32 %xl, {state}",
            f"  %xok = icmp eq i32 %xm, {state}",
            "  br i1 %xok, label %ready, label %bad",
        ]
    at = f"@{prefix}_cpu_state"
    return "\n".join(
        (
            f"define internal i32 @{prefix}_cpu_ready() #0 {{",
            "entry:",
            f"  %known = load atomic i32, ptr {at} monotonic, align 4",
            "  %is_known = icmp ne i32 %known, 0",
            "  br i1 %is_known, label %answer, label %leaf0",
            *lines,
            "state:",
            *state_test,
            "ready:",
            *(_request() if has_tiles else ["  br label %told"]),
            "bad:",
            "  br label %told",
            "told:",
            f"  %code = phi i32 [ 0, %ready ], [ {NO_FEATURE}, %bad ]"
            + (f", [ {NO_TILES}, %refused ]" if has_tiles else ""),
            "  %kept = add i32 %code, 1",
            f"  store atomic i32 %kept, ptr {at} monotonic, align 4",
            "  ret i32 %code",
            "answer:",
            "  %before = sub i32 %known, 1",
            "  ret i32 %before",
            "}",
        )
    )


def _request() -> list[str]:
    """Ask Linux once for the tile registers of this process and of all its threads."""
    kinds = '"={ax},{ax},{di},{si},~{rcx},~{r11},~{memory},~{dirflag},~{fpsr},~{flags}"'
    numbers = f"(i64 {amx.ARCH_PRCTL}, i64 {amx.REQUEST}, i64 {amx.TILE_DATA})"
    return [
        f'  %status = call i64 asm sideeffect "syscall", {kinds}{numbers}',
        "  %granted = icmp eq i64 %status, 0",
        "  br i1 %granted, label %told, label %refused",
        "refused:",
        "  br label %told",
    ]


def _leaf_tests(lines: list[str], masks: dict[tuple[int, int], dict[int, int]]) -> None:
    """Append a block per CPUID leaf; a leaf above the CPU's last one counts as all zero."""
    ordered = sorted(masks)
    for i, (leaf, subleaf) in enumerate(ordered):
        base = leaf & 0x80000000
        after = "state" if i + 1 == len(ordered) else f"leaf{i + 1}"
        lines += [
            f"leaf{i}:",
            f'  %last{i} = call {{ i32, i32, i32, i32 }} asm sideeffect "cpuid", {_REGISTERS}'
            f"(i32 {base}, i32 0)",
            f"  %top{i} = extractvalue {{ i32, i32, i32, i32 }} %last{i}, 0",
            f"  %there{i} = icmp uge i32 %top{i}, {leaf}",
            f"  br i1 %there{i}, label %ask{i}, label %bad",
            f"ask{i}:",
            f'  %c{i} = call {{ i32, i32, i32, i32 }} asm sideeffect "cpuid", {_REGISTERS}'
            f"(i32 {leaf}, i32 {subleaf})",
        ]
        results = []
        for register, mask in sorted(masks[leaf, subleaf].items()):
            n = f"{i}_{register}"
            lines += [
                f"  %r{n} = extractvalue {{ i32, i32, i32, i32 }} %c{i}, {register}",
                f"  %m{n} = and i32 %r{n}, {mask}",
                f"  %ok{n} = icmp eq i32 %m{n}, {mask}",
            ]
            results.append(f"%ok{n}")
        total = results[0]
        for k, other in enumerate(results[1:]):
            lines.append(f"  %all{i}_{k} = and i1 {total}, {other}")
            total = f"%all{i}_{k}"
        lines.append(f"  br i1 {total}, label %{after}, label %bad")
