"""The thread pool as templates of LLVM IR, in which `pool` fills in words and machines.

The behaviour is specified in docs/decisions/0003-thread-pool.md; start with `PARALLEL_FOR`.
"""

DECLARATIONS = """\
target triple = "$TRIPLE"

declare i32 @getpid() nounwind
declare ptr @mmap(ptr, i64, i32, i32, i32, i64) nounwind
declare i32 @munmap(ptr, i64) nounwind
declare i32 @pthread_create(ptr, ptr, ptr, ptr) nounwind
declare i32 @pthread_join(i64, ptr) nounwind
declare i64 @syscall(i64, ...) nounwind
declare i64 @llvm.smin.i64(i64, i64)
declare i64 @llvm.smax.i64(i64, i64)
$MACHINE_DECLARATIONS
"""

WAITING = """
define internal void @${P}_relax() alwaysinline nounwind {
  $RELAX
  ret void
}

define internal void @${P}_read_control(ptr %at) alwaysinline nounwind {
  $READ_CONTROL
  ret void
}

define internal void @${P}_write_control(ptr %at) alwaysinline nounwind {
  $WRITE_CONTROL
  ret void
}

; FUTEX_WAIT_PRIVATE: returns at once when the word is no longer `expected`, and may return early.
define internal void @${P}_futex_wait(ptr %word, i32 %expected) noinline nounwind {
  %rc = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 128, i32 %expected, ptr null)
  ret void
}

; FUTEX_WAKE_PRIVATE
define internal void @${P}_futex_wake(ptr %word, i32 %count) noinline nounwind {
  %rc = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 129, i32 %count)
  ret void
}

; Spin while the word is `value`, at most `spins` times; returns what was read last.
define internal i32 @${P}_spin_while(ptr %word, i32 %value, i32 %spins) nounwind {
entry:
  br label %check
check:
  %left = phi i32 [ %spins, %entry ], [ %less, %again ]
  %now = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %now, %value
  %spent = icmp eq i32 %left, 0
  %leave = or i1 %changed, %spent
  br i1 %leave, label %done, label %again
again:
  call void @${P}_relax()
  %less = sub i32 %left, 1
  br label %check
done:
  ret i32 %now
}

define internal i64 @${P}_nanoseconds() nounwind {
  %time = alloca { i64, i64 }, align 8
  store { i64, i64 } zeroinitializer, ptr %time
  %rc = call i64 (i64, ...) @syscall(i64 $CLOCK_GETTIME, i32 1, ptr %time)
  %s = load i64, ptr %time
  %at_ns = getelementptr i8, ptr %time, i64 8
  %ns = load i64, ptr %at_ns
  %s_ns = mul i64 %s, 1000000000
  %sum = add i64 %s_ns, %ns
  ret i64 %sum
}

; How many spins make $SPIN_NANOSECONDS ns: one spin takes 10 to 140 cycles, by the CPU. The
; shortest of five trials counts, as a trial may be interrupted.
define internal i32 @${P}_calibrate(ptr %pool) nounwind {
entry:
  %generation = getelementptr i8, ptr %pool, i64 $GENERATION
  br label %trial
trial:
  %k = phi i32 [ 0, %entry ], [ %k1, %trial ]
  %best = phi i64 [ $SPIN_NANOSECONDS, %entry ], [ %best1, %trial ]
  %start = call i64 @${P}_nanoseconds()
  %value = call i32 @${P}_spin_while(ptr %generation, i32 0, i32 $CALIBRATION_ROUNDS)
  %stop = call i64 @${P}_nanoseconds()
  %took = sub i64 %stop, %start
  %best1 = call i64 @llvm.smin.i64(i64 %best, i64 %took)
  %k1 = add i32 %k, 1
  %more = icmp ult i32 %k1, 5
  br i1 %more, label %trial, label %done
done:
  %divisor = call i64 @llvm.smax.i64(i64 %best1, i64 $CALIBRATION_ROUNDS)
  %spins = udiv i64 $SPIN_BUDGET, %divisor
  %spins32 = trunc i64 %spins to i32
  ret i32 %spins32
}
"""

