"""LLVM IR text of the method by which Python calls a model, without ctypes in between.

It takes what most calls have, numpy arrays of the right types, one by one or in a dict, and hands
all else to the slower path in Python. `runtime.pycall` fills the state that it works on; no C
program needs it.
"""

from __future__ import annotations

from tfc.compiler.codegen.pyfields import expanded
from tfc.compiler.codegen.pyports import ports_text

# A METH_FASTCALL | METH_KEYWORDS method, of all models alike. The first slot of its object holds
# the array of the state.
_CALL = """
define ptr @${P}_call(ptr %self, ptr %args, i64 %nargs, ptr %kwnames) #0 {
entry:
  %array = field ptr %self FIRST_SLOT
  %state = field ptr %array ARRAY_DATA
  %inputs = field i64 %state STATE_inputs
  %outputs = field i64 %state STATE_outputs
  %ports = getelementptr i8, ptr %state, i64 ${PORTS}
  %output_ports = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %inputs
  %held = alloca ptr, i64 %inputs, align 8
  %results = alloca ptr, i64 %outputs, align 8
  %plain = icmp eq ptr %kwnames, null
  %one = icmp eq i64 %nargs, 1
  %lone = and i1 %plain, %one
  br i1 %lone, label %look, label %arrays
look:
  %dict_type = field ptr %state STATE_dict_type
  %first = load ptr, ptr %args, align 8
  %first.type = field ptr %first OBJECT_TYPE
  %is_dict = icmp eq ptr %first.type, %dict_type
  br i1 %is_dict, label %named, label %arrays
arrays:
  %counted = icmp eq i64 %nargs, %inputs
  %usual = and i1 %counted, %plain
  br i1 %usual, label %attempt, label %slow

named:
  %incref = field ptr %state STATE_incref
  %dict_size = field ptr %state STATE_dict_size
  %dict_get = field ptr %state STATE_dict_get
  %size = call i64 %dict_size(ptr %first)
  %complete = icmp eq i64 %size, %inputs
  br i1 %complete, label %name, label %slow
name:
  %i = phi i64 [ 0, %named ], [ %i1, %hold ]
  %more = icmp ult i64 %i, %inputs
  br i1 %more, label %get, label %attempt
get:
  %port = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %i
  %name.object = field ptr %port PORT_name
  %x = call ptr %dict_get(ptr %first, ptr %name.object)
  %found = icmp ne ptr %x, null
  br i1 %found, label %hold, label %missing
hold:
  call void %incref(ptr %x)
  %x.to = getelementptr ptr, ptr %held, i64 %i
  store ptr %x, ptr %x.to, align 8
  %i1 = add i64 %i, 1
  br label %name
missing:
  %forget_error = field ptr %state STATE_forget_error
  call void %forget_error()
  call void @${P}_drop(ptr %state, ptr %held, i64 %i)
  br label %slow

attempt:
  %xs = phi ptr [ %args, %arrays ], [ %held, %name ]
  %is_named = phi i1 [ false, %arrays ], [ true, %name ]
  %status = call i64 @${P}_attempt(ptr %state, ptr %xs, ptr %results)
  br i1 %is_named, label %release, label %attempted
release:
  call void @${P}_drop(ptr %state, ptr %held, i64 %inputs)
  br label %attempted
attempted:
  switch i64 %status, label %fault [ i64 0, label %answer
                                     i64 ${REFUSED}, label %slow
                                     i64 ${RAISED}, label %failed ]
failed:
  ret ptr null
fault:
  %raised = call ptr @${P}_raise(ptr %state, ptr %self, i64 %status)
  ret ptr %raised
answer:
  br i1 %is_named, label %answer.dict, label %answer.arrays
answer.dict:
  %dict = call ptr @${P}_dict(ptr %state, ptr %output_ports, ptr %results, i64 %outputs)
  ret ptr %dict
answer.arrays:
  %single = icmp eq i64 %outputs, 1
  br i1 %single, label %answer.one, label %answer.several
answer.one:
  %only = load ptr, ptr %results, align 8
  ret ptr %only
answer.several:
  %tuple = call ptr @${P}_tuple(ptr %state, ptr %results, i64 %outputs)
  ret ptr %tuple

slow:
  br i1 %plain, label %forward, label %keywords
keywords:
  %keywords.count = field i64 %kwnames TUPLE_SIZE
  br label %forward
forward:
  %by_keyword = phi i64 [ 0, %slow ], [ %keywords.count, %keywords ]
  %slow_path = field ptr %state STATE_slow_path
  %call_object = field ptr %state STATE_call_object
  %total = add i64 %nargs, %by_keyword
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
  %result = call ptr %call_object(ptr %slow_path, ptr %all, i64 %positional, ptr %kwnames)
  ret ptr %result
}
"""

