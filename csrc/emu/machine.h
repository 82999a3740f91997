// State of the emulated multiprocessor: the one CTA that runs, its threads as fibers, its barriers and asynchronous operations.
// For the sources of this folder.
#pragma once
#include <cstdio>
#include <deque>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "emu.h"
#include "ptx_emu.h"

namespace esft::emu {

// One host thread at a time is in the emulation: runtime calls and kernels.
std::recursive_mutex& machine_mutex();

enum class Mode { kEager, kLate, kRandom };
extern Mode mode;
uint32_t random_bits();
// The schedule of a stream that is about to be used (emu.h); ends the process when it is none.
void use_schedule(const std::string& wanted);
inline bool chance(int percent) { return random_bits() % 100 < uint32_t(percent); }

// streams.cc: what streams have not run yet, and one thing more for a stream; the host's waits for one and for all, which are refused
// while a stream is captured; whether this one or (but for relaxed captures) any is.
void run_all();
void enqueue(cudaStream_t stream, std::function<void()> work);
cudaError_t wait_for(cudaStream_t stream);
cudaError_t wait_for_all();
bool capturing(cudaStream_t stream);
bool any_capture();
// runtime.cc: the sticky last error.
cudaError_t note(cudaError_t status);

// Prints one line that names kernel, CTA, thread and schedule where there are any, and aborts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class State : uint8_t { kNew, kReady, kYield, kMbar, kTurn, kWarp, kGroup, kBarrier, kCluster, kDependency, kDone };

struct Copy {
  unsigned char* to;
  const unsigned char* from;  // null: zeros
};

// A copy from shared to global memory in flight (bulk.cc).
struct BulkCopy {
  unsigned char *to, *from;
  uint32_t bytes, group;
  bool add, was_read;
  std::vector<unsigned char> values;  // once it was read
};

struct Thread : ThreadIndex {
  State state;
  bool fenced;         // wgmma.fence since the last wait
  bool dependent;      // of a kernel that began early, and has not waited for those before it
  uint16_t linear;     // in the CTA
  uint16_t slot;       // in machine.thread: 1024 · rank of the CTA in its cluster + linear
  uint16_t yields;     // rounds to sit out
  uint8_t wait_id;     // named barrier
  uint8_t wait_parity;
  uint32_t committed;  // wgmma groups
  uint64_t* wait_bar;
  int wait_op, wait_site;  // of the last wait, for a report
  uint64_t wait_round;     // when it began
  struct Fiber* fiber;  // null: not started, or over
  // cp.async: copies not landed yet, numbered from `landed`; ends of committed groups by that number.
  std::vector<Copy> copies;
  std::deque<uint64_t> groups;
  uint64_t landed, issued;
  uint32_t barrier_stamp[16];
  const uint32_t* wait_turns;  // the counters of a turn, which one of them, until what value
  int wait_turn;
  uint32_t wait_value;
  std::deque<BulkCopy> bulk;
  uint32_t bulk_groups;  // committed

