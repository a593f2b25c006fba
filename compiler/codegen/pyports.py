"""LLVM IR text of what a call from Python does with one array: takes an input, makes an output.

An input that a run writes to is a dense array, or a view of the first elements of an array with
room, as `runtime.inplace` describes it. What is refused here is left to that slower path.
"""

from __future__ import annotations

from tfc.compiler.codegen.pyfields import expanded

# A tensor's fields of an array, which is none of Python's if its dtype or rank differ.
_TAKE = """
define internal i1 @${P}_take(ptr %state, ptr %port, ptr %x, ptr %tensor) #0 {
entry:
  %array_type = field ptr %state STATE_array_type
  %type = field ptr %x OBJECT_TYPE
  %is_array = icmp eq ptr %type, %array_type
  br i1 %is_array, label %compare, label %refuse
compare:
  %descr = field ptr %port PORT_descr
  %rank = field i64 %port PORT_rank
  %x.descr = field ptr %x ARRAY_DESCR
  %x.rank32 = field i32 %x ARRAY_RANK
  %x.rank = sext i32 %x.rank32 to i64
  %same_type = icmp eq ptr %x.descr, %descr
  %same_rank = icmp eq i64 %x.rank, %rank
  %alike = and i1 %same_type, %same_rank
  br i1 %alike, label %take, label %refuse
take:
  %data = field ptr %x ARRAY_DATA
  put ptr %data %tensor TENSOR_DATA
  %from = field ptr %x ARRAY_DIMS
  %to = getelementptr i8, ptr %tensor, i64 ${TENSOR_DIMS}
  br label %dim
dim:
  %d = phi i64 [ 0, %take ], [ %d1, %copy ]
  %more = icmp ult i64 %d, %rank
  br i1 %more, label %copy, label %done
copy:
  %size.from = getelementptr i64, ptr %from, i64 %d
  %size = load i64, ptr %size.from, align 8
  %size.to = getelementptr i64, ptr %to, i64 %d
  store i64 %size, ptr %size.to, align 8
  %d1 = add i64 %d, 1
  br label %dim
done:
  %flags = field i32 %x ARRAY_FLAGS
  %shared = field i64 %port PORT_shared
  %read = icmp eq i64 %shared, 0
  br i1 %read, label %dense, label %changed
dense:
  %dense.bits = and i32 %flags, ${DENSE}
  %is_dense = icmp eq i32 %dense.bits, ${DENSE}
  ret i1 %is_dense
changed:
  %changeable.bits = and i32 %flags, ${CHANGEABLE}
  %is_changeable = icmp eq i32 %changeable.bits, ${CHANGEABLE}
  br i1 %is_changeable, label %lies, label %refuse
lies:
  %well = call i1 @${P}_has_room(ptr %state, ptr %port, ptr %x, ptr %tensor)
  ret i1 %well
refuse:
  ret i1 false
}
"""

# The strides of a tensor with room and the bytes of its memory.
_LAYOUT = """
define internal i64 @${P}_layout(ptr %port, ptr %dims, ptr %strides) #0 {
entry:
  %rank = field i64 %port PORT_rank
  %axis = field i64 %port PORT_axis
  %room = field i64 %port PORT_room
  %itemsize = field i64 %port PORT_itemsize
  br label %dim
dim:
  %left = phi i64 [ %rank, %entry ], [ %d, %step ]
  %bytes = phi i64 [ %itemsize, %entry ], [ %more, %step ]
  %done = icmp eq i64 %left, 0
  br i1 %done, label %end, label %step
step:
  %d = sub i64 %left, 1
  %stride.at = getelementptr i64, ptr %strides, i64 %d
  store i64 %bytes, ptr %stride.at, align 8
  %size.at = getelementptr i64, ptr %dims, i64 %d
  %size = load i64, ptr %size.at, align 8
  %grows = icmp eq i64 %d, %axis
  %around = select i1 %grows, i64 %room, i64 %size
  %more = mul i64 %bytes, %around
  br label %dim
end:
  ret i64 %bytes
}
"""

