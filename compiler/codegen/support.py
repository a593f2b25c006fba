"""LLVM IR text of memcpy, memmove, memset and memcmp, so that an artifact needs no libc for them.
LLVM may emit calls to these four by itself. Not a string library, and little-endian only.
"""

from __future__ import annotations

from string import Template

SUPPORT_FUNCTIONS = ("memcpy", "memmove", "memset", "memcmp")

# Lengths that need no loop: up to the given width, two possibly overlapping accesses of half the
# width or more cover them. All loads come before all stores, so that operands may overlap.
_SHORT_WIDTHS = (
    (2, "i16"),
    (4, "i32"),
    (8, "i64"),
    (16, "<16 x i8>"),
    (32, "<32 x i8>"),
    (64, "<64 x i8>"),
)
_WIDE = "<64 x i8>"

_MOVE_ENTRY = """
target triple = "$TRIPLE"

define hidden ptr @memcpy(ptr %to, ptr %from, i64 %n) #0 {
  %r = tail call ptr @memmove(ptr %to, ptr %from, i64 %n)
  ret ptr %r
}

define hidden ptr @memmove(ptr %to, ptr %from, i64 %n) #0 {
entry:
  %long = icmp ugt i64 %n, 128
  br i1 %long, label %head, label %below128
"""

# The first and the last 64 bytes are loaded before the loop and stored after it. Between them the
# stores are aligned, in the direction in which no store reaches a byte that is still to be loaded.
_MOVE_LOOPS = """
head:
  %from_last = getelementptr i8, ptr %from, i64 %n
  %from_tail = getelementptr i8, ptr %from_last, i64 -64
  %to_last = getelementptr i8, ptr %to, i64 %n
  %to_tail = getelementptr i8, ptr %to_last, i64 -64
  %first = load $WIDE, ptr %from, align 1
  %last = load $WIDE, ptr %from_tail, align 1
  %limit = sub i64 %n, 64
  %to_int = ptrtoint ptr %to to i64
  %from_int = ptrtoint ptr %from to i64
  %distance = sub i64 %to_int, %from_int
  %overlap = icmp ult i64 %distance, %n
  br i1 %overlap, label %down_start, label %up_start
up_start:
  %past = and i64 %to_int, 63
  %up0 = sub i64 64, %past
  br label %up
up:
  %i = phi i64 [ %up0, %up_start ], [ %i1, %up ]
  %up_from = getelementptr i8, ptr %from, i64 %i
  %up_to = getelementptr i8, ptr %to, i64 %i
  %up_value = load $WIDE, ptr %up_from, align 1
  store $WIDE %up_value, ptr %up_to, align 64
  %i1 = add i64 %i, 64
  %up_more = icmp ult i64 %i1, %limit
  br i1 %up_more, label %up, label %ends
down_start:
  %end_int = add i64 %to_int, %limit
  %over = and i64 %end_int, 63
  %down0 = sub i64 %limit, %over
  br label %down
down:
  %j = phi i64 [ %down0, %down_start ], [ %j1, %down ]
  %down_from = getelementptr i8, ptr %from, i64 %j
  %down_to = getelementptr i8, ptr %to, i64 %j
  %down_value = load $WIDE, ptr %down_from, align 1
  store $WIDE %down_value, ptr %down_to, align 64
  %j1 = sub i64 %j, 64
  %down_more = icmp sgt i64 %j1, 0
  br i1 %down_more, label %down, label %ends
ends:
  store $WIDE %first, ptr %to, align 1
  store $WIDE %last, ptr %to_tail, align 1
  br label %done
byte:
  %one = icmp eq i64 %n, 1
  br i1 %one, label %copy_byte, label %done
copy_byte:
  %b = load i8, ptr %from, align 1
  store i8 %b, ptr %to, align 1
  br label %done
done:
  ret ptr %to
}
"""

_SET_ENTRY = """
define hidden ptr @memset(ptr %to, i32 %c, i64 %n) #0 {
entry:
  %b = trunc i32 %c to i8
  %lane = insertelement $WIDE poison, i8 %b, i64 0
  %fill64 = shufflevector $WIDE %lane, $WIDE poison, <64 x i32> zeroinitializer
  %fill32 = shufflevector $WIDE %fill64, $WIDE poison, <32 x i32> zeroinitializer
  %fill16 = shufflevector $WIDE %fill64, $WIDE poison, <16 x i32> zeroinitializer
  %wide_b = zext i8 %b to i64
  %fill8 = mul i64 %wide_b, 72340172838076673
  %fill4 = trunc i64 %fill8 to i32
  %fill2 = trunc i64 %fill8 to i16
  %long = icmp ugt i64 %n, 128
  br i1 %long, label %head, label %below128
"""

_SET_LOOP = """
head:
  %to_last = getelementptr i8, ptr %to, i64 %n
  %to_tail = getelementptr i8, ptr %to_last, i64 -64
  %limit = sub i64 %n, 64
  %to_int = ptrtoint ptr %to to i64
  %past = and i64 %to_int, 63
  %i0 = sub i64 64, %past
  store $WIDE %fill64, ptr %to, align 1
  store $WIDE %fill64, ptr %to_tail, align 1
  br label %up
up:
  %i = phi i64 [ %i0, %head ], [ %i1, %up ]
  %at = getelementptr i8, ptr %to, i64 %i
  store $WIDE %fill64, ptr %at, align 64
  %i1 = add i64 %i, 64
  %more = icmp ult i64 %i1, %limit
  br i1 %more, label %up, label %done
byte:
  %one = icmp eq i64 %n, 1
  br i1 %one, label %set_byte, label %done
set_byte:
  store i8 %b, ptr %to, align 1
  br label %done
done:
  ret ptr %to
}
"""

