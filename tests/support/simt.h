// CUDA's words for g++, so that a kernel's own text runs on one CPU thread: see tests/simt.py.
//
// Blocks run one after the other and a block's threads one at a time, both in a scrambled order. A thread runs until it
// meets a barrier or a warp function, waits there for the others, and goes on: so each has a stack of its own. One that ends
// without having waited leaves it to the next thread.
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#ifdef SIMT_FLUSH
#include <immintrin.h>
#endif

#include <algorithm>

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
template <class T> T __ldg(const T* p) { return *p; }
using std::max;
using std::min;

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static char simt_shared_begin __attribute__((section("simt_shared"), used));
extern "C" char __start_simt_shared[], __stop_simt_shared[];

namespace simt {

const int MAX_THREADS = 1024, LANES = 32;
const int STACK = (1 << 16) + 17 * 64;  // bytes; no power of 2, or all stacks would share a set of cache lines
const int ARRAYS = 64, GUARD = 1 << 16;  // bytes on either side of an array that must not be touched

// What a launch reports

struct Region { char *begin, *map; size_t bytes, mapped; };  // an array; the pages that hold it and its guards
static Region regions[ARRAYS];
static int region_count;
static char* message;
static jmp_buf escape;

[[noreturn]] static void fail(const char* format, ...) {
    va_list values;
    va_start(values, format);
    int n = snprintf(message, 512, "block (%u, %u, %u), thread (%u, %u, %u): ", blockIdx.x, blockIdx.y, blockIdx.z,
                     threadIdx.x, threadIdx.y, threadIdx.z);
    vsnprintf(message + n, 512 - n, format, values);
    va_end(values);
    _longjmp(escape, 1);
}

static void on_signal(int number, siginfo_t* info, void*) {
    char* at = (char*)info->si_addr;
    for (int i = 0; i < region_count && number != SIGFPE; i++) {
        Region r = regions[i];
        if (at < r.map || at >= r.map + r.mapped) continue;
        long past = at - (r.begin + r.bytes);
        if (past >= 0) fail("array %d is read or written %ld bytes past its end", i, past);
        fail("array %d is read or written %ld bytes before its start", i, (long)(r.begin - at));
    }
    fail(number == SIGFPE ? "division by zero" : "memory that is no argument's is read or written");
}

// A stack of one's own

#ifdef __x86_64__
struct Context { void* stack; };
extern "C" void simt_swap(Context* from, const Context* to);
asm("simt_swap:\n"  // what a function must leave as it was goes to one stack, and comes from the other
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n mov (%rsi), %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n pop %rcx\n jmp *%rcx\n");

static void prepare(Context* c, char* stack, size_t bytes, void (*function)()) {
    void** top = (void**)((uintptr_t)(stack + bytes) / 16 * 16);
    top[-2] = (void*)function;  // where a swap to it goes, the stack aligned as after a call
    c->stack = top - 8;
}
#else  // slower
typedef ucontext_t Context;
static void simt_swap(Context* from, const Context* to) { swapcontext(from, to); }

static void prepare(Context* c, char* stack, size_t bytes, void (*function)()) {
    getcontext(c);
    c->uc_stack.ss_sp = stack;
    c->uc_stack.ss_size = bytes;
    makecontext(c, function, 0);
}
#endif

// Threads

struct Thread {
    uint3 index;
    int stack;
    bool ended;
    const unsigned* waits;  // until this count is no longer `seen`
    unsigned seen;
    int line;
};
struct Meeting { unsigned count, mask; int arrived, line; uint64_t values[2][LANES]; };  // of lanes, or of a block

static Thread threads[MAX_THREADS];
static Context contexts[MAX_THREADS], scheduler;  // of the stacks
static int idle[MAX_THREADS];
static char* stacks;
static int idle_count, stack_count, current, ended, size;
static int warp_now, lanes_begun, stack_now;  // of what runs
static int warp_at[MAX_THREADS / LANES], lane_at[LANES];  // the order in which they run
static unsigned scramble;
static Meeting barrier, warps[MAX_THREADS / LANES][LANES][6];  // by the mask's first lane and ⌊log₂⌋ of its lanes
static void (*kernel)(void**);
static void** arguments;

static unsigned random_below(unsigned n) {
    scramble = scramble * 1664525u + 1013904223u;
    return (unsigned)(((uint64_t)scramble * n) >> 32);
}

// i ↦ a place of its own in 0 … n−1
struct Order {
    unsigned n, stride, first;
    explicit Order(unsigned n) : n(n), stride(1), first(random_below(n)) {
        for (unsigned s = n < 4 ? 1 : 2 + random_below(n - 3); stride == 1 && n >= 4; s = s % (n - 1) + 1)
            if (std::__gcd(s, n) == 1) { stride = s; break; }
    }
    unsigned operator()(unsigned i) const { return (unsigned)((first + (uint64_t)i * stride) % n); }
};
static void scrambled(int* order, int n) {
    Order place(n);
    for (int i = 0; i < n; i++) order[i] = place(i);
}

static void leave() {  // comes back when this thread is resumed
    simt_swap(&contexts[threads[current].stack], &scheduler);
}

static void select(int t) {
    current = t;
    threadIdx = threads[t].index;
}

static void run_threads() {  // what a stack is for: lanes that have not begun, as long as none of them waits
    for (int self = stack_now;;) {
        while (lanes_begun < LANES) {
            int t = warp_now * LANES + lane_at[lanes_begun++];
            if (t >= size) continue;
            threads[t].stack = self;
            select(t);
            kernel(arguments);
            threads[t].ended = true;
            ended++;
        }
        idle[idle_count++] = self;
        simt_swap(&contexts[self], &scheduler);
    }
}

static int free_stack() {
    if (idle_count) return idle[--idle_count];
    prepare(&contexts[stack_count], stacks + (size_t)stack_count * STACK, STACK, run_threads);
    return stack_count++;
}

static void wait_for(const unsigned* count, unsigned seen, int line) {
    Thread& t = threads[current];
    t.waits = count, t.seen = seen, t.line = line;
    leave();
}

// One more has come to a meeting of `expected`; all go on when all have come.
static void meet(Meeting& m, int expected, int line) {
    if (m.arrived && m.line != line) fail("is at line %d, while others wait for it at line %d", line, m.line);
    m.line = line;
    unsigned seen = m.count;
    if (++m.arrived < expected) return wait_for(&m.count, seen, line);
    m.arrived = 0;
    m.count++;
}

static void syncthreads(int line) { meet(barrier, size, line); }

// Every lane of `mask` gives a value; returns all of them, by lane.
static const uint64_t* collect(unsigned mask, uint64_t value, int line) {
    int lane = current % LANES;
    if (!(mask >> lane & 1)) fail("line %d: mask %08x leaves out lane %d, which calls with it", line, mask, lane);
    int lanes = __builtin_popcount(mask);
    Meeting& m = warps[current / LANES][__builtin_ctz(mask)][31 - __builtin_clz(lanes)];
    if (m.arrived && m.mask != mask) fail("line %d: mask %08x, while others gave %08x", line, mask, m.mask);
    m.mask = mask;
    uint64_t* values = m.values[m.count & 1];  // two, since a fast lane may be one meeting ahead
    values[lane] = value;
    meet(m, lanes, line);
    return values;
}

template <class T> T shuffle(unsigned mask, T value, int source, int line) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    const uint64_t* values = collect(mask, bits, line);
    if (!(mask >> source & 1)) fail("line %d: reads lane %d, which mask %08x leaves out", line, source, mask);
    memcpy(&value, &values[source], sizeof value);
    return value;
}

static int lane() { return current % LANES; }
static int inside(int source, int width) {  // a lane out of the segment: one's own
    return source / width == lane() / width && source >= 0 ? source : lane();
}

static unsigned ballot(unsigned mask, bool predicate, int line) {
    const uint64_t* values = collect(mask, predicate, line);
    unsigned out = 0;
    for (int i = 0; i < LANES; i++)
        if (mask >> i & 1 && values[i]) out |= 1u << i;
    return out;
}

static void resume(int stack) {
    stack_now = stack;
    simt_swap(&scheduler, &contexts[stack]);
}

static void begin_warp(int warp) {
    for (warp_now = warp, lanes_begun = 0; lanes_begun < LANES;) resume(free_stack());
}

// Has every lane of a warp run until none can go on. Whether any could.
static bool run_warp(int warp) {
    bool any = false, again = true;
    while (again) {
        again = false;
        for (int i = 0; i < LANES; i++) {
            int t = warp * LANES + lane_at[i];
            if (t >= size || threads[t].ended || *threads[t].waits == threads[t].seen) continue;
            select(t);
            resume(threads[t].stack);
            any = again = true;
        }
    }
    return any;
}

static void run_block() {
    memset(__start_simt_shared, 0xff, __stop_simt_shared - __start_simt_shared);  // NaN
    for (int t = 0; t < size; t++) {
        unsigned x = t % blockDim.x, y = t / blockDim.x % blockDim.y, z = t / blockDim.x / blockDim.y;
        threads[t] = {{x, y, z}, 0, false, nullptr, 0, 0};
    }
    int count = (size + LANES - 1) / LANES;
    scrambled(warp_at, count);
    scrambled(lane_at, LANES);
    ended = 0;
    for (int i = 0; i < count; i++) begin_warp(warp_at[i]);
    while (ended < size) {
        bool progress = false;
        for (int i = 0; i < count; i++) progress |= run_warp(warp_at[i]);
        if (progress) continue;
        int t = 0;
        while (threads[t].ended) t++;
        select(t);
        fail("waits at line %d for threads that never come; %d of %d have ended", threads[t].line, ended, size);
    }
}

}  // namespace simt

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("simt_shared")))
#define __syncthreads() simt::syncthreads(__LINE__)
#define __syncwarp(...) simt::ballot(simt::first(__VA_ARGS__), true, __LINE__)
#define __shfl_sync(mask, v, source, ...) \
    simt::shuffle(mask, v, simt::lane() / simt::width(__VA_ARGS__) * simt::width(__VA_ARGS__) + \
                           (source) % simt::width(__VA_ARGS__), __LINE__)
