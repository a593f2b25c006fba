"""LLVM IR text of the method by which Python calls a model, without ctypes in between.

It takes what most calls have, dense numpy arrays of the right types, and hands all else to the
slower path in Python. `runtime.pycall` fills the state that it works on; no C program needs it.
"""

from __future__ import annotations

from string import Template

from tfc.compiler.codegen.abi import TENSOR_BYTES, TENSOR_DATA, TENSOR_DIMS
from tfc.compiler.codegen.values import CTX_WORKSPACE_BYTES
from tfc.runtime.pylayout import (
    ARRAY_DATA,
    ARRAY_DESCR,
    ARRAY_DIMS,
    ARRAY_FLAGS,
    ARRAY_RANK,
    DENSE,
    FIRST_SLOT,
    OBJECT_TYPE,
    PORT_WORDS,
    STATE,
    TUPLE_SIZE,
)

# A METH_FASTCALL | METH_KEYWORDS method, of all models alike. The first slot of its object holds
# the array of the state, whose context is taken while a call uses it: a second call at the same
# time goes the slow path.
_CALL = """
target triple = "$TRIPLE"

define ptr @${P}_call(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) #0 {
entry:
  %array.at = getelementptr i8, ptr %self, i64 $FIRST_SLOT
  %array = load ptr, ptr %array.at, align 8
  %state.at = getelementptr i8, ptr %array, i64 $ARRAY_DATA
  %state = load ptr, ptr %state.at, align 8
  $LOAD_INPUTS
  $LOAD_OUTPUTS
  $LOAD_SYMBOLS
  $LOAD_ARRAY_TYPE
  %ports = getelementptr i8, ptr %state, i64 $PORTS
  %count = add i64 %inputs, %outputs
  %frame = alloca [$TENSOR_BYTES x i8], i64 %count, align 8
  %symbols = alloca i64, i64 %symbol_count, align 8
  %results = alloca ptr, i64 %outputs, align 8
  %output_frame = getelementptr [$TENSOR_BYTES x i8], ptr %frame, i64 %inputs
  %output_ports = getelementptr [$PORT_BYTES x i8], ptr %ports, i64 %inputs
  %counted = icmp eq i64 %nargs, %inputs
  %plain = icmp eq ptr %kwnames, null
  %usual = and i1 %counted, %plain
  br i1 %usual, label %input, label %slow

input:
  %i = phi i64 [ 0, %entry ], [ %i1, %dims.done ]
  %some = icmp ult i64 %i, %inputs
  br i1 %some, label %look, label %bind
look:
  %x.at = getelementptr ptr, ptr %args, i64 %i
  %x = load ptr, ptr %x.at, align 8
  %x.type.at = getelementptr i8, ptr %x, i64 $OBJECT_TYPE
  %x.type = load ptr, ptr %x.type.at, align 8
  %is_array = icmp eq ptr %x.type, %array_type
  br i1 %is_array, label %fits, label %slow
fits:
  %port = getelementptr [$PORT_BYTES x i8], ptr %ports, i64 %i
  %descr = load ptr, ptr %port, align 8
  %rank.at = getelementptr i8, ptr %port, i64 8
  %rank = load i64, ptr %rank.at, align 8
  %x.descr.at = getelementptr i8, ptr %x, i64 $ARRAY_DESCR
  %x.descr = load ptr, ptr %x.descr.at, align 8
  %x.rank.at = getelementptr i8, ptr %x, i64 $ARRAY_RANK
  %x.rank32 = load i32, ptr %x.rank.at, align 4
  %x.rank = sext i32 %x.rank32 to i64
  %x.flags.at = getelementptr i8, ptr %x, i64 $ARRAY_FLAGS
  %x.flags = load i32, ptr %x.flags.at, align 4
  %x.dense = and i32 %x.flags, $DENSE
  %same_type = icmp eq ptr %x.descr, %descr
  %same_rank = icmp eq i64 %x.rank, %rank
  %dense = icmp eq i32 %x.dense, $DENSE
  %alike = and i1 %same_type, %same_rank
  %good = and i1 %alike, %dense
  br i1 %good, label %take, label %slow
take:
  %tensor = getelementptr [$TENSOR_BYTES x i8], ptr %frame, i64 %i
  %x.data.at = getelementptr i8, ptr %x, i64 $ARRAY_DATA
  %x.data = load ptr, ptr %x.data.at, align 8
  %data.at = getelementptr i8, ptr %tensor, i64 $TENSOR_DATA
  store ptr %x.data, ptr %data.at, align 8
  %x.dims.at = getelementptr i8, ptr %x, i64 $ARRAY_DIMS
  %x.dims = load ptr, ptr %x.dims.at, align 8
  %dims = getelementptr i8, ptr %tensor, i64 $TENSOR_DIMS
  br label %dim
dim:
  %d = phi i64 [ 0, %take ], [ %d1, %dim.copy ]
  %more = icmp ult i64 %d, %rank
  br i1 %more, label %dim.copy, label %dims.done
dim.copy:
  %dim.from = getelementptr i64, ptr %x.dims, i64 %d
  %dim.value = load i64, ptr %dim.from, align 8
  %dim.to = getelementptr i64, ptr %dims, i64 %d
  store i64 %dim.value, ptr %dim.to, align 8
  %d1 = add i64 %d, 1
  br label %dim
dims.done:
  %i1 = add i64 %i, 1
  br label %input

bind:
  $LOAD_SHAPES
  %unfit = call i32 %shapes(ptr %frame, ptr %output_frame, ptr %symbols)
  %bound = icmp eq i32 %unfit, 0
  br i1 %bound, label %claim, label %slow
claim:
  %context.at = getelementptr i8, ptr %state, i64 $CONTEXT
  %context = atomicrmw xchg ptr %context.at, ptr null acquire, align 8
  %free = icmp ne ptr %context, null
  br i1 %free, label %measure, label %slow
measure:
  $LOAD_WORKSPACE_SIZE
  $LOAD_THREADS
  %threads32 = trunc i64 %threads to i32
  %needed = call i64 %workspace_size(ptr %symbols, i32 %threads32)
  %given.at = getelementptr i8, ptr %context, i64 $CTX_WORKSPACE_BYTES
  %given = load i64, ptr %given.at, align 8
  %enough = icmp sge i64 %given, %needed
  br i1 %enough, label %output.first, label %return.small
return.small:
  store atomic ptr %context, ptr %context.at release, align 8
  br label %slow

output.first:
  $LOAD_INCREF
  $LOAD_EMPTY
  br label %output
output:
  %o = phi i64 [ 0, %output.first ], [ %o1, %made ]
  %lacking = icmp ult i64 %o, %outputs
  br i1 %lacking, label %make, label %run
make:
  %y.port = getelementptr [$PORT_BYTES x i8], ptr %output_ports, i64 %o
  %y.descr = load ptr, ptr %y.port, align 8
  %y.rank.at = getelementptr i8, ptr %y.port, i64 8
  %y.rank = load i64, ptr %y.rank.at, align 8
  %y.rank32 = trunc i64 %y.rank to i32
  %y.tensor = getelementptr [$TENSOR_BYTES x i8], ptr %output_frame, i64 %o
  %y.dims = getelementptr i8, ptr %y.tensor, i64 $TENSOR_DIMS
  call void %incref(ptr %y.descr)
  %y = call ptr %empty(i32 %y.rank32, ptr %y.dims, ptr %y.descr, i32 0)
  %is_made = icmp ne ptr %y, null
  br i1 %is_made, label %made, label %out_of_memory
made:
  %y.data.from = getelementptr i8, ptr %y, i64 $ARRAY_DATA
  %y.data = load ptr, ptr %y.data.from, align 8
  %y.data.to = getelementptr i8, ptr %y.tensor, i64 $TENSOR_DATA
  store ptr %y.data, ptr %y.data.to, align 8
  %result.at = getelementptr ptr, ptr %results, i64 %o
  store ptr %y, ptr %result.at, align 8
  %o1 = add i64 %o, 1
  br label %output

run:
  $LOAD_SAVE_THREAD
  $LOAD_RESTORE_THREAD
  $LOAD_RUN
  %thread = call ptr %save_thread()
  %code = call i32 %run_model(ptr %context, ptr %frame, ptr %output_frame)
  call void %restore_thread(ptr %thread)
  store atomic ptr %context, ptr %context.at release, align 8
  %done = icmp eq i32 %code, 0
  br i1 %done, label %answer, label %drop.failed
answer:
  %single = icmp eq i64 %outputs, 1
  br i1 %single, label %answer.one, label %answer.several
answer.one:
  %one = load ptr, ptr %results, align 8
  ret ptr %one
answer.several:
  $LOAD_NEW_TUPLE
  $LOAD_SET_ITEM
  %tuple = call ptr %new_tuple(i64 %outputs)
  %is_tuple = icmp ne ptr %tuple, null
  br i1 %is_tuple, label %item, label %drop.all
item:
  %t = phi i64 [ 0, %answer.several ], [ %t1, %item.set ]
  %unset = icmp ult i64 %t, %outputs
  br i1 %unset, label %item.set, label %answer.tuple
item.set:
  %item.at = getelementptr ptr, ptr %results, i64 %t
  %item.value = load ptr, ptr %item.at, align 8
  %ignored = call i32 %set_item(ptr %tuple, i64 %t, ptr %item.value)
  %t1 = add i64 %t, 1
  br label %item
answer.tuple:
  ret ptr %tuple

out_of_memory:
  store atomic ptr %context, ptr %context.at release, align 8
  br label %drop
drop.failed:
  br label %drop
drop.all:
  br label %drop
drop:
  %left = phi i64 [ %o, %out_of_memory ], [ %outputs, %drop.failed ], [ %outputs, %drop.all ]
  %retry = phi i1 [ false, %out_of_memory ], [ true, %drop.failed ], [ false, %drop.all ]
  $LOAD_DECREF
  br label %drop.next
drop.next:
  %n = phi i64 [ %left, %drop ], [ %n1, %drop.one ]
  %any = icmp ne i64 %n, 0
  br i1 %any, label %drop.one, label %dropped
drop.one:
  %n1 = sub i64 %n, 1
  %dropped.at = getelementptr ptr, ptr %results, i64 %n1
  %dropped.value = load ptr, ptr %dropped.at, align 8
  call void %decref(ptr %dropped.value)
  br label %drop.next
dropped:
  br i1 %retry, label %slow, label %failed
failed:
  ret ptr null

slow:
  br i1 %plain, label %forward, label %keywords
keywords:
  %keywords.at = getelementptr i8, ptr %kwnames, i64 $TUPLE_SIZE
  %keywords.count = load i64, ptr %keywords.at, align 8
  br label %forward
forward:
  %named = phi i64 [ 0, %slow ], [ %keywords.count, %keywords ]
  $LOAD_SLOW
  $LOAD_CALL_OBJECT
  %total = add i64 %nargs, %named
  %room = add i64 %total, 1
  %all = alloca ptr, i64 %room, align 8
  store ptr %self, ptr %all, align 8
  br label %argument
argument:
  %a = phi i64 [ 0, %forward ], [ %a1, %argument.copy ]
  %further = icmp ult i64 %a, %total
  br i1 %further, label %argument.copy, label %call.slow
argument.copy:
  %a1 = add i64 %a, 1
  %argument.from = getelementptr ptr, ptr %args, i64 %a
  %argument.value = load ptr, ptr %argument.from, align 8
  %argument.to = getelementptr ptr, ptr %all, i64 %a1
  store ptr %argument.value, ptr %argument.to, align 8
  br label %argument
call.slow:
  %positional = add i64 %nargs, 1
  %slow.result = call ptr %call_object(ptr %slow_path, ptr %all, i64 %positional, ptr %kwnames)
  ret ptr %slow.result
}

; For the slow path: to take the context, with a null, or to give it back.
define ptr @${P}_exchange(ptr %at, ptr %context) #0 {
  %before = atomicrmw xchg ptr %at, ptr %context acq_rel, align 8
  ret ptr %before
}

attributes #0 = { nounwind }
"""

