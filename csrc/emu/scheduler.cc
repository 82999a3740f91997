// Runs kernels: one CTA (or cluster) at a time, every thread a fiber, cooperatively. A round gives each thread that can run one turn; a turn
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
static bool by_hand = false;  // set_schedule was called
static uint64_t random_state = 0;
Mode mode = Mode::kEager;

uint32_t random_bits() {  // splitmix64
  uint64_t z = (random_state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return uint32_t((z ^ (z >> 31)) >> 32);
}

static bool apply_schedule(const std::string& wanted) {
  if (wanted == "eager") {
    mode = Mode::kEager;
  } else if (wanted == "late") {
    mode = Mode::kLate;
  } else if (wanted.rfind("random:", 0) == 0) {
    char* end = nullptr;
    const char* const seed = wanted.c_str() + 7;
    const uint64_t state = strtoull(seed, &end, 10);
    if (end == seed || *end != 0) return false;
    random_state = state;
    mode = Mode::kRandom;
  } else {
    return false;
  }
  schedule = wanted;
  return true;
}
const char* schedule_text() { return schedule.c_str(); }

bool set_schedule(const char* text) {
  std::lock_guard<std::recursive_mutex> lock(machine_mutex());
  by_hand = true;
  return apply_schedule(text);
}
void use_schedule(const std::string& wanted) {
  if (by_hand || wanted == schedule) return;
  run_all();  // what was submitted under the other one
  if (!apply_schedule(wanted)) {
    fprintf(stderr, "esft emulation: ESFT_EMU_SCHEDULE must be eager, late or random:SEED, received %s\n", wanted.c_str());
    exit(2);
  }
}

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

void use_cta(int cta) {
  if (machine.cluster == 1 && cta == machine.cta) return;
  machine.cta = cta;
  block_index = machine.cta_index[cta];
  if (machine.shared_bytes == 0) return;
  shared_block = shared_region_end(cta) - (machine.shared_bytes + 1023) / 1024 * 1024;
  machine.shared_end = shared_block + machine.shared_bytes;
}
static void enter(Thread* t) {
  running = t;
  if (machine.cluster > 1) use_cta(t->cta());
}

// ---- who runs next --------------------------------------------------------------------------------------------------------

[[noreturn]] static void report_deadlock() {
  std::string text;
  for (int w = 0; w < 32 * machine.cluster; w++) {
    if (w % 32 * 32 >= machine.threads) continue;
    use_cta(w / 32);
    // Equal lanes of a warp in one line.
    std::string previous;
    int first = w % 32 * 32, count = 0;
    const auto flush = [&] {
      if (count == 0) return;
      text += (machine.cluster > 1 ? "\n  CTA rank " + std::to_string(w / 32) + " warp " : "\n  warp ") + std::to_string(w % 32) +
              ", threads " + std::to_string(first) + ".." + std::to_string(first + count - 1) + ": " + previous;
    };
    for (int i = w % 32 * 32; i < machine.threads && i < w % 32 * 32 + 32; i++) {
      const Thread& t = machine.thread[w / 32 * 1024 + i];
      std::string now;
      switch (t.state) {
        case State::kDone: now = "ended"; break;
        case State::kMbar: now = "wait for parity " + std::to_string(t.wait_parity) + " of " + mbar_text(t.wait_bar); break;
        case State::kTurn:
          now = "wait for turn " + std::to_string(t.wait_turn) + " to be " + std::to_string(t.wait_value) + " (it is " +
                std::to_string(t.wait_turns[t.wait_turn]) + ")";
          break;
        case State::kWarp: now = std::string("wait for their warp at ") + machine.warps[w].operation->name; break;
        case State::kGroup:
          now = std::string("wait for their warpgroup at ") + machine.groups[t.group()].meeting.operation->name;
          break;
        case State::kBarrier: {
          const Barrier& b = machine.barriers[t.cta()][t.wait_id];
          now = (t.wait_id == 0 ? std::string("wait at __syncthreads") : "wait at named barrier " + std::to_string(t.wait_id)) +
                " (" + std::to_string(b.arrived) + " of " + std::to_string(b.expected) + " threads arrived)";
          break;
        }
        case State::kCluster: now = "wait for their cluster"; break;
        case State::kDependency: now = "wait for the kernels before"; break;
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

bool loses_anything() {
  static const bool any = getenv("ESFT_EMU_LOSE") != nullptr;
  return any;
}
bool loses(const char* what) {
  if (!loses_anything()) return false;
  static std::string kind = getenv("ESFT_EMU_LOSE");
  static int left = [] {
    const size_t colon = kind.find(':');
    const int n = colon == std::string::npos ? 0 : atoi(kind.c_str() + colon + 1);
    kind.resize(std::min(colon, kind.size()));
    if (n < 1 || (kind != "copy" && kind != "arrival" && kind != "barrier" && kind != "turn")) {
      fprintf(stderr, "esft emulation: ESFT_EMU_LOSE must be copy:N, arrival:N, barrier:N or turn:N, received %s\n",
              getenv("ESFT_EMU_LOSE"));
      exit(2);
    }
    return n;
  }();
  return kind == what && --left == 0;
}

// Ends the kernel as a trap does, its fibers as they stand. Returns only when no thread waits where a GPU would say so.
static void end_by_hang() {
  const Thread* longest = nullptr;
  for (int slot = 0; slot < 1024 * machine.cluster; slot++) {
    const Thread& t = machine.thread[slot];
    const bool waits = t.state == State::kMbar || t.state == State::kTurn || (t.state == State::kBarrier && t.wait_id != 0);
    if (slot % 1024 >= machine.threads || !waits) continue;
    // Of the same round the last warpgroup: the first one loads, and on a GPU would come to its wait later.
    const bool longer =
        !longest || t.wait_round < longest->wait_round || (t.wait_round == longest->wait_round && t.group() > longest->group());
    if (longer) longest = &t;
  }
  if (!longest) return;
  const Thread& t = *longest;
  const bool named = t.state == State::kBarrier;
  use_cta(t.cta());
  const int64_t cta = block_index.x + int64_t(grid_size.x) * (block_index.y + int64_t(grid_size.y) * block_index.z);
  if (t.state == State::kTurn)
    (*machine.hung)({t.wait_op, t.wait_site, cta, t.linear, t.wait_turn, t.wait_value});
  else
    (*machine.hung)(
        {t.wait_op, t.wait_site, cta, t.linear, named ? t.wait_id : int64_t(shared_offset(t.wait_bar)), named ? 0 : t.wait_parity});
  machine.trapped = true;
  Fiber nobody;
  switch_fiber(&nobody, &host_fiber);
}

static void begin_round() {
  machine.cursor = 0;
  machine.progress = false;
  if (mode != Mode::kRandom) return;
  machine.skipped_warps = random_bits() & random_bits();
  for (size_t i = machine.order.size() - 1; i > 0; i--) std::swap(machine.order[i], machine.order[random_bits() % uint32_t(i + 1)]);
}

static bool end_dependency();

static void end_round() {
  machine.round++;
  const bool landed = !machine.pending.empty() && land_pending(false);
  if (!machine.progress && !landed) {
    if (machine.skipped_warps != 0) {
      begin_round();
      machine.skipped_warps = 0;
      return;
    }
    if (end_dependency()) return begin_round();
    if (machine.pending.empty() || !land_pending(true)) {
      if (loses_anything() && machine.hung != nullptr && *machine.hung) end_by_hang();
      report_deadlock();
    }
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
      if (machine.cluster > 1) use_cta(t->cta());
      if (!mbar_done(t->wait_bar, t->wait_parity)) return false;
      break;
    case State::kTurn:
      if (!turn_has_come(*t)) return false;
      break;
    default: return false;
  }
  return (machine.skipped_warps >> t->warp() % 32 & 1) == 0;
}

static Thread* pick() {
  for (;;) {
    while (size_t(machine.cursor) < machine.order.size()) {
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
    if (t->dependent) fail("the thread ended without its wait for the kernels before this one (EarlyStart)");
    t->state = State::kDone;
    t->fiber = nullptr;
    Fiber* next = &host_fiber;
    if (--machine.live > 0) {
      Thread* following = pick();
      enter(following);
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
  enter(t);
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
    enter(me);
    me->state = State::kReady;
    return;
  }
  resume(me->fiber, next);
}

void dependency_wait() {
  self()->dependent = false;
  if (machine.hidden) block(State::kDependency);
}

// Nothing else can happen: the kernels before this one end now.
static bool end_dependency() {
  if (!machine.hidden) return false;
  hide_device_memory(machine.hidden = false);
  bool any = false;
  for (uint16_t slot : machine.order) {
    if (machine.thread[slot].state != State::kDependency) continue;
    machine.thread[slot].state = State::kReady;
    any = true;
  }
  return any;
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

// After a trap: nobody waits for anything. The stacks of the kernel's threads stay as they are.
static void abandon() {
  async_abandon();
  bulk_abandon();
  wgmma_abandon();
  for (auto& of_cta : machine.barriers)
    for (Barrier& b : of_cta) b = Barrier{};
  machine.cluster_barrier = Barrier{};
  for (int i = 0; i < 1024 * kBeside; i++) machine.thread[i].fiber = nullptr;
}

// The `count` CTAs from `index` on that run together: one, a cluster of neighbours, or some that take turns.
static void run_ctas(uint3 index, int count) {
  machine.cluster = count;
  const size_t slack = machine.shared_bytes > 0 ? 1024 : 0;
  for (int c = 0; c < machine.cluster; c++) {
    machine.cta_index[c] = uint3{index.x + unsigned(c), index.y, index.z};
    machine.cta = -1;
    use_cta(c);
    if (machine.shared_bytes > 0) {
      fill_canary(shared_block - slack, shared_block);
      memset(shared_block, 0xCD, machine.shared_bytes);
      fill_canary(machine.shared_end, shared_region_end(c));
    }
    for (int i = 0; i < machine.threads; i++) {
      Thread& t = machine.thread[1024 * c + i];
      t.state = State::kNew;
      t.fenced = false;
      t.dependent = machine.early;
      t.committed = 0;
    }
  }
  for (const uint16_t slot : machine.order)
    if (slot >= 1024 * count) machine.thread[slot].state = State::kDone;
  wgmma_begin_cta();
  machine.live = machine.threads * machine.cluster;
  machine.round = 0;
  machine.skipped_warps = 0;
  begin_round();
  if (machine.hidden) hide_device_memory(true);
  resume(&host_fiber, pick());
  running = nullptr;
  if (machine.trapped) return abandon();
  async_end_cta();
  bulk_end_cta();
  wgmma_end_cta();
  for (int c = 0; c < machine.cluster; c++) {
    machine.cta = -1;
    use_cta(c);
    for (Barrier& b : machine.barriers[c]) {
      if (b.arrived != 0) {
        fail("the CTA ended with %d of %d threads arrived at named barrier %td", b.arrived, b.expected, &b - machine.barriers[c]);
      }
    }
    if (machine.shared_bytes > 0) {
      check_canary(shared_block - slack, shared_block, "before");
      check_canary(machine.shared_end, shared_region_end(c), "behind");
    }
  }
}

// Called with the lock held, in stream order.
static void run_kernel(const std::string& name, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel,
                       int cluster, const std::function<void(const Hang&)>& hung, bool early) {
  if (machine.trapped) return;
  machine.hung = &hung;
  machine.kernel = name.c_str();
  install_fault_handler();
  if (machine.thread == nullptr) machine.thread = new Thread[1024 * kBeside]{};
  const uint64_t threads = uint64_t(block.x) * block.y * block.z, ctas = uint64_t(grid.x) * grid.y * grid.z;
  const int shared_limit = device_arch() >= 90 ? 232448 : 166912;
  if (threads == 0 || threads > 1024) fail("launched with %llu threads per CTA, 1..1024 allowed", (unsigned long long)threads);
  if (ctas == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    fail("launched with grid (%u,%u,%u)", grid.x, grid.y, grid.z);
  if (shared_bytes > size_t(shared_limit)) {
    fail("launched with %zu bytes of shared memory, at most %d allowed", shared_bytes, shared_limit);
  }

  const bool turns = cluster == 0;
  if (turns) cluster = 1;
  if (cluster < 1 || cluster > kMaxCluster || grid.x % unsigned(cluster) != 0)
    fail("launched in clusters of %d with grid.x = %u; clusters of up to %d that divide it are emulated", cluster, grid.x,
         kMaxCluster);

  // Grids of clusters are persistent: what does not run at once begins when all the others are done.
  if (cluster > 1 && ctas / unsigned(cluster) > uint64_t(active_clusters()))
    fail("launched with %llu clusters, %d of them run at the same time: the last would begin late",
         (unsigned long long)(ctas / unsigned(cluster)), active_clusters());

  block_size = block;
  grid_size = grid;
  machine.body = &kernel;
  machine.threads = int(threads);
  const int together = turns ? kBeside : cluster;
  machine.cluster = together;
  machine.early = early;
  // The CTAs that run first stand for all: without device memory until they have waited. In eager order only the waits are counted.
  machine.hidden = early && (mode == Mode::kLate || (mode == Mode::kRandom && chance(25)));
  machine.shared_bytes = shared_bytes;
  machine.order.clear();
  for (int slot = 0; slot < 1024 * together; slot++) {
    const unsigned i = unsigned(slot) % 1024, warp = unsigned(slot) / 32;
    if (i % 32 == 0) {
      machine.warps[warp].arrived = 0;
      machine.warps[warp].present = i >= threads ? 0 : threads - i >= 32 ? ~0u : (1u << (threads - i)) - 1;
    }
    if (i >= threads) continue;
    Thread& t = machine.thread[slot];
    t.index = uint3{i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    t.linear = uint16_t(i);
    t.slot = uint16_t(slot);
    machine.order.push_back(uint16_t(slot));
  }
  if (mode == Mode::kLate) std::reverse(machine.order.begin(), machine.order.end());

  DeviceMemoryOpen open;
  // CTAs side by side are of one row of the grid, the last of them perhaps fewer.
  const unsigned columns = (grid.x + unsigned(together) - 1) / unsigned(together);
  const uint64_t clusters = uint64_t(columns) * grid.y * grid.z;
  const auto run = [&](uint64_t i) {
    if (machine.trapped) return;
    const unsigned x = unsigned(i % columns) * unsigned(together);
    run_ctas(uint3{x, unsigned(i / columns % grid.y), unsigned(i / columns / grid.y)},
             int(std::min(unsigned(together), grid.x - x)));
  };
  if (mode == Mode::kRandom && clusters <= 1 << 20) {
    std::vector<uint32_t> order(clusters);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size() - 1; i > 0; i--) std::swap(order[i], order[random_bits() % uint32_t(i + 1)]);
    for (uint32_t i : order) run(i);
  } else {
    for (uint64_t i = 0; i < clusters; i++) run(i);
  }
  machine.kernel = nullptr;
}

void launch(cudaStream_t stream, const char* name, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel,
            int cluster, std::function<void(const Hang&)> hung, bool early) {
  std::string text = name;
  if (text.size() > 2 && text.front() == '(' && text.back() == ')') text = text.substr(1, text.size() - 2);
  enqueue(stream, [=, kernel = std::move(kernel), hung = std::move(hung)] {
    run_kernel(text, grid, block, shared_bytes, kernel, cluster, hung, early);
  });
}

}  // namespace esft::emu