# Whether an array that a run writes to lies as it should; its capacity is noted.
_HAS_ROOM = """
define internal i1 @${P}_has_room(ptr %state, ptr %port, ptr %x, ptr %tensor) #0 {
entry:
  %strides = alloca [8 x i64], align 8
  %dims = getelementptr i8, ptr %tensor, i64 ${TENSOR_DIMS}
  %bytes = call i64 @${P}_layout(ptr %port, ptr %dims, ptr %strides)
  put i64 %bytes %tensor TENSOR_CAPACITY
  %axis = field i64 %port PORT_axis
  %fixed = icmp slt i64 %axis, 0
  %flags = field i32 %x ARRAY_FLAGS
  %dense.bits = and i32 %flags, ${CONTIGUOUS}
  %is_dense = icmp ne i32 %dense.bits, 0
  br i1 %fixed, label %answer, label %growing
answer:
  ret i1 %is_dense
growing:
  %room = field i64 %port PORT_room
  %length.at = getelementptr i64, ptr %dims, i64 %axis
  %length = load i64, ptr %length.at, align 8
  %within = icmp sle i64 %length, %room
  br i1 %within, label %compare, label %refuse
compare:
  %rank = field i64 %port PORT_rank
  %given = field ptr %x ARRAY_STRIDES
  br label %dim
dim:
  %d = phi i64 [ 0, %compare ], [ %d1, %next ]
  %some = icmp ult i64 %d, %rank
  br i1 %some, label %step, label %around
step:
  %size.at = getelementptr i64, ptr %dims, i64 %d
  %size = load i64, ptr %size.at, align 8
  %has.at = getelementptr i64, ptr %given, i64 %d
  %has = load i64, ptr %has.at, align 8
  %wanted.at = getelementptr i64, ptr %strides, i64 %d
  %wanted = load i64, ptr %wanted.at, align 8
  %single = icmp sle i64 %size, 1
  %same = icmp eq i64 %has, %wanted
  %good = or i1 %single, %same
  br i1 %good, label %next, label %refuse
next:
  %d1 = add i64 %d, 1
  br label %dim
around:
  %whole = call ptr @${P}_whole(ptr %x)
  %array_type = field ptr %state STATE_array_type
  %type = field ptr %whole OBJECT_TYPE
  %is_array = icmp eq ptr %type, %array_type
  br i1 %is_array, label %owner, label %refuse
owner:
  %descr = field ptr %port PORT_descr
  %whole.descr = field ptr %whole ARRAY_DESCR
  %same_type = icmp eq ptr %whole.descr, %descr
  %whole.flags = field i32 %whole ARRAY_FLAGS
  %whole.bits = and i32 %whole.flags, ${CONTIGUOUS}
  %in_one_piece = icmp ne i32 %whole.bits, 0
  %usual = and i1 %same_type, %in_one_piece
  br i1 %usual, label %measure, label %refuse
measure:
  %whole.rank32 = field i32 %whole ARRAY_RANK
  %whole.rank = sext i32 %whole.rank32 to i64
  %whole.dims = field ptr %whole ARRAY_DIMS
  %itemsize = field i64 %port PORT_itemsize
  br label %part
part:
  %k = phi i64 [ 0, %measure ], [ %k1, %multiply ]
  %total = phi i64 [ %itemsize, %measure ], [ %larger, %multiply ]
  %further = icmp ult i64 %k, %whole.rank
  br i1 %further, label %multiply, label %fit
multiply:
  %extent.at = getelementptr i64, ptr %whole.dims, i64 %k
  %extent = load i64, ptr %extent.at, align 8
  %larger = mul i64 %total, %extent
  %k1 = add i64 %k, 1
  br label %part
fit:
  %x.data = field i64 %x ARRAY_DATA
  %whole.data = field i64 %whole ARRAY_DATA
  %offset = sub i64 %x.data, %whole.data
  %end = add i64 %offset, %bytes
  %begins = icmp sge i64 %offset, 0
  %ends = icmp sle i64 %end, %total
  %inside = and i1 %begins, %ends
  ret i1 %inside
refuse:
  ret i1 false
}

; The array that an array is a view of, or itself.
define internal ptr @${P}_whole(ptr %x) #0 {
  %base = field ptr %x ARRAY_BASE
  %own = icmp eq ptr %base, null
  %whole = select i1 %own, ptr %x, ptr %base
  ret ptr %whole
}
"""