PYTHON_ENTRIES = ("call", "exchange")

# The names in the text of what is loaded from the state.
_LOADS = {
    "inputs": "i64", "outputs": "i64", "symbol_count": "i64", "threads": "i64",
    "array_type": "ptr", "slow_path": "ptr", "shapes": "ptr", "workspace_size": "ptr",
    "run_model": "ptr", "incref": "ptr", "decref": "ptr", "empty": "ptr", "save_thread": "ptr",
    "restore_thread": "ptr", "new_tuple": "ptr", "set_item": "ptr", "call_object": "ptr",
}  # fmt: skip
_KEYS = {"symbol_count": "SYMBOLS", "slow_path": "SLOW", "run_model": "RUN"}


def pycall_module(prefix: str, triple: str) -> str:
    """Return the module, whose functions are `PYTHON_ENTRIES` behind the prefix."""
    loads = {}
    for name, type in _LOADS.items():
        lines = (
            f"%{name}.at = getelementptr i8, ptr %state, i64 {8 * STATE[name]}",
            f"%{name} = load {type}, ptr %{name}.at, align 8",
        )
        loads[f"LOAD_{_KEYS.get(name, name.upper())}"] = "\n  ".join(lines)
    return Template(_CALL).substitute(
        loads,
        P=prefix,
        TRIPLE=triple,
        ARRAY_DATA=ARRAY_DATA,
        ARRAY_RANK=ARRAY_RANK,
        ARRAY_DIMS=ARRAY_DIMS,
        ARRAY_DESCR=ARRAY_DESCR,
        ARRAY_FLAGS=ARRAY_FLAGS,
        DENSE=DENSE,
        FIRST_SLOT=FIRST_SLOT,
        TUPLE_SIZE=TUPLE_SIZE,
        OBJECT_TYPE=OBJECT_TYPE,
        PORTS=8 * len(STATE),
        PORT_BYTES=8 * PORT_WORDS,
        CONTEXT=8 * STATE["context"],
        CTX_WORKSPACE_BYTES=CTX_WORKSPACE_BYTES,
        TENSOR_BYTES=TENSOR_BYTES,
        TENSOR_DATA=TENSOR_DATA,
        TENSOR_DIMS=TENSOR_DIMS,
    )