WORK = """
; The number of the next task of a range.
define internal ptr @${P}_at_next(ptr %pool, i64 %range) alwaysinline nounwind {
  %distance = mul i64 %range, $SLOT_BYTES
  %slots = getelementptr i8, ptr %pool, i64 $SLOTS
  %slot = getelementptr i8, ptr %slots, i64 %distance
  %next = getelementptr i8, ptr %slot, i64 $NEXT
  ret ptr %next
}

; Where a range begins: so many of `n` tasks are before it.
define internal i64 @${P}_begin(i64 %range, i64 %n, i64 %ranges) alwaysinline nounwind {
  %share = mul i64 %range, %n
  %begin = udiv i64 %share, %ranges
  ret i64 %begin
}

; Run what is left of the worker's own range, then of the ranges behind it.
define internal void @${P}_drain(ptr %pool, ptr %body, ptr %closure, i64 %n, i64 %ranges,
                                 i64 %worker) nounwind {
entry:
  %home = urem i64 %worker, %ranges
  br label %range
range:
  %k = phi i64 [ 0, %entry ], [ %k1, %empty ]
  %sum = add i64 %home, %k
  %wrapped = sub i64 %sum, %ranges
  %beyond = icmp uge i64 %sum, %ranges
  %r = select i1 %beyond, i64 %wrapped, i64 %sum
  %r1 = add i64 %r, 1
  %end = call i64 @${P}_begin(i64 %r1, i64 %n, i64 %ranges)
  %next = call ptr @${P}_at_next(ptr %pool, i64 %r)
  %glance = load atomic i64, ptr %next monotonic, align 8
  %some = icmp slt i64 %glance, %end
  br i1 %some, label %take, label %empty
take:
  %i = atomicrmw add ptr %next, i64 1 monotonic, align 8
  %mine = icmp slt i64 %i, %end
  br i1 %mine, label %run, label %empty
run:
  call void %body(ptr %closure, i64 %i, i64 %worker)
  br label %take
empty:
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %ranges
  br i1 %more, label %range, label %done
done:
  ret void
}

define internal void @${P}_inline(ptr %body, ptr %closure, i64 %n) nounwind {
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  call void %body(ptr %closure, i64 %i, i64 0)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}

; Gate: bit 0 = a job is open, bit 1 = the caller sleeps until the gate is empty, from bit 2 on =
; how many workers are inside. The job's fields may be read only between entering an open gate and
; leaving it, and the caller changes them only while the gate is closed and empty.
define internal void @${P}_visit(ptr %pool, i64 %worker) nounwind {
entry:
  %gate = getelementptr i8, ptr %pool, i64 $GATE
  %glance = load atomic i32, ptr %gate monotonic, align 4
  %glance_open = and i32 %glance, 1
  %worth = icmp ne i32 %glance_open, 0
  br i1 %worth, label %enter, label %done
enter:
  %before = atomicrmw add ptr %gate, i32 4 acquire, align 4
  %before_open = and i32 %before, 1
  %open = icmp ne i32 %before_open, 0
  br i1 %open, label %work, label %leave
work:
  %at_body = getelementptr i8, ptr %pool, i64 $BODY
  %at_closure = getelementptr i8, ptr %pool, i64 $CLOSURE
  %at_n = getelementptr i8, ptr %pool, i64 $COUNT
  %at_control = getelementptr i8, ptr %pool, i64 $CONTROL
  %at_ranges = getelementptr i8, ptr %pool, i64 $RANGES
  %body = load ptr, ptr %at_body
  %closure = load ptr, ptr %at_closure
  %n = load i64, ptr %at_n
  %ranges = load i64, ptr %at_ranges
  call void @${P}_write_control(ptr %at_control)
  call void @${P}_drain(ptr %pool, ptr %body, ptr %closure, i64 %n, i64 %ranges, i64 %worker)
  br label %leave
leave:
  %old = atomicrmw sub ptr %gate, i32 4 acq_rel, align 4
  %last_awaited = icmp eq i32 %old, 6
  br i1 %last_awaited, label %wake, label %done
wake:
  call void @${P}_futex_wake(ptr %gate, i32 1)
  br label %done
done:
  ret void
}

define internal ptr @${P}_worker(ptr %slot) nounwind {
entry:
  %mask = alloca i64, align 8
  store i64 $BLOCKED_SIGNALS, ptr %mask
  %rc = call i64 (i64, ...) @syscall(i64 $RT_SIGPROCMASK, i32 0, ptr %mask, ptr null, i64 8)
  %pool = load ptr, ptr %slot
  %at_number = getelementptr i8, ptr %slot, i64 8
  %number = load i64, ptr %at_number
  %at_spins = getelementptr i8, ptr %pool, i64 $SPINS
  %spins = load i32, ptr %at_spins
  %parked = getelementptr i8, ptr %pool, i64 $PARKED
  %generation = getelementptr i8, ptr %pool, i64 $GENERATION
  %at_stop = getelementptr i8, ptr %pool, i64 $STOP
  br label %idle
idle:
  %seen = phi i32 [ 0, %entry ], [ %now, %visit ]
  %spun = call i32 @${P}_spin_while(ptr %generation, i32 %seen, i32 %spins)
  %still = icmp eq i32 %spun, %seen
  br i1 %still, label %park, label %called
park:
  ; Either the caller sees this increment after its new generation and wakes, or the kernel sees
  ; the new generation and does not sleep.
  %up = atomicrmw add ptr %parked, i32 1 seq_cst, align 4
  call void @${P}_futex_wait(ptr %generation, i32 %seen)
  %down = atomicrmw sub ptr %parked, i32 1 seq_cst, align 4
  %woken = load atomic i32, ptr %generation acquire, align 4
  %spurious = icmp eq i32 %woken, %seen
  br i1 %spurious, label %park, label %called
called:
  %now = phi i32 [ %spun, %idle ], [ %woken, %park ]
  %stop = load atomic i32, ptr %at_stop acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %end, label %visit
visit:
  call void @${P}_visit(ptr %pool, i64 %number)
  br label %idle
end:
  ret ptr null
}
"""