# Whether no other input lies in memory that a run writes. Each input is a pair of addresses; one
# that is written overlaps with itself alone. Empty ones overlap with none, as those do that fill
# up the vectors.
_APART = """
define internal i1 @${P}_apart(ptr %state, ptr %frame) #0 {
entry:
  %inputs = field i64 %state STATE_inputs
  %ports = getelementptr i8, ptr %state, i64 ${PORTS}
  %rounded = add i64 %inputs, 7
  %room = and i64 %rounded, -8
  %starts = alloca i64, i64 %room, align 64
  %stops = alloca i64, i64 %room, align 64
  br label %span
span:
  %i = phi i64 [ 0, %entry ], [ %i1, %keep ]
  %padding = icmp uge i64 %i, %inputs
  %full = icmp eq i64 %i, %room
  br i1 %full, label %check, label %more
more:
  br i1 %padding, label %keep, label %measure
measure:
  %tensor = getelementptr [${TENSOR_BYTES} x i8], ptr %frame, i64 %i
  %port = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %i
  %data = field i64 %tensor TENSOR_DATA
  %shared = field i64 %port PORT_shared
  %is_read = icmp eq i64 %shared, 0
  br i1 %is_read, label %dense, label %around
around:
  %capacity = field i64 %tensor TENSOR_CAPACITY
  br label %measured
dense:
  %rank = field i64 %port PORT_rank
  %itemsize = field i64 %port PORT_itemsize
  %dims = getelementptr i8, ptr %tensor, i64 ${TENSOR_DIMS}
  br label %dim
dim:
  %d = phi i64 [ 0, %dense ], [ %d1, %multiply ]
  %bytes = phi i64 [ %itemsize, %dense ], [ %larger, %multiply ]
  %further = icmp ult i64 %d, %rank
  br i1 %further, label %multiply, label %measured
multiply:
  %size.at = getelementptr i64, ptr %dims, i64 %d
  %size = load i64, ptr %size.at, align 8
  %larger = mul i64 %bytes, %size
  %d1 = add i64 %d, 1
  br label %dim
measured:
  %extent = phi i64 [ %capacity, %around ], [ %bytes, %dim ]
  %empty = icmp eq i64 %extent, 0
  %last = add i64 %data, %extent
  %stop.some = select i1 %empty, i64 0, i64 %last
  %start.some = select i1 %empty, i64 ${NOWHERE}, i64 %data
  br label %keep
keep:
  %start = phi i64 [ ${NOWHERE}, %more ], [ %start.some, %measured ]
  %stop = phi i64 [ 0, %more ], [ %stop.some, %measured ]
  %start.to = getelementptr i64, ptr %starts, i64 %i
  store i64 %start, ptr %start.to, align 8
  %stop.to = getelementptr i64, ptr %stops, i64 %i
  store i64 %stop, ptr %stop.to, align 8
  %i1 = add i64 %i, 1
  br label %span

check:
  %w = phi i64 [ 0, %span ], [ %w1, %checked ]
  %left = icmp ult i64 %w, %inputs
  br i1 %left, label %written, label %apart
written:
  %w.port = getelementptr [${PORT_BYTES} x i8], ptr %ports, i64 %w
  %w.shared = field i64 %w.port PORT_shared
  %passed = icmp eq i64 %w.shared, 0
  br i1 %passed, label %checked, label %against
against:
  %w.start.at = getelementptr i64, ptr %starts, i64 %w
  %w.start = load i64, ptr %w.start.at, align 8
  %w.stop.at = getelementptr i64, ptr %stops, i64 %w
  %w.stop = load i64, ptr %w.stop.at, align 8
  %starts.one = insertelement <8 x i64> poison, i64 %w.start, i64 0
  %w.starts = shufflevector <8 x i64> %starts.one, <8 x i64> poison, <8 x i32> zeroinitializer
  %stops.one = insertelement <8 x i64> poison, i64 %w.stop, i64 0
  %w.stops = shufflevector <8 x i64> %stops.one, <8 x i64> poison, <8 x i32> zeroinitializer
  br label %eight
eight:
  %j = phi i64 [ 0, %against ], [ %j1, %count ]
  %sums = phi <8 x i64> [ zeroinitializer, %against ], [ %sums1, %count ]
  %others = icmp ult i64 %j, %room
  br i1 %others, label %count, label %counted
count:
  %others.from = getelementptr i64, ptr %starts, i64 %j
  %other.starts = load <8 x i64>, ptr %others.from, align 64
  %others.to = getelementptr i64, ptr %stops, i64 %j
  %other.stops = load <8 x i64>, ptr %others.to, align 64
  %before = icmp slt <8 x i64> %other.starts, %w.stops
  %behind = icmp slt <8 x i64> %w.starts, %other.stops
  %meet = and <8 x i1> %before, %behind
  %ones = zext <8 x i1> %meet to <8 x i64>
  %sums1 = add <8 x i64> %sums, %ones
  %j1 = add i64 %j, 8
  br label %eight
counted:
  %sum = call i64 @llvm.vector.reduce.add.v8i64(<8 x i64> %sums)
  %alone = icmp ule i64 %sum, 1
  br i1 %alone, label %checked, label %overlap
checked:
  %w1 = add i64 %w, 1
  br label %check
apart:
  ret i1 true
overlap:
  ret i1 false
}

declare i64 @llvm.vector.reduce.add.v8i64(<8 x i64>)
"""