#define __shfl_xor_sync(mask, v, bits, ...) \
    simt::shuffle(mask, v, simt::inside(simt::lane() ^ (bits), simt::width(__VA_ARGS__)), __LINE__)
#define __shfl_down_sync(mask, v, by, ...) \
    simt::shuffle(mask, v, simt::inside(simt::lane() + (by), simt::width(__VA_ARGS__)), __LINE__)
#define __shfl_up_sync(mask, v, by, ...) \
    simt::shuffle(mask, v, simt::inside(simt::lane() - (by), simt::width(__VA_ARGS__)), __LINE__)
#define __ballot_sync(mask, predicate) simt::ballot(mask, predicate, __LINE__)
#define __any_sync(mask, predicate) (simt::ballot(mask, predicate, __LINE__) != 0)
#define __all_sync(mask, predicate) (simt::ballot(mask, predicate, __LINE__) == (mask))
namespace simt {
inline int width(int w = LANES) { return w; }
inline unsigned first(unsigned mask = 0xffffffffu) { return mask; }
}

// g++ calls this for an index beyond an array of known size: -fsanitize=bounds
extern "C" void __ubsan_handle_out_of_bounds(void* where, void* index) {
    struct { const char* file; unsigned line, column; }* at = (decltype(at))where;
    simt::fail("line %u: index %ld is outside of its array", at->line, (long)index);
}