# Blocks of 32 bytes up to the first that differs, then eight bytes at a time; the last, possibly
# overlapping eight lie after bytes known to be equal. The byte order is reversed only where a
# difference is found, so that the first byte decides.
_COMPARE = """
declare i64 @llvm.bswap.i64(i64)
declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.vector.reduce.or.v4i64(<4 x i64>)

define hidden i32 @memcmp(ptr %x, ptr %y, i64 %n) #0 {
entry:
  %long = icmp uge i64 %n, 8
  br i1 %long, label %words, label %bytes
words:
  %limit = sub i64 %n, 8
  br label %block
block:
  %j = phi i64 [ 0, %words ], [ %j1, %compare ]
  %j1 = add i64 %j, 32
  %fits = icmp ule i64 %j1, %n
  br i1 %fits, label %compare, label %rest
compare:
  %pu = getelementptr i8, ptr %x, i64 %j
  %pv = getelementptr i8, ptr %y, i64 %j
  %u = load <4 x i64>, ptr %pu, align 1
  %v = load <4 x i64>, ptr %pv, align 1
  %lanes = xor <4 x i64> %u, %v
  %any = call i64 @llvm.vector.reduce.or.v4i64(<4 x i64> %lanes)
  %block_equal = icmp eq i64 %any, 0
  br i1 %block_equal, label %block, label %rest
rest:
  %i0 = call i64 @llvm.umin.i64(i64 %j, i64 %limit)
  br label %word
word:
  %i = phi i64 [ %i0, %rest ], [ %i1, %next ]
  %px = getelementptr i8, ptr %x, i64 %i
  %py = getelementptr i8, ptr %y, i64 %i
  %vx = load i64, ptr %px, align 1
  %vy = load i64, ptr %py, align 1
  %differ = icmp ne i64 %vx, %vy
  br i1 %differ, label %order, label %equal
equal:
  %at_end = icmp uge i64 %i, %limit
  br i1 %at_end, label %same, label %next
next:
  %step = add i64 %i, 8
  %i1 = call i64 @llvm.umin.i64(i64 %step, i64 %limit)
  br label %word
order:
  %ox = call i64 @llvm.bswap.i64(i64 %vx)
  %oy = call i64 @llvm.bswap.i64(i64 %vy)
  %less = icmp ult i64 %ox, %oy
  %sign = select i1 %less, i32 -1, i32 1
  ret i32 %sign
bytes:
  %none = icmp eq i64 %n, 0
  br i1 %none, label %same, label %byte
byte:
  %k = phi i64 [ 0, %bytes ], [ %k1, %byte_equal ]
  %qx = getelementptr i8, ptr %x, i64 %k
  %qy = getelementptr i8, ptr %y, i64 %k
  %bx = load i8, ptr %qx, align 1
  %by = load i8, ptr %qy, align 1
  %byte_differs = icmp ne i8 %bx, %by
  br i1 %byte_differs, label %byte_order, label %byte_equal
byte_equal:
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %n
  br i1 %more, label %byte, label %same
byte_order:
  %zx = zext i8 %bx to i32
  %zy = zext i8 %by to i32
  %gap = sub i32 %zx, %zy
  ret i32 %gap
same:
  ret i32 0
}

; Without "no-builtins" LLVM would turn these loops into calls of the functions they define.
attributes #0 = { nounwind "no-builtins" }
"""


def support_module(triple: str) -> str:
    """Return the four functions, hidden, as LLVM IR; the width of a step follows the target."""
    parts = (
        _MOVE_ENTRY,
        _short_chain(),
        *(_move_short(width, ty) for width, ty in _SHORT_WIDTHS),
        _MOVE_LOOPS,
        _SET_ENTRY,
        _short_chain(),
        *(_set_short(width, ty) for width, ty in _SHORT_WIDTHS),
        _SET_LOOP,
        _COMPARE,
    )
    return Template("".join(parts)).substitute(TRIPLE=triple, WIDE=_WIDE)


def _short_chain() -> str:
    """Find the greatest width that is not above n; below the smallest one only 0 and 1 are left."""
    blocks = []
    for width, _ in reversed(_SHORT_WIDTHS):
        smaller = "byte" if width == _SHORT_WIDTHS[0][0] else f"below{width}"
        blocks.append(
            f"below{2 * width}:\n"
            f"  %fits{width} = icmp uge i64 %n, {width}\n"
            f"  br i1 %fits{width}, label %short{width}, label %{smaller}\n"
        )
    return "".join(blocks)


def _move_short(width: int, ty: str) -> str:
    return f"""\
short{width}:
  %s{width} = sub i64 %n, {width}
  %f{width} = getelementptr i8, ptr %from, i64 %s{width}
  %t{width} = getelementptr i8, ptr %to, i64 %s{width}
  %u{width} = load {ty}, ptr %from, align 1
  %v{width} = load {ty}, ptr %f{width}, align 1
  store {ty} %u{width}, ptr %to, align 1
  store {ty} %v{width}, ptr %t{width}, align 1
  br label %done
"""


def _set_short(width: int, ty: str) -> str:
    return f"""\
short{width}:
  %s{width} = sub i64 %n, {width}
  %t{width} = getelementptr i8, ptr %to, i64 %s{width}
  store {ty} %fill{width}, ptr %to, align 1
  store {ty} %fill{width}, ptr %t{width}, align 1
  br label %done
"""