# An output as a new array, as the input in whose memory it lies, or as a view of the same array.
# Null with an exception set where there is no memory.
_MAKE = """
define internal ptr @${P}_make(ptr %state, ptr %port, ptr %tensor, ptr %xs, ptr %frame) #0 {
entry:
  %strides = alloca [8 x i64], align 8
  %descr = field ptr %port PORT_descr
  %rank = field i64 %port PORT_rank
  %rank32 = trunc i64 %rank to i32
  %dims = getelementptr i8, ptr %tensor, i64 ${TENSOR_DIMS}
  %incref = field ptr %state STATE_incref
  %shared = field i64 %port PORT_shared
  %own = icmp eq i64 %shared, 0
  br i1 %own, label %new, label %in_place
new:
  %empty = field ptr %state STATE_empty
  call void %incref(ptr %descr)
  %y = call ptr %empty(i32 %rank32, ptr %dims, ptr %descr, i32 0)
  %failed = icmp eq ptr %y, null
  br i1 %failed, label %answer, label %place
place:
  %data = field ptr %y ARRAY_DATA
  put ptr %data %tensor TENSOR_DATA
  br label %answer

in_place:
  %input = sub i64 %shared, 1
  %x.at = getelementptr ptr, ptr %xs, i64 %input
  %x = load ptr, ptr %x.at, align 8
  %x.tensor = getelementptr [${TENSOR_BYTES} x i8], ptr %frame, i64 %input
  %x.dims = getelementptr i8, ptr %x.tensor, i64 ${TENSOR_DIMS}
  br label %dim
dim:
  %d = phi i64 [ 0, %in_place ], [ %d1, %compare ]
  %more = icmp ult i64 %d, %rank
  br i1 %more, label %compare, label %same
compare:
  %size.at = getelementptr i64, ptr %dims, i64 %d
  %size = load i64, ptr %size.at, align 8
  %x.size.at = getelementptr i64, ptr %x.dims, i64 %d
  %x.size = load i64, ptr %x.size.at, align 8
  %d1 = add i64 %d, 1
  %equal = icmp eq i64 %size, %x.size
  br i1 %equal, label %dim, label %view
same:
  call void %incref(ptr %x)
  br label %answer
view:
  %bytes = call i64 @${P}_layout(ptr %port, ptr %dims, ptr %strides)
  %x.data = field ptr %x ARRAY_DATA
  %whole = call ptr @${P}_whole(ptr %x)
  %part = call ptr @${P}_view(ptr %state, ptr %port, ptr %dims, ptr %strides,
                              ptr %x.data, ptr %whole)
  br label %answer
answer:
  %result = phi ptr [ %y, %new ], [ %y, %place ], [ %x, %same ], [ %part, %view ]
  ret ptr %result
}

; A view of an array; strides may be null.
define internal ptr @${P}_view(ptr %state, ptr %port, ptr %dims, ptr %strides,
                               ptr %data, ptr %whole) #0 {
entry:
  %array_type = field ptr %state STATE_array_type
  %new_view = field ptr %state STATE_new_view
  %set_base = field ptr %state STATE_set_base
  %incref = field ptr %state STATE_incref
  %descr = field ptr %port PORT_descr
  %rank = field i64 %port PORT_rank
  %rank32 = trunc i64 %rank to i32
  call void %incref(ptr %descr)
  %y = call ptr %new_view(ptr %array_type, ptr %descr, i32 %rank32, ptr %dims, ptr %strides,
                          ptr %data, i32 ${CHANGEABLE}, ptr null)
  %failed = icmp eq ptr %y, null
  br i1 %failed, label %answer, label %based
based:
  call void %incref(ptr %whole)
  %code = call i32 %set_base(ptr %y, ptr %whole)
  %refused = icmp ne i32 %code, 0
  br i1 %refused, label %drop, label %answer
drop:
  %decref = field ptr %state STATE_decref
  call void %decref(ptr %y)
  br label %answer
answer:
  %result = phi ptr [ null, %entry ], [ %y, %based ], [ null, %drop ]
  ret ptr %result
}
"""

