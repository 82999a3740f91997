// Device memory, the shared block and stacks between guard pages, and what is said when one of them is hit. An allocation ends
// (rounded up to 16 bytes) where its guard page begins; freed addresses stay inaccessible. Under the schedule late, whose work runs
// in batches, device memory is inaccessible in between: host code that touches it faults as it would with a GPU.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <map>

#include "fiber.h"
#include "machine.h"

namespace esft::emu {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSharedGuard = 1 << 20;
constexpr size_t kStackGuard = 16 * kPage;
constexpr unsigned char kFresh = 0xFF;  // new memory: NaN in f32 and bf16, -1 in integers
constexpr unsigned char kSlack = 0xA5;
constexpr size_t kQuarantine = 4096;  // freed ranges kept inaccessible

struct Allocation {
  size_t bytes;
  unsigned char* region;  // with its guard pages
  size_t region_bytes;
  bool freed;
};
using Allocations = std::map<uintptr_t, Allocation>;
Allocations& allocations() {
  static auto& all = *new Allocations;
  return all;
}
std::map<uintptr_t, size_t>& pinned() {
  static auto& all = *new std::map<uintptr_t, size_t>;
  return all;
}
std::deque<uintptr_t>& quarantine() {
  static auto& all = *new std::deque<uintptr_t>;
  return all;
}
std::vector<unsigned char*>& stacks() {
  static auto& all = *new std::vector<unsigned char*>;
  return all;
}
size_t in_use = 0;
unsigned char* shared_region[kBeside] = {};
const Allocation* last_found = nullptr;  // the allocation that the last check was about
uintptr_t last_found_at = 0;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

void* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

int open_depth = 0;
bool closed = false;

void set_access(bool open) {
  for (const auto& a : allocations()) {
    if (a.second.freed) continue;
    if (mprotect(a.second.region + kPage, a.second.region_bytes - 2 * kPage, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
      fail("no access to device memory");
    }
  }
  closed = !open;
}

}  // namespace

DeviceMemoryOpen::DeviceMemoryOpen() {
  if (open_depth++ == 0 && closed) set_access(true);
}
DeviceMemoryOpen::~DeviceMemoryOpen() {
  if (--open_depth == 0 && mode == Mode::kLate) set_access(false);
}

void hide_device_memory(bool hidden) { set_access(!hidden); }

unsigned char* shared_region_end(int cta) {
  unsigned char*& region = shared_region[cta];
  if (region == nullptr) {
    auto* p = static_cast<unsigned char*>(reserve(kSharedRegion + 2 * kSharedGuard));
    if (p == nullptr || mprotect(p + kSharedGuard, kSharedRegion, PROT_READ | PROT_WRITE) != 0)
      fail("no memory for the shared block");
    region = p + kSharedGuard;
  }
  return region + kSharedRegion;
}

void* map_stack(size_t bytes) {
  auto* p = static_cast<unsigned char*>(reserve(bytes + kStackGuard));
  if (p == nullptr || mprotect(p + kStackGuard, bytes, PROT_READ | PROT_WRITE) != 0) fail("no memory for the threads' stacks");
  stacks().push_back(p);
  return p + kStackGuard + bytes;
}

static const Allocation* find(const void* p, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  if (last_found == nullptr || at < last_found_at || at + bytes > last_found_at + last_found->bytes) {
    auto it = allocations().upper_bound(at);
    if (it == allocations().begin()) return nullptr;
    --it;
    if (it->second.freed || at + bytes > it->first + it->second.bytes) return nullptr;
    last_found = &it->second;
    last_found_at = it->first;
  }
  return last_found;
}
bool device_range(const void* p, size_t bytes) { return find(p, bytes) != nullptr; }
bool pinned_range(const void* p, size_t bytes) {
  const auto at = reinterpret_cast<uintptr_t>(p);
  auto it = pinned().upper_bound(at);
  if (it == pinned().begin()) return false;
  --it;
  return at + bytes <= it->first + it->second;
}

// "17 bytes behind the allocation of 4096 bytes at 0x…"
static std::string place(uintptr_t at) {
  const auto describe = [](const Allocations::value_type& a) {
    char text[128];
    snprintf(text, sizeof text, "the %sallocation of %zu bytes at 0x%zx", a.second.freed ? "freed " : "", a.second.bytes, a.first);
    return std::string(text);
  };
  auto next = allocations().upper_bound(at);
  std::string best = "an address that is no device memory";
  uintptr_t distance = uintptr_t(1) << 30;
  if (next != allocations().begin()) {
    const auto& a = *std::prev(next);
    const uintptr_t end = a.first + a.second.bytes;
    if (at < end) return std::to_string(at - a.first) + " bytes into " + describe(a);
    if (at - end < distance) {
      distance = at - end;
      best = std::to_string(at - end) + " bytes behind " + describe(a);
    }
  }
  if (next != allocations().end() && next->first - at < distance)
    best = std::to_string(next->first - at) + " bytes before " + describe(*next);
  return best;
}

void check_device(const void* p, size_t bytes, const char* what) {
  if (find(p, bytes) == nullptr) {
    const auto at = reinterpret_cast<uintptr_t>(p);
    // The first byte that is outside.
    const bool starts_inside = find(p, 1) != nullptr;
    fail("%s: %zu bytes at %p are not inside one allocation, the access is %s", what, bytes, p,
         starts_inside ? place(last_found_at + last_found->bytes).c_str() : place(at).c_str());
  }
}

// ---- allocations ----------------------------------------------------------------------------------------------------------

size_t device_bytes() {
  static const size_t bytes = [] {
    const char* text = getenv("ESFT_EMU_MEMORY");
    return text != nullptr ? size_t(strtoull(text, nullptr, 10)) : size_t(64) << 30;
  }();
  return bytes;
}
size_t device_bytes_in_use() { return in_use; }

void* take_device(size_t bytes) {
  if (bytes > device_bytes() || in_use + bytes > device_bytes()) return nullptr;
  install_fault_handler();
  const size_t body = round_up(bytes, 16), pages = round_up(body, kPage), region = pages + 2 * kPage;
  auto* p = static_cast<unsigned char*>(reserve(region));
  if (p == nullptr) return nullptr;
  if (mprotect(p + kPage, pages, PROT_READ | PROT_WRITE) != 0) {
    munmap(p, region);
    return nullptr;
  }
  unsigned char* const start = p + kPage + pages - body;
  memset(start, kFresh, bytes);
  memset(start + bytes, kSlack, body - bytes);
  if (closed) mprotect(p + kPage, pages, PROT_NONE);
  allocations()[reinterpret_cast<uintptr_t>(start)] = {bytes, p, region, false};
  in_use += bytes;
  return start;
}

bool give_device(void* pointer) {
  const auto it = allocations().find(reinterpret_cast<uintptr_t>(pointer));
  if (it == allocations().end() || it->second.freed) return false;
  Allocation& a = it->second;
  {
    DeviceMemoryOpen open;
    const auto* end = static_cast<unsigned char*>(pointer) + a.bytes;
    for (size_t i = 0; i < round_up(a.bytes, 16) - a.bytes; i++) {
      if (end[i] != kSlack) fail("global memory written %zu bytes behind the allocation of %zu bytes at %p", i, a.bytes, pointer);
    }
  }
  a.freed = true;
  in_use -= a.bytes;
  last_found = nullptr;
  // The addresses stay reserved and the memory goes back.
  mmap(a.region, a.region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  quarantine().push_back(it->first);
  if (quarantine().size() > kQuarantine) {
    const auto oldest = allocations().find(quarantine().front());
    quarantine().pop_front();
    munmap(oldest->second.region, oldest->second.region_bytes);
    allocations().erase(oldest);
  }
  return true;
}

void* take_pinned(size_t bytes) {
  void* p = aligned_alloc(kPage, round_up(bytes > 0 ? bytes : 1, kPage));
  if (p != nullptr) pinned()[reinterpret_cast<uintptr_t>(p)] = bytes;
  return p;
}
bool give_pinned(void* pointer) {
  if (pinned().erase(reinterpret_cast<uintptr_t>(pointer)) == 0) return false;
  free(pointer);
  return true;
}

// ---- faults ---------------------------------------------------------------------------------------------------------------

static struct sigaction previous[NSIG];

static void on_fault(int signal, siginfo_t* info, void* context) {
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
  const char* access = "access";
#if defined(__x86_64__) && defined(REG_ERR)
  if (signal == SIGSEGV) access = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "write" : "read";
#else
  (void)context;
#endif
  const auto shared = reinterpret_cast<uintptr_t>(shared_region[machine.cta]);
  if (signal == SIGSEGV && shared != 0 && at >= shared - kSharedGuard && at < shared + kSharedRegion + kSharedGuard) {
    fail("%s at shared offset %td, outside the block of %zu bytes", access, reinterpret_cast<unsigned char*>(at) - shared_block,
         machine.shared_bytes);
  }
  for (unsigned char* guard : stacks()) {
    const auto low = reinterpret_cast<uintptr_t>(guard);
    if (at >= low && at < low + kStackGuard) fail("stack overflow: a thread has %zu bytes in the emulation", kStackBytes);
  }
  for (const auto& a : allocations()) {
    const auto low = reinterpret_cast<uintptr_t>(a.second.region);
    if (signal != SIGSEGV || at < low || at >= low + a.second.region_bytes) continue;
    if (machine.kernel == nullptr) fail("host code: %s of device memory, %s", access, place(at).c_str());
    fail("%s of global memory%s %s", access, machine.hidden ? " before the wait for the kernels before this one (EarlyStart)," : "",
         place(at).c_str());
  }
  if (machine.kernel != nullptr && running != nullptr) {
    if (signal == SIGSEGV && info->si_code == SI_KERNEL) fail("%s of a misaligned vector, or through a wild pointer", access);
    if (signal == SIGSEGV || signal == SIGBUS) fail("%s of address 0x%zx: %s", access, at, place(at).c_str());
    if (signal == SIGILL) fail("misaligned access, or an index outside its array (a check of the compiler)");
    fail("integer division by zero");
  }
  // Not ours: the handler before us, or the default action on return.
  sigaction(signal, &previous[signal], nullptr);
}

void install_fault_handler() {
  static const bool once = [] {
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(signal, &action, &previous[signal]);
    return true;
  }();
  (void)once;
  // A stack overflow leaves no room for the handler on the thread's stack.
  static thread_local const bool alternate = [] {
    stack_t now{};
    if (sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_DISABLE)) {
      constexpr size_t kBytes = 64 * 1024;
      stack_t own{};
      own.ss_sp = malloc(kBytes);
      own.ss_size = kBytes;
      sigaltstack(&own, nullptr);
    }
    return true;
  }();
  (void)alternate;
}

}  // namespace esft::emu