FORK = """
; A page with a one in it which a forked child finds zeroed (MADV_WIPEONFORK, Linux 4.14); null
; where the kernel has no such thing.
define internal ptr @${P}_map_live() nounwind {
entry:
  %page = call ptr @mmap(ptr null, i64 1, i32 3, i32 34, i32 -1, i64 0)
  %address = ptrtoint ptr %page to i64
  %failed = icmp eq i64 %address, -1
  br i1 %failed, label %none, label %advise
advise:
  %rc = call i64 (i64, ...) @syscall(i64 $MADVISE, ptr %page, i64 1, i32 18)
  %granted = icmp eq i64 %rc, 0
  br i1 %granted, label %mark, label %unmap
mark:
  store i32 1, ptr %page
  ret ptr %page
unmap:
  %unmapped = call i32 @munmap(ptr %page, i64 1)
  br label %none
none:
  ret ptr null
}

; Whether this process is not the one that has the workers. The page answers in a load; getpid
; took 106 ns of the 290 ns of an empty call in which the worker takes part.
define internal i1 @${P}_is_forked(ptr %pool) nounwind {
entry:
  %at_live = getelementptr i8, ptr %pool, i64 $LIVE
  %live = load ptr, ptr %at_live
  %unmarked = icmp eq ptr %live, null
  br i1 %unmarked, label %by_pid, label %by_page
by_page:
  %word = load i32, ptr %live
  %wiped = icmp eq i32 %word, 0
  ret i1 %wiped
by_pid:
  %at_pid = getelementptr i8, ptr %pool, i64 $PID
  %pid = load i32, ptr %at_pid
  %here = call i32 @getpid()
  %other = icmp ne i32 %pid, %here
  ret i1 %other
}
"""