# What a run has filled of an output whose dims it told. Takes the whole and gives the part; where
# most of the memory is unused it is given back. Null with an exception set where that fails.
_CUT = """
define internal ptr @${P}_cut(ptr %state, ptr %port, ptr %tensor, ptr %whole) #0 {
entry:
  %rank = field i64 %port PORT_rank
  %dims = getelementptr i8, ptr %tensor, i64 ${TENSOR_DIMS}
  %whole.dims = field ptr %whole ARRAY_DIMS
  br label %dim
dim:
  %d = phi i64 [ 0, %entry ], [ %d1, %step ]
  %size = phi i64 [ 1, %entry ], [ %size1, %step ]
  %most = phi i64 [ 1, %entry ], [ %most1, %step ]
  %same = phi i1 [ true, %entry ], [ %same1, %step ]
  %more = icmp ult i64 %d, %rank
  br i1 %more, label %step, label %measured
step:
  %has.at = getelementptr i64, ptr %dims, i64 %d
  %has = load i64, ptr %has.at, align 8
  %had.at = getelementptr i64, ptr %whole.dims, i64 %d
  %had = load i64, ptr %had.at, align 8
  %size1 = mul i64 %size, %has
  %most1 = mul i64 %most, %had
  %equal = icmp eq i64 %has, %had
  %same1 = and i1 %same, %equal
  %d1 = add i64 %d, 1
  br label %dim
measured:
  br i1 %same, label %keep, label %part
keep:
  ret ptr %whole
part:
  %decref = field ptr %state STATE_decref
  %data = field ptr %whole ARRAY_DATA
  %view = call ptr @${P}_view(ptr %state, ptr %port, ptr %dims, ptr null, ptr %data, ptr %whole)
  call void %decref(ptr %whole)
  %twice = shl i64 %size, 1
  %large = icmp sge i64 %twice, %most
  %failed = icmp eq ptr %view, null
  %enough = or i1 %large, %failed
  br i1 %enough, label %answer, label %copy
copy:
  %new_copy = field ptr %state STATE_new_copy
  %own = call ptr %new_copy(ptr %view, i32 0)
  call void %decref(ptr %view)
  br label %answer
answer:
  %result = phi ptr [ %view, %part ], [ %own, %copy ]
  ret ptr %result
}
"""


def ports_text(prefix: str) -> str:
    """Return the functions `take`, `apart`, `make` and `cut` behind the prefix, internal ones."""
    parts = (_TAKE, _LAYOUT, _HAS_ROOM, _APART, _MAKE, _CUT)
    return expanded("".join(parts), P=prefix, NOWHERE=str(2**63 - 1))
