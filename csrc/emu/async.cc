// Asynchronous copies: cp.async and TMA tile loads, and when they land.
#include "machine.h"

namespace esft::emu {

uint32_t shared_offset(const void* p) {
  const auto* at = static_cast<const unsigned char*>(p);
  if (at < shared_block || at > machine.shared_end) fail("address %p is not in the CTA's shared memory", p);
  return uint32_t(at - shared_block);
}

void check_shared(const void* p, size_t bytes, size_t align, const char* what) {
  const auto* at = static_cast<const unsigned char*>(p);
  const ptrdiff_t offset = at - shared_block;
  if (at < shared_block || at + bytes > machine.shared_end) {
    fail("%s: %zu bytes at shared offset %td, outside the block of %zu bytes", what, bytes, offset, machine.shared_bytes);
  }
  if (offset % ptrdiff_t(align) != 0) fail("%s: shared offset %td is not %zu-byte aligned", what, offset, align);
}

// ---- cp.async -------------------------------------------------------------------------------------------------------------

static std::vector<Thread*> copying;  // threads with copies or groups at some time in this CTA

static void land(const Copy& c) {
  if (c.from != nullptr) {
    memcpy(c.to, c.from, 16);
  } else {
    memset(c.to, 0, 16);
  }
}
// Lands the thread's copies with numbers below `end`.
static void land_copies(Thread* t, uint64_t end) {
  const uint64_t first = t->issued - t->copies.size();
  for (; t->landed < end; t->landed++) land(t->copies[size_t(t->landed - first)]);
  if (t->landed == t->issued) t->copies.clear();
}

// Changes nothing; of memory that is not there it would be a fault.
void prefetch(const void* p) { check_device(p, 1, "prefetch"); }

void cp_async_16(void* dst, const void* src, bool valid) {
  check_shared(dst, 16, 16, "cp.async");
  if (reinterpret_cast<uintptr_t>(src) % 16 != 0) fail("cp.async: source %p is not 16-byte aligned", src);
  if (valid) check_device(src, 16, "cp.async");
  if (valid) check_dependency("cp.async");
  Thread* t = self();
  const Copy copy{static_cast<unsigned char*>(dst), valid ? static_cast<const unsigned char*>(src) : nullptr};
  if (mode == Mode::kEager || (mode == Mode::kRandom && t->copies.empty() && chance(50))) {
    land(copy);
    t->issued++;
    t->landed++;
    return;
  }
  if (t->copies.empty()) copying.push_back(t);
  t->copies.push_back(copy);
  t->issued++;
}

void cp_async_commit() {
  if (self()->groups.empty()) copying.push_back(self());
  self()->groups.push_back(self()->issued);
  if (mode == Mode::kRandom && chance(25)) yield(0);
}

void cp_async_wait(int pending) {
  Thread* t = self();
  if (mode == Mode::kLate) yield(0);
  uint64_t end = 0;
  while (t->groups.size() > size_t(pending)) {
    end = t->groups.front();
    t->groups.pop_front();
  }
  if (end > t->landed) land_copies(t, end);
}

void cp_async_mbar_arrive(uint64_t* bar) {
  Thread* t = self();
  if (t->landed == t->issued && mode == Mode::kEager) return mbar_async_arrive(bar);
  mbar_done(bar, 0);  // that it is one
  Pending p{};
  p.kind = Pending::kArrive;
  p.bar = bar;
  p.thread = t;
  p.upto = t->issued;
  p.due = machine.round + (mode == Mode::kRandom ? random_bits() % 8 : 0);
  p.cta = t->cta();
  machine.pending.push_back(p);
}

// ---- TMA ------------------------------------------------------------------------------------------------------------------

void require_sm90(const char* what) {
  if (device_arch() != 90) fail("%s needs sm_90a", what);
}

void tma_check_map(const CUtensorMap* map) {
  require_sm90("TMA");
  decode_map(map);
}

static void land_tma(const Pending& p) {
  const TensorMap& m = p.map;
  const uint32_t row_bytes = uint32_t(m.box[0]) * m.element_bytes;
  // Swizzle of 32, 64, 128 bytes: address bits 4.. take an exclusive or with as many bits from bit 7 on.
  const uint32_t bits = m.swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : (1u << m.swizzle) - 1;
  const uint32_t base = uint32_t(p.to - shared_block);
  const bool matrix_inside = m.rank < 3 || (p.z >= 0 && p.z < int64_t(m.dims[2]));
  const unsigned char* matrix = m.base + (m.rank < 3 ? 0 : p.z * int64_t(m.strides[1]));
  for (int r = 0; r < m.box[1]; r++) {
    const int64_t y = int64_t(p.y) + r;
    const bool row_inside = matrix_inside && y >= 0 && y < int64_t(m.dims[1]);
    for (uint32_t c = 0; c < row_bytes; c += 16) {
      const uint32_t at = base + uint32_t(r) * row_bytes + c, to = at ^ ((at >> 7 & bits) << 4);
      const int64_t x = int64_t(p.x) + c / m.element_bytes;
      const int64_t count = 16 / m.element_bytes;
      unsigned char* out = shared_block + to;
      if (row_inside && x >= 0 && x + count <= int64_t(m.dims[0])) {
        memcpy(out, matrix + y * int64_t(m.strides[0]) + x * m.element_bytes, 16);
        continue;
      }
      memset(out, 0, 16);
      for (int64_t i = 0; row_inside && i < count; i++) {
        if (x + i < 0 || x + i >= int64_t(m.dims[0])) continue;
        memcpy(out + i * m.element_bytes, matrix + y * int64_t(m.strides[0]) + (x + i) * m.element_bytes, m.element_bytes);
      }
    }
  }
  mbar_async_bytes(p.bar, p.bytes);
}

// z: of a map of rank 3, whose boxes are of one matrix.
static void tma_load(uint32_t rank, void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z,
                     uint32_t ctas) {
  check_dependency("TMA load");
  require_sm90("TMA load");
  const TensorMap m = decode_map(map);
  if (m.rank != rank) fail("TMA load: a %u-d load through a map of rank %u", rank, m.rank);
  if (rank == 3 && m.box[2] != 1) fail("TMA load: boxes of %u matrices are not emulated", m.box[2]);
  Pending p{};
  p.kind = Pending::kTma;
  p.bytes = uint32_t(m.box[0]) * m.box[1] * m.element_bytes;
  check_shared(dst, p.bytes,
               m.swizzle == CU_TENSOR_MAP_SWIZZLE_128B  ? 1024
               : m.swizzle == CU_TENSOR_MAP_SWIZZLE_64B ? 512
               : m.swizzle == CU_TENSOR_MAP_SWIZZLE_32B ? 256
                                                        : 128,
               "TMA load");
  // The part of the box inside the tensor must be memory of the device.
  const int64_t y0 = std::max<int64_t>(y, 0), y1 = std::min<int64_t>(int64_t(y) + m.box[1], int64_t(m.dims[1]));
  const int64_t x0 = std::max<int64_t>(x, 0), x1 = std::min<int64_t>(int64_t(x) + m.box[0], int64_t(m.dims[0]));
  if (y0 < y1 && x0 < x1 && (rank == 2 || (z >= 0 && z < int64_t(m.dims[2])))) {
    const unsigned char* matrix = m.base + (rank == 2 ? 0 : z * int64_t(m.strides[1]));
    const unsigned char* first = matrix + y0 * int64_t(m.strides[0]) + x0 * m.element_bytes;
    const unsigned char* last = matrix + (y1 - 1) * int64_t(m.strides[0]) + x1 * m.element_bytes;
    check_device(first, size_t(last - first), "TMA load");
  }
  mbar_done(bar, 0);  // that it is one
  if (loses("copy")) return;
  p.map = m;
  p.x = x;
  p.y = y;
  p.z = z;
  if (ctas == 0 || ctas >> machine.cluster) fail("TMA load into CTAs 0x%x of a cluster of %d", ctas, machine.cluster);
  // At the same places of each CTA's block.
  const uint32_t to = shared_offset(dst), barrier = shared_offset(bar);
  for (int cta = 0; cta < machine.cluster; cta++) {
    if (!(ctas >> cta & 1)) continue;
    use_cta(cta);
    p.cta = cta;
    p.to = shared_block + to;
    p.bar = reinterpret_cast<uint64_t*>(shared_block + barrier);
    if (mode == Mode::kEager || (mode == Mode::kRandom && chance(25))) {
      land_tma(p);
      continue;
    }
    // Random: some land soon, some only when nothing else can happen.
    p.due = machine.round + (mode == Mode::kRandom ? (chance(20) ? 1000000 : random_bits() % 10) : 0);
    machine.pending.push_back(p);
  }
  use_cta(self()->cta());
  if (mode == Mode::kRandom && chance(25)) yield(0);
}
void tma_load_2d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y) {
  tma_load(2, dst, map, bar, x, y, 0, 1u << self()->cta());
}
void tma_load_2d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, uint32_t ctas) {
  tma_load(2, dst, map, bar, x, y, 0, ctas);
}
void tma_load_3d(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z) {
  tma_load(3, dst, map, bar, x, y, z, 1u << self()->cta());
}
void tma_load_3d_multicast(void* dst, const CUtensorMap* map, uint64_t* bar, int32_t x, int32_t y, int32_t z, uint32_t ctas) {
  tma_load(3, dst, map, bar, x, y, z, ctas);
}

