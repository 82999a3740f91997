// Runs kernels: one CTA at a time, every thread a fiber, cooperatively. A round gives each thread that can run one turn; a turn
// lasts until the thread waits. Between rounds asynchronous operations land. Threads that never wait share one fiber: the
// fiber that ends a thread starts the next one with a plain call.
#include <cstdarg>
#include <cstdlib>
#include <numeric>

#include "fiber.h"
#include "machine.h"

namespace esft::emu {

ThreadIndex* running = nullptr;
uint3 block_index;
dim3 block_size, grid_size;
unsigned char* shared_block = nullptr;
Machine machine;

static Fiber host_fiber;
static Fiber* free_fibers = nullptr;

std::recursive_mutex& machine_mutex() {
  static auto& mutex = *new std::recursive_mutex;
  return mutex;
}

// ---- schedules ------------------------------------------------------------------------------------------------------------

static std::string schedule = "eager";
static uint64_t random_state = 0;
Mode mode = Mode::kEager;

uint32_t random_bits() {  // splitmix64
  uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return uint32_t((z ^ (z >> 31)) >> 32);
}

bool set_schedule(const char* text) {
  std::lock_guard<std::recursive_mutex> lock(machine_mutex());
  const std::string wanted = text;
  if (wanted == "eager") {
    mode = Mode::kEager;
  } else if (wanted == "late") {
    mode = Mode::kLate;
  } else if (wanted.rfind("random:", 0) == 0) {
    char* end = nullptr;
    random_state = strtoull(text + 7, &end, 10);
    if (end == text + 7 || *end != 0) return false;
    mode = Mode::kRandom;
  } else {
    return false;
  }
  schedule = wanted;
  return true;
}
const char* schedule_text() { return schedule.c_str(); }

static const bool schedule_from_environment = [] {
  const char* text = getenv("ESFT_EMU_SCHEDULE");
  if (text != nullptr && *text != 0 && !set_schedule(text)) {
    fprintf(stderr, "esft emulation: ESFT_EMU_SCHEDULE must be eager, late or random:SEED, received %s\n", text);
    exit(2);
  }
  return true;
}();

void fail(const char* format, ...) {
  char message[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  char where[512] = "";
  if (machine.kernel != nullptr) {
    const int n =
        snprintf(where, sizeof where, "kernel %.300s CTA (%u,%u,%u)", machine.kernel, block_index.x, block_index.y, block_index.z);
    if (running != nullptr) {
      snprintf(where + n, sizeof where - size_t(n), " thread %d", self()->linear);
    }
  }
  fprintf(stderr, "esft emulation: %s%s%s [schedule %s]\n", where, where[0] ? ": " : "", message, schedule.c_str());
  fflush(stderr);
  abort();
}

// ---- who runs next --------------------------------------------------------------------------------------------------------

[[noreturn]] static void report_deadlock() {
  std::string text;
  for (int w = 0; w * 32 < machine.threads; w++) {
    // Equal lanes of a warp in one line.
    std::string previous;
    int first = w * 32, count = 0;
    const auto flush = [&] {
      if (count == 0) return;
      text += "\n  warp " + std::to_string(w) + ", threads " + std::to_string(first) + ".." + std::to_string(first + count - 1) +
              ": " + previous;
    };
    for (int i = w * 32; i < machine.threads && i < w * 32 + 32; i++) {
      const Thread& t = machine.thread[i];
      std::string now;
      switch (t.state) {
        case State::kDone: now = "ended"; break;
        case State::kMbar: now = "wait for parity " + std::to_string(t.wait_parity) + " of " + mbar_text(t.wait_bar); break;
        case State::kWarp: now = std::string("wait for their warp at ") + machine.warps[w].operation->name; break;
        case State::kGroup:
          now = std::string("wait for their warpgroup at ") + machine.groups[i / 128].meeting.operation->name;
          break;
        case State::kBarrier: {
          const Barrier& b = machine.barriers[t.wait_id];
          now = (t.wait_id == 0 ? std::string("wait at __syncthreads") : "wait at named barrier " + std::to_string(t.wait_id)) +
                " (" + std::to_string(b.arrived) + " of " + std::to_string(b.expected) + " threads arrived)";
          break;
        }
        default: now = "can run";
      }
      if (now != previous) {
        flush();
        previous = now;
        first = i;
        count = 0;
      }
      count++;
    }
    flush();
  }
  running = nullptr;
  fail("deadlock, no thread can run and nothing is in flight:%s\n ", text.c_str());
}

static void begin_round() {
  machine.cursor = 0;
  machine.progress = false;
  if (mode != Mode::kRandom) return;
  machine.skipped_warps = random_bits() & random_bits();
  for (int i = machine.threads - 1; i > 0; i--) std::swap(machine.order[i], machine.order[random_bits() % uint32_t(i + 1)]);
}

static void end_round() {
  machine.round++;
  const bool landed = !machine.pending.empty() && land_pending(false);
  if (!machine.progress && !landed) {
    if (machine.skipped_warps != 0) {
      begin_round();
      machine.skipped_warps = 0;
      return;
    }
    if (machine.pending.empty() || !land_pending(true)) report_deadlock();
  }
  begin_round();
}

static inline bool can_run(Thread* t) {
  switch (t->state) {
    case State::kNew:
    case State::kReady: break;
    case State::kYield:
      machine.progress = true;
      if (t->yields > 0) {
        t->yields--;
        return false;
      }
      break;
    case State::kMbar:
      if (!mbar_done(t->wait_bar, t->wait_parity)) return false;
      break;
    default: return false;
  }
  return (machine.skipped_warps >> t->warp() & 1) == 0;
}

static Thread* pick() {
  for (;;) {
    while (machine.cursor < machine.threads) {
      Thread* t = &machine.thread[machine.order[machine.cursor++]];
      if (can_run(t)) {
        machine.progress = true;
        return t;
      }
    }
    end_round();
  }
}

static void run_threads(Fiber* own) {
  for (;;) {
    Thread* t = self();
    t->fiber = own;
    t->state = State::kReady;
    (*machine.body)();
    t->state = State::kDone;
    t->fiber = nullptr;
    Fiber* next = &host_fiber;
    if (--machine.live > 0) {
      Thread* following = pick();
      running = following;
      if (following->fiber == nullptr) continue;
      following->state = State::kReady;
      next = following->fiber;
    }
    own->next_free = free_fibers;
    free_fibers = own;
    switch_fiber(own, next);
  }
}

static void resume(Fiber* from, Thread* t) {
  running = t;
  if (t->fiber == nullptr) {
    Fiber* fiber = free_fibers;
    if (fiber != nullptr) {
      free_fibers = fiber->next_free;
    } else {
      fiber = make_fiber(run_threads);
    }
    t->fiber = fiber;
  }
  t->state = State::kReady;
  switch_fiber(from, t->fiber);
}

void block(State state) {
  Thread* me = self();
  me->state = state;
  Thread* next = pick();
  if (next == me) {
    me->state = State::kReady;
    return;
  }
  resume(me->fiber, next);
}

void yield(int rounds) {
  self()->yields = uint16_t(rounds);
  block(State::kYield);
}

// ---- CTAs -----------------------------------------------------------------------------------------------------------------

static void fill_canary(unsigned char* from, unsigned char* to) { memset(from, 0xA5, size_t(to - from)); }
static void check_canary(const unsigned char* from, const unsigned char* to, const char* where) {
  for (const unsigned char* p = from; p < to; p++) {
    if (*p != 0xA5) {
      running = nullptr;
      fail("shared memory written %s the block of %zu bytes, at offset %td", where, machine.shared_bytes, p - shared_block);
    }
  }
}

static void run_cta(uint3 index) {
  block_index = index;
  unsigned char* const region_end = shared_region_end();
  unsigned char* const margin = shared_block - (machine.shared_bytes > 0 ? 1024 : 0);
  if (machine.shared_bytes > 0) {
    fill_canary(margin, shared_block);
    memset(shared_block, 0xCD, machine.shared_bytes);
    fill_canary(machine.shared_end, region_end);
  }
  for (int i = 0; i < machine.threads; i++) {
    Thread& t = machine.thread[i];
    t.state = State::kNew;
    t.fenced = false;
    t.committed = 0;
  }
  wgmma_begin_cta();
  machine.live = machine.threads;
  machine.round = 0;
  machine.skipped_warps = 0;
  begin_round();
  resume(&host_fiber, pick());
  running = nullptr;
  async_end_cta();
  wgmma_end_cta();
  for (Barrier& b : machine.barriers) {
    if (b.arrived != 0) {
      fail("the CTA ended with %d of %d threads arrived at named barrier %td", b.arrived, b.expected, &b - machine.barriers);
    }
  }
  if (machine.shared_bytes > 0) {
    check_canary(margin, shared_block, "before");
    check_canary(machine.shared_end, region_end, "behind");
  }
}

// Called with the lock held, in stream order.
static void run_kernel(const std::string& name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  machine.kernel = name.c_str();
  install_fault_handler();
  if (machine.thread == nullptr) machine.thread = new Thread[1024]{};
  const uint64_t threads = uint64_t(block.x) * block.y * block.z, ctas = uint64_t(grid.x) * grid.y * grid.z;
  const int shared_limit = device_arch() == 90 ? 232448 : 166912;
  if (threads == 0 || threads > 1024) fail("launched with %llu threads per CTA, 1..1024 allowed", (unsigned long long)threads);
  if (ctas == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    fail("launched with grid (%u,%u,%u)", grid.x, grid.y, grid.z);
  if (shared_bytes > size_t(shared_limit)) {
    fail("launched with %zu bytes of shared memory, at most %d allowed", shared_bytes, shared_limit);
  }

  block_size = block;
  grid_size = grid;
  machine.body = &kernel;
  machine.threads = int(threads);
  machine.shared_bytes = shared_bytes;
  shared_block = shared_region_end() - (shared_bytes + 1023) / 1024 * 1024;
  machine.shared_end = shared_block + shared_bytes;
  machine.order.resize(threads);
  std::iota(machine.order.begin(), machine.order.end(), uint16_t(0));
  if (mode == Mode::kLate) std::reverse(machine.order.begin(), machine.order.end());
  for (int i = 0; i < machine.threads; i++) {
    Thread& t = machine.thread[i];
    const unsigned u = unsigned(i);
    t.index = uint3{u % block.x, u / block.x % block.y, u / (block.x * block.y)};
    t.linear = uint16_t(i);
  }
  for (int w = 0; w * 32 < machine.threads; w++) {
    machine.warps[w].arrived = 0;
    machine.warps[w].present = machine.threads - w * 32 >= 32 ? ~0u : (1u << (machine.threads - w * 32)) - 1;
  }

  DeviceMemoryOpen open;
  if (mode == Mode::kRandom && ctas <= 1 << 20) {
    std::vector<uint32_t> order(ctas);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size() - 1; i > 0; i--) std::swap(order[i], order[random_bits() % uint32_t(i + 1)]);
    for (uint32_t i : order) run_cta(uint3{i % grid.x, i / grid.x % grid.y, i / (grid.x * grid.y)});
  } else {
    for (unsigned z = 0; z < grid.z; z++) {
      for (unsigned y = 0; y < grid.y; y++) {
        for (unsigned x = 0; x < grid.x; x++) run_cta(uint3{x, y, z});
      }
    }
  }
  machine.kernel = nullptr;
}

void enqueue(cudaStream_t stream, std::function<void()> work);  // runtime.cc

void launch(cudaStream_t stream, const char* name, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  std::string text = name;
  if (text.size() > 2 && text.front() == '(' && text.back() == ')') text = text.substr(1, text.size() - 2);
  enqueue(stream, [=, kernel = std::move(kernel)] { run_kernel(text, grid, block, shared_bytes, kernel); });
}

}  // namespace esft::emu