PARALLEL_FOR = """
; Begin a generation and wake at most `wanted` of the workers that sleep.
define internal void @${P}_call_workers(ptr %pool, i64 %wanted) nounwind {
entry:
  %generation = getelementptr i8, ptr %pool, i64 $GENERATION
  %old = atomicrmw add ptr %generation, i32 1 seq_cst, align 4
  %at_parked = getelementptr i8, ptr %pool, i64 $PARKED
  %parked = load atomic i32, ptr %at_parked seq_cst, align 4
  %some = icmp ne i32 %parked, 0
  br i1 %some, label %wake, label %done
wake:
  %bounded = call i64 @llvm.smin.i64(i64 %wanted, i64 2147483647)
  %count = trunc i64 %bounded to i32
  call void @${P}_futex_wake(ptr %generation, i32 %count)
  br label %done
done:
  ret void
}

; Close the gate and wait until it is empty. A worker that has not come yet is not waited for.
define internal void @${P}_close(ptr %pool) nounwind {
entry:
  %gate = getelementptr i8, ptr %pool, i64 $GATE
  %before = atomicrmw and ptr %gate, i32 -2 acq_rel, align 4
  %alone = icmp eq i32 %before, 1
  br i1 %alone, label %done, label %linger
linger:
  %at_spins = getelementptr i8, ptr %pool, i64 $SPINS
  %spins = load i32, ptr %at_spins
  br label %check
check:
  %left = phi i32 [ %spins, %linger ], [ %less, %again ]
  %now = load atomic i32, ptr %gate acquire, align 4
  %empty = icmp eq i32 %now, 0
  br i1 %empty, label %done, label %busy
busy:
  %spent = icmp eq i32 %left, 0
  br i1 %spent, label %announce, label %again
again:
  call void @${P}_relax()
  %less = sub i32 %left, 1
  br label %check
announce:
  %unannounced = atomicrmw or ptr %gate, i32 2 acq_rel, align 4
  %announced = or i32 %unannounced, 2
  br label %sleep
sleep:
  %value = phi i32 [ %announced, %announce ], [ %value1, %wait ]
  %gone = icmp eq i32 %value, 2
  br i1 %gone, label %clear, label %wait
wait:
  call void @${P}_futex_wait(ptr %gate, i32 %value)
  %value1 = load atomic i32, ptr %gate acquire, align 4
  br label %sleep
clear:
  %cleared = atomicrmw and ptr %gate, i32 -3 acq_rel, align 4
  br label %done
done:
  ret void
}

define dso_local i32 @${P}_parallel_for(ptr %pool, ptr %body, ptr %closure, i64 %n) nounwind {
entry:
  %no_pool = icmp eq ptr %pool, null
  %few = icmp slt i64 %n, 2
  %serial = or i1 %no_pool, %few
  br i1 %serial, label %inline, label %sized
sized:
  %at_threads = getelementptr i8, ptr %pool, i64 $THREADS
  %threads = load i32, ptr %at_threads
  %single = icmp eq i32 %threads, 1
  br i1 %single, label %inline, label %owned
owned:
  %forked = call i1 @${P}_is_forked(ptr %pool)
  br i1 %forked, label %inline, label %try
try:
  %lock = getelementptr i8, ptr %pool, i64 $LOCK
  %taken = cmpxchg ptr %lock, i32 0, i32 1 acquire monotonic, align 4
  %mine = extractvalue { i32, i1 } %taken, 1
  br i1 %mine, label %publish, label %inline
publish:
  %at_body = getelementptr i8, ptr %pool, i64 $BODY
  %at_closure = getelementptr i8, ptr %pool, i64 $CLOSURE
  %at_n = getelementptr i8, ptr %pool, i64 $COUNT
  %at_control = getelementptr i8, ptr %pool, i64 $CONTROL
  %at_ranges = getelementptr i8, ptr %pool, i64 $RANGES
  %gate = getelementptr i8, ptr %pool, i64 $GATE
  %many = zext i32 %threads to i64
  %ranges = call i64 @llvm.smin.i64(i64 %many, i64 %n)
  store ptr %body, ptr %at_body
  store ptr %closure, ptr %at_closure
  store i64 %n, ptr %at_n
  store i64 %ranges, ptr %at_ranges
  call void @${P}_read_control(ptr %at_control)
  br label %split
split:
  %r = phi i64 [ 0, %publish ], [ %r1, %split ]
  %begin = call i64 @${P}_begin(i64 %r, i64 %n, i64 %ranges)
  %next = call ptr @${P}_at_next(ptr %pool, i64 %r)
  store atomic i64 %begin, ptr %next monotonic, align 8
  %r1 = add i64 %r, 1
  %unset = icmp ult i64 %r1, %ranges
  br i1 %unset, label %split, label %open
open:
  %opened = atomicrmw or ptr %gate, i32 1 release, align 4
  %others = sub i64 %n, 1
  call void @${P}_call_workers(ptr %pool, i64 %others)
  call void @${P}_drain(ptr %pool, ptr %body, ptr %closure, i64 %n, i64 %ranges, i64 0)
  call void @${P}_close(ptr %pool)
  store atomic i32 0, ptr %lock release, align 4
  ret i32 0
inline:
  call void @${P}_inline(ptr %body, ptr %closure, i64 %n)
  ret i32 0
}
"""