// ---- landing --------------------------------------------------------------------------------------------------------------

static void land_one(const Pending& p) {
  use_cta(p.cta);
  if (p.kind == Pending::kTma) return land_tma(p);
  if (p.upto > p.thread->landed) land_copies(p.thread, p.upto);
  mbar_async_arrive(p.bar);
}

bool land_pending(bool forced) {
  machine.landed_any = false;
  if (forced) {
    while (!machine.pending.empty() && !machine.landed_any) {
      const size_t i = mode == Mode::kRandom ? random_bits() % machine.pending.size() : 0;
      const Pending p = machine.pending[i];
      machine.pending.erase(machine.pending.begin() + long(i));
      land_one(p);
    }
    return machine.landed_any;
  }
  // One pass in order; what is not due stays.
  size_t kept = 0;
  const size_t count = machine.pending.size();
  for (size_t i = 0; i < count; i++) {
    if (machine.pending[i].due < machine.round) {
      land_one(machine.pending[i]);
    } else {
      if (kept != i) machine.pending[kept] = machine.pending[i];
      kept++;
    }
  }
  machine.pending.resize(kept);
  return machine.landed_any;
}

void async_abandon() {
  machine.pending.clear();
  for (Thread* t : copying) {
    t->copies.clear();
    t->groups.clear();
    t->landed = t->issued;
  }
  copying.clear();
}

void async_end_cta() {
  for (const Pending& p : machine.pending) {
    if (p.kind == Pending::kTma) fail("the CTA ended with a TMA load in flight to shared offset %td", p.to - shared_block);
  }
  machine.pending.clear();
  for (Thread* t : copying) {
    if (t->landed != t->issued) land_copies(t, t->issued);
    t->groups.clear();
  }
  copying.clear();
}

}  // namespace esft::emu