  int cta() const { return slot / 1024; }
  int warp() const { return slot / 32; }
  int group() const { return slot / 128; }
};

struct Rendezvous {
  const Collective* operation;
  int arrived;
  uint32_t mask;  // warps only
  void* arguments[128];
};
struct Warp {
  uint32_t present;
  const Collective* operation;
  uint32_t arrived;
  void* arguments[32];
};
struct Barrier {
  int expected = 0, arrived = 0;
  uint32_t generation = 1;
  std::vector<Thread*> waiting;
};

// One accumulator tile in flight: the 128 threads' pointers, the tile itself row-major, how many products still use it.
struct AccTile {
  float* pointers[128];
  int columns, users;
  std::vector<float> tile;  // [64, columns]
};
struct Product {
  WgmmaArguments arguments;
  std::vector<const uint32_t*> a_registers;  // [128] of four
  AccTile* acc;
  uint32_t group;
  bool done;
};
struct Warpgroup {
  Rendezvous meeting;
  int commits;  // arrivals at the open group's commit
  uint32_t group;
  int registers, register_arrivals;
  std::deque<Product> products;
  std::vector<AccTile*> tiles;
};

// What the opaque words of a CUtensorMap hold here.
struct TensorMap {
  uint64_t magic;
  unsigned char* base;
  uint64_t dims[3], strides[2];  // elements; bytes
  uint16_t box[3], element_bytes;
  uint32_t rank, swizzle;
  uint64_t unused[6];
  uint64_t check;
};
static_assert(sizeof(TensorMap) == sizeof(CUtensorMap));

struct Pending {  // lands when its round has ended
  enum Kind { kTma, kArrive } kind;
  uint64_t due;
  uint64_t* bar;
  unsigned char* to;
  TensorMap map;
  int32_t x, y, z;
  uint32_t bytes;
  Thread* thread;
  uint64_t upto;
  int cta;  // whose shared memory and barrier
};

constexpr int kMaxCluster = 2;
constexpr int kBeside = 3;  // CTAs that run side by side where they take turns

struct Machine {
  const char* kernel = nullptr;  // running kernel, null outside
  const std::function<void()>* body = nullptr;
  unsigned char* shared_end = nullptr;  // of the block asked for, of the CTA in use
  size_t shared_bytes = 0;
  int threads = 0, live = 0;  // of one CTA; of the cluster
  int cluster = 1;            // CTAs that run together: of a cluster, or side by side
  uint3 cta_index[kBeside];
  int cta = 0;                // the one in use: block_index, shared_block, shared_end
  Thread* thread = nullptr;   // [kBeside · 1024]
  std::vector<uint16_t> order;
  int cursor = 0;
  bool progress = false, landed_any = false;
  uint32_t skipped_warps = 0;
  uint64_t round = 0;
  Warp warps[32 * kBeside];
  Warpgroup groups[8 * kBeside];
  Barrier barriers[kBeside][16];
  Barrier cluster_barrier;
  std::deque<Pending> pending;
  const std::function<void(const Hang&)>* hung = nullptr;  // of the running kernel
  bool early = false;    // the running kernel began before those before it have ended
  bool hidden = false;   // and device memory cannot be touched until its first CTAs have waited
  bool trapped = false;  // the device serves nothing more
};
extern Machine machine;
inline Thread* self() { return static_cast<Thread*>(running); }

// The CTA whose shared memory the checks and asynchronous operations mean: the running thread's, but for these few lines.
void use_cta(int cta);

// Gives the processor to another thread until this one's state is kReady again (or its wait is over).
void block(State state);
// Sits out `rounds` rounds.
void yield(int rounds);
inline void release(Thread* t) { t->state = State::kReady; }
void group_collective(const Collective& operation, void* arguments);

bool mbar_done(uint64_t* bar, uint32_t parity);
inline bool turn_has_come(const Thread& t) { return t.wait_turns[t.wait_turn] == t.wait_value; }
void mbar_async_arrive(uint64_t* bar);
void mbar_async_bytes(uint64_t* bar, uint32_t bytes);
std::string mbar_text(const uint64_t* bar);

// Lands pending operations whose round is over; `forced`: nothing else can happen, so land until a barrier's phase completes.
bool land_pending(bool forced);
void async_end_cta();
void async_abandon();  // after a trap: nothing is in flight, whatever was
void bulk_end_cta();
void bulk_abandon();
void wgmma_begin_cta();
void wgmma_end_cta();
void wgmma_abandon();

// Checks an access of a wrapper to the CTA's shared block.
void check_shared(const void* p, size_t bytes, size_t align, const char* what);

// memory.cc, which knows no runtime: nullptr where there is none left, false for what was not taken here.
void* take_device(size_t bytes);
bool give_device(void* pointer);
void* take_pinned(size_t bytes);
bool give_pinned(void* pointer);
size_t device_bytes();  // ESFT_EMU_MEMORY
size_t device_bytes_in_use();
unsigned char* shared_region_end(int cta);  // a guard page lies behind
constexpr size_t kSharedRegion = 256 * 1024;
void* map_stack(size_t bytes);  // its top; a guard page lies below
void install_fault_handler();
void check_device(const void* p, size_t bytes, const char* what);
bool device_range(const void* p, size_t bytes);
bool pinned_range(const void* p, size_t bytes);
// Host code must not touch device memory: under the schedule late it is inaccessible while none of these lives.
struct DeviceMemoryOpen {
  DeviceMemoryOpen();
  ~DeviceMemoryOpen();
};

// Device memory cannot be touched at all, or can again.
void hide_device_memory(bool hidden);
// An access to it by a wrapper, which may happen later.
inline void check_dependency(const char* what) {
  if (self()->dependent) fail("%s before the wait for the kernels before this one (EarlyStart)", what);
}

// runtime.cc
int device_arch();  // 80, 90 or 100
int env_int(const char* name, int fallback);
int active_clusters();  // that run at the same time

TensorMap decode_map(const CUtensorMap* map);  // tensor_map.cc: fails unless it is one

}  // namespace esft::emu