# A run on arrays, whose results are the caller's: 0, or REFUSED where the slow path has to decide,
# or RAISED where an exception is set, or the code of a run that failed. The context is taken while
# a run uses it: a second one at the same time is refused.
_ATTEMPT = """
define internal i64 @${P}_attempt(ptr %state, ptr %xs, ptr %results) #0 {
entry:
  %inputs = field i64 %state STATE_inputs
  %outputs = field i64 %state STATE_outputs
  %symbol_count = field i64 %state STATE_symbol_count
  %ports = getelementptr i8, ptr %state, i64 ${PORTS}
  %count = add i64 %inputs, %outputs
  %frame = alloca [${TENSOR_BYTES} x i8], i64 %count, align 8
  %symbols = alloca i64, i64 %symbol_count, align 8
  %output_frame = getelementptr [${TENSOR_BYTES} x i8], ptr %frame, i64 %inputs
  %output_ports = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %inputs
  br label %input
input:
  %i = phi i64 [ 0, %entry ], [ %i1, %take ]
  %some = icmp ult i64 %i, %inputs
  br i1 %some, label %take, label %bind
take:
  %x.at = getelementptr ptr, ptr %xs, i64 %i
  %x = load ptr, ptr %x.at, align 8
  %port = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %i
  %tensor = getelementptr [${TENSOR_BYTES} x i8], ptr %frame, i64 %i
  %taken = call i1 @${P}_take(ptr %state, ptr %port, ptr %x, ptr %tensor)
  %i1 = add i64 %i, 1
  br i1 %taken, label %input, label %refused

bind:
  %shapes = field ptr %state STATE_shapes
  %unfit = call i32 %shapes(ptr %frame, ptr %output_frame, ptr %symbols)
  %bound = icmp eq i32 %unfit, 0
  br i1 %bound, label %written, label %refused
written:
  %writes = field i64 %state STATE_writes
  %is_pure = icmp eq i64 %writes, 0
  br i1 %is_pure, label %claim, label %overlaps
overlaps:
  %apart = call i1 @${P}_apart(ptr %state, ptr %frame)
  br i1 %apart, label %claim, label %refused
claim:
  %context.to = getelementptr i8, ptr %state, i64 ${STATE_context}
  %context = atomicrmw xchg ptr %context.to, ptr null acquire, align 8
  %free = icmp ne ptr %context, null
  br i1 %free, label %measure, label %refused
measure:
  %workspace_size = field ptr %state STATE_workspace_size
  %threads = field i64 %state STATE_threads
  %threads32 = trunc i64 %threads to i32
  %needed = call i64 %workspace_size(ptr %symbols, i32 %threads32)
  %given = field i64 %context CTX_WORKSPACE_BYTES
  %enough = icmp sge i64 %given, %needed
  br i1 %enough, label %output, label %small
small:
  store atomic ptr %context, ptr %context.to release, align 8
  br label %refused

output:
  %o = phi i64 [ 0, %measure ], [ %o1, %made ]
  %lacking = icmp ult i64 %o, %outputs
  br i1 %lacking, label %make, label %run
make:
  %y.port = getelementptr [${PORT_BYTES} x i8], ptr %output_ports, i64 %o
  %y.tensor = getelementptr [${TENSOR_BYTES} x i8], ptr %output_frame, i64 %o
  %y = call ptr @${P}_make(ptr %state, ptr %y.port, ptr %y.tensor, ptr %xs, ptr %frame)
  %is_made = icmp ne ptr %y, null
  br i1 %is_made, label %made, label %unmade
made:
  %y.to = getelementptr ptr, ptr %results, i64 %o
  store ptr %y, ptr %y.to, align 8
  %o1 = add i64 %o, 1
  br label %output
unmade:
  store atomic ptr %context, ptr %context.to release, align 8
  call void @${P}_drop(ptr %state, ptr %results, i64 %o)
  br label %raised

run:
  %save_thread = field ptr %state STATE_save_thread
  %restore_thread = field ptr %state STATE_restore_thread
  %run_model = field ptr %state STATE_run_model
  %thread = call ptr %save_thread()
  %code = call i32 %run_model(ptr %context, ptr %frame, ptr %output_frame)
  call void %restore_thread(ptr %thread)
  store atomic ptr %context, ptr %context.to release, align 8
  %good = icmp eq i32 %code, 0
  br i1 %good, label %told, label %fault
fault:
  call void @${P}_drop(ptr %state, ptr %results, i64 %outputs)
  %status = zext i32 %code to i64
  ret i64 %status

told:
  %tells = field i64 %state STATE_tells
  %known = icmp eq i64 %tells, 0
  br i1 %known, label %done, label %tell
tell:
  %t = phi i64 [ 0, %told ], [ %t1, %kept ]
  %untold = icmp ult i64 %t, %outputs
  br i1 %untold, label %result, label %done
result:
  %t1 = add i64 %t, 1
  %t.port = getelementptr [${PORT_BYTES} x i8], ptr %output_ports, i64 %t
  %t.told = field i64 %t.port PORT_told
  %is_told = icmp ne i64 %t.told, 0
  br i1 %is_told, label %cut, label %kept
cut:
  %t.tensor = getelementptr [${TENSOR_BYTES} x i8], ptr %output_frame, i64 %t
  %t.at = getelementptr ptr, ptr %results, i64 %t
  %whole = load ptr, ptr %t.at, align 8
  %part = call ptr @${P}_cut(ptr %state, ptr %t.port, ptr %t.tensor, ptr %whole)
  store ptr %part, ptr %t.at, align 8
  %is_cut = icmp ne ptr %part, null
  br i1 %is_cut, label %kept, label %uncut
kept:
  br label %tell
uncut:
  call void @${P}_drop(ptr %state, ptr %results, i64 %t)
  %rest = sub i64 %outputs, %t1
  %rest.at = getelementptr ptr, ptr %results, i64 %t1
  call void @${P}_drop(ptr %state, ptr %rest.at, i64 %rest)
  br label %raised
done:
  ret i64 0
refused:
  ret i64 ${REFUSED}
raised:
  ret i64 ${RAISED}
}
"""