LIFETIME = """
define dso_local i32 @${P}_pool_threads(ptr %pool) nounwind {
  %at_threads = getelementptr i8, ptr %pool, i64 $THREADS
  %threads = load i32, ptr %at_threads
  ret i32 %threads
}

define dso_local ptr @${P}_pool_create(i32 %threads) nounwind {
entry:
  %valid = icmp sgt i32 %threads, 0
  br i1 %valid, label %allocate, label %refuse
allocate:
  %many = zext i32 %threads to i64
  %slots_bytes = mul i64 %many, $SLOT_BYTES
  %bytes = add i64 %slots_bytes, $SLOTS
  ; PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS: zeroed and aligned to a page
  %pool = call ptr @mmap(ptr null, i64 %bytes, i32 3, i32 34, i32 -1, i64 0)
  %address = ptrtoint ptr %pool to i64
  %failed = icmp eq i64 %address, -1
  br i1 %failed, label %refuse, label %fill
fill:
  %at_threads = getelementptr i8, ptr %pool, i64 $THREADS
  %at_pid = getelementptr i8, ptr %pool, i64 $PID
  %at_bytes = getelementptr i8, ptr %pool, i64 $BYTES
  %at_spins = getelementptr i8, ptr %pool, i64 $SPINS
  %at_started = getelementptr i8, ptr %pool, i64 $STARTED
  %pid = call i32 @getpid()
  store i32 %threads, ptr %at_threads
  store i32 %pid, ptr %at_pid
  store i64 %bytes, ptr %at_bytes
  %several = icmp ugt i32 %threads, 1
  br i1 %several, label %prepare, label %done
prepare:
  %spins = call i32 @${P}_calibrate(ptr %pool)
  store i32 %spins, ptr %at_spins
  %live = call ptr @${P}_map_live()
  %at_live = getelementptr i8, ptr %pool, i64 $LIVE
  store ptr %live, ptr %at_live
  br label %start
start:
  %i = phi i64 [ 1, %prepare ], [ %i1, %started ]
  %offset = mul i64 %i, $SLOT_BYTES
  %slots = getelementptr i8, ptr %pool, i64 $SLOTS
  %slot = getelementptr i8, ptr %slots, i64 %offset
  %at_number = getelementptr i8, ptr %slot, i64 8
  %at_handle = getelementptr i8, ptr %slot, i64 16
  store ptr %pool, ptr %slot
  store i64 %i, ptr %at_number
  %rc = call i32 @pthread_create(ptr %at_handle, ptr null, ptr @${P}_worker, ptr %slot)
  %refused = icmp ne i32 %rc, 0
  br i1 %refused, label %undo, label %started
started:
  %i32 = trunc i64 %i to i32
  store i32 %i32, ptr %at_started
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %many
  br i1 %more, label %start, label %done
undo:
  call void @${P}_pool_destroy(ptr %pool)
  br label %refuse
refuse:
  ret ptr null
done:
  ret ptr %pool
}

define dso_local void @${P}_pool_destroy(ptr %pool) nounwind {
entry:
  %none = icmp eq ptr %pool, null
  br i1 %none, label %done, label %read
read:
  %at_bytes = getelementptr i8, ptr %pool, i64 $BYTES
  %at_started = getelementptr i8, ptr %pool, i64 $STARTED
  %bytes = load i64, ptr %at_bytes
  %at_live = getelementptr i8, ptr %pool, i64 $LIVE
  %live = load ptr, ptr %at_live
  %forked = call i1 @${P}_is_forked(ptr %pool)
  br i1 %forked, label %release, label %stop
stop:
  %at_stop = getelementptr i8, ptr %pool, i64 $STOP
  store atomic i32 1, ptr %at_stop release, align 4
  call void @${P}_call_workers(ptr %pool, i64 2147483647)
  %started = load i32, ptr %at_started
  %many = zext i32 %started to i64
  br label %next
next:
  %i = phi i64 [ 1, %stop ], [ %i1, %join ]
  %more = icmp ule i64 %i, %many
  br i1 %more, label %join, label %release
join:
  %offset = mul i64 %i, $SLOT_BYTES
  %slots = getelementptr i8, ptr %pool, i64 $SLOTS
  %slot = getelementptr i8, ptr %slots, i64 %offset
  %at_handle = getelementptr i8, ptr %slot, i64 16
  %handle = load i64, ptr %at_handle
  %rc = call i32 @pthread_join(i64 %handle, ptr null)
  %i1 = add i64 %i, 1
  br label %next
release:
  %unmapped = call i32 @munmap(ptr %pool, i64 %bytes)
  %unmarked = icmp eq ptr %live, null
  br i1 %unmarked, label %done, label %unmark
unmark:
  %unmapped_live = call i32 @munmap(ptr %live, i64 1)
  br label %done
done:
  ret void
}
"""

TEXT = DECLARATIONS + WAITING + WORK + FORK + PARALLEL_FOR + LIFETIME