// Runs a kernel on copies of its arrays, each between guards, and copies back those that are not const.
extern "C" int simt_launch(void (*call)(void**), const unsigned* grid, const unsigned* block, int count, void** values,
                           const size_t* bytes, const int* writable, char* error) {
    using namespace simt;
    static struct sigaction action, before[3];
    const int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
    void* passed[ARRAYS];
    char* held[ARRAYS];
    message = error, kernel = call, arguments = passed, region_count = count;
    idle_count = stack_count = 0, scramble = 1;
    if (!stacks)
        stacks = (char*)mmap(nullptr, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; i < count; i++) {
        passed[i] = values[i];
        if (!bytes[i]) { regions[i] = {}; continue; }  // a number
        int same = 0;
        while (same < i && !(values[same] == values[i] && bytes[same] == bytes[i])) same++;
        if (same < i) {
            held[i] = held[same], passed[i] = &held[i], regions[i] = {};
            continue;
        }
        size_t inner = (bytes[i] + 4095) / 4096 * 4096;
        char* map = (char*)mmap(nullptr, inner + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(map + GUARD, inner, PROT_READ | PROT_WRITE);
        held[i] = map + GUARD + inner - bytes[i];  // ends where the guard begins
        memset(map + GUARD, 0xff, inner - bytes[i]);
        memcpy(held[i], values[i], bytes[i]);
        passed[i] = &held[i];
        regions[i] = {held[i], map, bytes[i], inner + 2 * GUARD};
    }
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &before[i]);
    volatile int failed = 1;
#ifdef SIMT_FLUSH  // denormals become 0, as with CuPy's -ftz=true
    unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | 0x8040);
#endif
    if (!_setjmp(escape)) {
        gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
        size = block[0] * block[1] * block[2];
        Order blocks(grid[0] * grid[1] * grid[2]);
        for (unsigned i = 0; i < blocks.n; i++) {
            unsigned b = blocks(i);
            blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
            run_block();
        }
        failed = 0;
    }
#ifdef SIMT_FLUSH
    _mm_setcsr(rounding);
#endif
    for (int i = 0; i < 3; i++) sigaction(signals[i], &before[i], nullptr);
    if (failed) {  // else nobody is left at a meeting
        memset(&barrier, 0, sizeof barrier);
        memset(warps, 0, sizeof warps);
    }
    for (int i = 0; i < count; i++) {
        Region r = regions[i];
        if (!r.map) continue;
        for (char* p = r.map + GUARD; p < r.begin && !failed; p++)
            if (*p != (char)0xff) {
                snprintf(error, 512, "array %d is written %ld bytes before its start", i, (long)(r.begin - p));
                failed = 1;
            }
        if (!failed && writable[i]) memcpy(values[i], r.begin, r.bytes);
        munmap(r.map, r.mapped);
    }
    return failed;
}