_ANSWERS = """
define internal ptr @${P}_tuple(ptr %state, ptr %results, i64 %outputs) #0 {
entry:
  %new_tuple = field ptr %state STATE_new_tuple
  %set_item = field ptr %state STATE_set_item
  %tuple = call ptr %new_tuple(i64 %outputs)
  %is_tuple = icmp ne ptr %tuple, null
  br i1 %is_tuple, label %item, label %drop
item:
  %t = phi i64 [ 0, %entry ], [ %t1, %set ]
  %unset = icmp ult i64 %t, %outputs
  br i1 %unset, label %set, label %answer
set:
  %y.at = getelementptr ptr, ptr %results, i64 %t
  %y = load ptr, ptr %y.at, align 8
  %ignored = call i32 %set_item(ptr %tuple, i64 %t, ptr %y)
  %t1 = add i64 %t, 1
  br label %item
answer:
  ret ptr %tuple
drop:
  call void @${P}_drop(ptr %state, ptr %results, i64 %outputs)
  ret ptr null
}

define internal ptr @${P}_dict(ptr %state, ptr %ports, ptr %results, i64 %outputs) #0 {
entry:
  %new_dict = field ptr %state STATE_new_dict
  %dict_set = field ptr %state STATE_dict_set
  %decref = field ptr %state STATE_decref
  %dict = call ptr %new_dict()
  %is_dict = icmp ne ptr %dict, null
  br i1 %is_dict, label %item, label %drop
item:
  %t = phi i64 [ 0, %entry ], [ %t1, %set ]
  %unset = icmp ult i64 %t, %outputs
  br i1 %unset, label %set, label %drop
set:
  %port = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %t
  %name = field ptr %port PORT_name
  %y.at = getelementptr ptr, ptr %results, i64 %t
  %y = load ptr, ptr %y.at, align 8
  %code = call i32 %dict_set(ptr %dict, ptr %name, ptr %y)
  %is_set = icmp eq i32 %code, 0
  %t1 = add i64 %t, 1
  br i1 %is_set, label %item, label %failed
failed:
  call void %decref(ptr %dict)
  br label %drop
drop:
  %result = phi ptr [ null, %entry ], [ %dict, %item ], [ null, %failed ]
  call void @${P}_drop(ptr %state, ptr %results, i64 %outputs)
  ret ptr %result
}

; Has Python raise what a run's code means.
define internal ptr @${P}_raise(ptr %state, ptr %self, i64 %code) #0 {
entry:
  %arguments = alloca [2 x ptr], align 8
  %new_number = field ptr %state STATE_new_number
  %call_object = field ptr %state STATE_call_object
  %decref = field ptr %state STATE_decref
  %fault = field ptr %state STATE_fault
  %number = call ptr %new_number(i64 %code)
  %failed = icmp eq ptr %number, null
  br i1 %failed, label %answer, label %tell
tell:
  store ptr %self, ptr %arguments, align 8
  %second = getelementptr ptr, ptr %arguments, i64 1
  store ptr %number, ptr %second, align 8
  %raised = call ptr %call_object(ptr %fault, ptr %arguments, i64 2, ptr null)
  call void %decref(ptr %number)
  br label %answer
answer:
  %result = phi ptr [ null, %entry ], [ %raised, %tell ]
  ret ptr %result
}

define internal void @${P}_drop(ptr %state, ptr %objects, i64 %count) #0 {
entry:
  %decref = field ptr %state STATE_decref
  br label %object
object:
  %i = phi i64 [ 0, %entry ], [ %i1, %one ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %one, label %done
one:
  %at = getelementptr ptr, ptr %objects, i64 %i
  %object.value = load ptr, ptr %at, align 8
  call void %decref(ptr %object.value)
  %i1 = add i64 %i, 1
  br label %object
done:
  ret void
}

; For the slow path: to take the context, with a null, or to give it back.
define ptr @${P}_exchange(ptr %at, ptr %context) #0 {
  %before = atomicrmw xchg ptr %at, ptr %context acq_rel, align 8
  ret ptr %before
}
"""

PYTHON_ENTRIES = ("call", "exchange")


def pycall_module(prefix: str, triple: str) -> str:
    """Return the module, whose functions are `PYTHON_ENTRIES` behind the prefix."""
    parts = (_CALL, _ATTEMPT, _ANSWERS)
    return "\n".join((
        f'target triple = "{triple}"',
        expanded("".join(parts), P=prefix, REFUSED="-1", RAISED="-2"),
        ports_text(prefix),
        "attributes #0 = { nounwind }\n",
    ))  # fmt: skip
