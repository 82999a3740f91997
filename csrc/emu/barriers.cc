// Where threads meet: warp and warpgroup operations, CTA barriers, mbarriers.
#include "machine.h"

namespace esft::emu {

void warp_collective(const Collective& operation, void* arguments, unsigned mask) {
  Thread* t = self();
  Warp& warp = machine.warps[t->warp()];
  if (mask != 0xffffffffu) fail("%s with lane mask 0x%08x: only whole warps are emulated", operation.name, mask);
  if (warp.arrived != 0 && warp.operation != &operation) {
    fail("warp %d diverged: this lane is at %s, lanes 0x%08x are at %s", t->warp(), operation.name, warp.arrived,
         warp.operation->name);
  }
  warp.operation = &operation;
  warp.arguments[t->linear % 32] = arguments;
  warp.arrived |= 1u << t->linear % 32;
  if (warp.arrived != warp.present) return block(State::kWarp);
  operation.run(warp.arguments, warp.present);
  warp.arrived = 0;
  Thread* lanes = &machine.thread[t->slot & ~31];
  for (int i = 0; i < 32; i++) {
    if ((warp.present >> i & 1) && &lanes[i] != t) release(&lanes[i]);
  }
}

void group_collective(const Collective& operation, void* arguments) {
  Thread* t = self();
  const int first = t->slot & ~127, in_cta = t->linear & ~127;
  Rendezvous& meeting = machine.groups[first / 128].meeting;
  if (in_cta + 128 > machine.threads) fail("%s in a warpgroup of %d threads, 128 needed", operation.name, machine.threads - in_cta);
  if (meeting.arrived != 0 && meeting.operation != &operation) {
    fail("warpgroup %d diverged: this thread is at %s, %d threads are at %s", first / 128, operation.name, meeting.arrived,
         meeting.operation->name);
  }
  meeting.operation = &operation;
  meeting.arguments[t->slot - first] = arguments;
  if (++meeting.arrived < 128) return block(State::kGroup);
  operation.run(meeting.arguments, 0);
  meeting.arrived = 0;
  for (int i = first; i < first + 128; i++) {
    if (i != t->slot) release(&machine.thread[i]);
  }
}

struct BallotArguments {
  bool predicate;
  unsigned result;
};
static constexpr Collective kBallot{"__ballot_sync", [](void* const* arguments, unsigned present) {
                                      unsigned bits = 0;
                                      for (int i = 0; i < 32; i++) {
                                        if ((present >> i & 1) && static_cast<BallotArguments*>(arguments[i])->predicate)
                                          bits |= 1u << i;
                                      }
                                      for (int i = 0; i < 32; i++) {
                                        if (present >> i & 1) static_cast<BallotArguments*>(arguments[i])->result = bits;
                                      }
                                    }};
static constexpr Collective kSyncWarp{"__syncwarp", [](void* const*, unsigned) {}};

unsigned ballot(unsigned mask, bool predicate) {
  BallotArguments arguments{predicate, 0};
  warp_collective(kBallot, &arguments, mask);
  return arguments.result;
}
void sync_warp(unsigned mask) { warp_collective(kSyncWarp, nullptr, mask); }

// ---- CTA barriers ---------------------------------------------------------------------------------------------------------

static void barrier(int id, int threads, bool wait, bool lost = false) {
  Thread* t = self();
  Barrier& b = machine.barriers[t->cta()][id];
  if (b.arrived == 0) {
    b.expected = threads;
  } else if (b.expected != threads) {
    fail("named barrier %d used with %d threads while %d threads wait for %d", id, threads, b.arrived, b.expected);
  }
  if (t->barrier_stamp[id] == b.generation) fail("named barrier %d: this thread arrived twice in one phase", id);
  t->barrier_stamp[id] = b.generation;
  if (lost || ++b.arrived < b.expected) {
    if (!wait) {
      if (mode == Mode::kRandom && chance(25)) yield(0);
      return;
    }
    t->wait_id = uint8_t(id);
    b.waiting.push_back(t);
    return block(State::kBarrier);
  }
  b.arrived = 0;
  b.generation++;
  for (Thread* other : b.waiting) release(other);
  b.waiting.clear();
}

void block_barrier() { barrier(0, machine.threads, true); }

uint32_t cluster_rank() {
  require_sm90("clusters");
  return uint32_t(self()->cta());
}

void cluster_sync() {
  require_sm90("clusters");
  Barrier& b = machine.cluster_barrier;
  b.expected = machine.threads * machine.cluster;
  if (++b.arrived < b.expected) {
    b.waiting.push_back(self());
    return block(State::kCluster);
  }
  b.arrived = 0;
  for (Thread* other : b.waiting) release(other);
  b.waiting.clear();
}

void named_barrier(int id, int threads, bool wait, int op, int site) {
  if (id < 1 || id > 15) fail("named barrier %d: 1..15 exist", id);
  if (threads <= 0 || threads % 32 != 0 || threads > machine.threads) {
    fail("named barrier %d for %d threads: a multiple of 32 up to the CTA's %d needed", id, threads, machine.threads);
  }
  self()->wait_op = op;
  self()->wait_site = site;
  self()->wait_round = machine.round;
  barrier(id, threads, wait, loses("barrier"));
}

// ---- mbarriers ------------------------------------------------------------------------------------------------------------
// The 64-bit word in shared memory: transaction bytes (signed 24), pending arrivals 12, arrivals per phase 12, phase parity 1, mark 15.

struct Mbar {
  int tx;
  unsigned pending, count, parity;
};
constexpr uint64_t kMark = 0x5ba7;
constexpr int kMaxTx = (1 << 20) - 1;

static Mbar load(const uint64_t* bar, const char* what) {
  check_shared(bar, 8, 8, what);
  const uint64_t w = *bar;
  if (w >> 49 != kMark)
    fail("%s: shared offset %u holds no initialised mbarrier (or it was overwritten)", what, shared_offset(bar));
  return {int32_t(uint32_t(w) << 8) >> 8, unsigned(w >> 24 & 0xfff), unsigned(w >> 36 & 0xfff), unsigned(w >> 48 & 1)};
}
static void store(uint64_t* bar, Mbar m) {
  if (m.pending == 0 && m.tx == 0) {
    m.pending = m.count;
    m.parity ^= 1;
    machine.landed_any = true;
  }
  *bar = (uint64_t(uint32_t(m.tx)) & 0xffffff) | uint64_t(m.pending) << 24 | uint64_t(m.count) << 36 | uint64_t(m.parity) << 48 |
         kMark << 49;
}

std::string mbar_text(const uint64_t* bar) {
  const Mbar m = load(bar, "mbarrier wait");
  return "mbarrier at shared offset " + std::to_string(shared_offset(bar)) + " (its phase has parity " + std::to_string(m.parity) +
         ", " + std::to_string(m.pending) + " of " + std::to_string(m.count) + " arrivals and " + std::to_string(m.tx) +
         " bytes missing)";
}

static void arrive(uint64_t* bar, const char* what) {
  Mbar m = load(bar, what);
  if (m.pending == 0) fail("%s: arrival with none pending at shared offset %u (count %u)", what, shared_offset(bar), m.count);
  m.pending--;
  store(bar, m);
}

void mbar_init(uint64_t* bar, uint32_t count) {
  check_shared(bar, 8, 8, "mbarrier init");
  if (count == 0 || count > 4095) fail("mbarrier init with count %u", count);
  if (*bar >> 49 == kMark) fail("mbarrier init: shared offset %u holds an mbarrier in use", shared_offset(bar));
  store(bar, {0, count, count, 0});
}

static void add_bytes(uint64_t* bar, int bytes, const char* what) {
  Mbar m = load(bar, what);
  m.tx += bytes;
  if (m.tx > kMaxTx || m.tx < -kMaxTx)
    fail("%s: %d transaction bytes pending at shared offset %u, limit %d", what, m.tx, shared_offset(bar), kMaxTx);
  store(bar, m);
}

void mbar_arrive(uint64_t* bar, uint32_t expect_bytes) {
  if (expect_bytes != 0) {
    require_sm90("mbarrier expect_tx");
    if (expect_bytes > uint32_t(kMaxTx)) fail("mbarrier expect_tx of %u bytes, limit %d", expect_bytes, kMaxTx);
    // Not through add_bytes: bytes that landed earlier may bring the count to zero while this arrival is still pending.
    Mbar m = load(bar, "mbarrier expect_tx");
    if (m.pending == 0)
      fail("mbarrier expect_tx: arrival with none pending at shared offset %u (count %u)", shared_offset(bar), m.count);
    m.tx += int(expect_bytes);
    m.pending--;
    if (m.tx > kMaxTx) fail("mbarrier expect_tx: %d bytes pending at shared offset %u, limit %d", m.tx, shared_offset(bar), kMaxTx);
    store(bar, m);
  } else if (!loses("arrival")) {
    arrive(bar, "mbarrier arrive");
  }
  // A producer that only announces bytes goes on: its copies are to land before the arriving readers do anything more.
  if (mode == Mode::kLate && expect_bytes == 0) yield(4);
  if (mode == Mode::kRandom && chance(30)) yield(int(random_bits() % 6));
}

void mbar_arrive_cluster(uint64_t* bar, uint32_t rank) {
  require_sm90("clusters");
  if (rank >= uint32_t(machine.cluster)) fail("mbarrier arrive at rank %u of a cluster of %d CTAs", rank, machine.cluster);
  const uint32_t offset = shared_offset(bar);
  use_cta(int(rank));
  arrive(reinterpret_cast<uint64_t*>(shared_block + offset), "mbarrier arrive from another CTA");
  use_cta(self()->cta());
  if (mode == Mode::kLate) yield(4);
  if (mode == Mode::kRandom && chance(30)) yield(int(random_bits() % 6));
}

void mbar_async_arrive(uint64_t* bar) { arrive(bar, "cp.async.mbarrier.arrive"); }
void mbar_async_bytes(uint64_t* bar, uint32_t bytes) { add_bytes(bar, -int(bytes), "TMA load"); }

bool mbar_done(uint64_t* bar, uint32_t parity) { return load(bar, "mbarrier wait").parity != parity; }

void mbar_wait(uint64_t* bar, uint32_t parity, int op, int site) {
  if (parity > 1) fail("mbarrier wait for parity %u", parity);
  if (mbar_done(bar, parity)) return;
  Thread* t = self();
  t->wait_bar = bar;
  t->wait_parity = uint8_t(parity);
  t->wait_op = op;
  t->wait_site = site;
  t->wait_round = machine.round;
  block(State::kMbar);
}

}  // namespace esft::emu
