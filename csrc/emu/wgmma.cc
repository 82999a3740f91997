// wgmma: operand tiles behind shared-memory descriptors, accumulators in flight, commit groups; setmaxnreg.
//
// While a product is in flight the accumulator of each thread holds NaN and the tile lives here, row-major; it goes back to the
// threads in the wait that completes its last product. When the operands are read, fragments of A in registers too, depends on the
// schedule: at issue, or in the wait (late), or either (random).
#include <cmath>
#include <memory>

#include "machine.h"

namespace esft::emu {

static bool used = false;  // by this CTA

static float bf16_float(uint32_t bits) { return esft_emu_bits<float>(bits << 16); }

// ---- operands -------------------------------------------------------------------------------------------------------------

struct Descriptor {
  uint32_t start, leading, stride;
};
static Descriptor decode(uint64_t d, const char* operand) {
  const uint32_t layout = uint32_t(d >> 62), offset = uint32_t(d >> 49 & 7);
  if (layout != 1) fail("wgmma: the descriptor of %s has layout %u, only 1 (128-byte swizzle) is emulated", operand, layout);
  if (offset != 0) fail("wgmma: the descriptor of %s has base offset %u, 0 expected", operand, offset);
  const Descriptor r{uint32_t(d & 0x3fff) << 4, uint32_t(d >> 16 & 0x3fff) << 4, uint32_t(d >> 32 & 0x3fff) << 4};
  if (r.start & 0x380)
    fail("wgmma: the descriptor of %s starts at shared offset %u, inside a group of eight 128-byte rows", operand, r.start);
  return r;
}

// Eight elements at an address before the swizzle.
static inline const uint16_t* chunk(uint32_t at, const char* operand) {
  const uint32_t swizzled = at ^ ((at >> 7 & 7) << 4);
  if (swizzled + 16 > machine.shared_bytes) {
    fail("wgmma: %s reads shared offset %u, outside the block of %zu bytes", operand, swizzled, machine.shared_bytes);
  }
  return reinterpret_cast<const uint16_t*>(shared_block + swizzled);
}

// out[k * ld_k + i * ld_i], i < n (rows of A, columns of B), k < 16.
static void read_operand(uint64_t descriptor, bool transposed, int n, float* out, int ld_k, int ld_i, const char* operand) {
  const Descriptor d = decode(descriptor, operand);
  if (!transposed) {  // rows of 128 bytes are i, k is contiguous
    for (int i = 0; i < n; i++) {
      const uint32_t row = d.start + uint32_t(i / 8) * d.stride + uint32_t(i % 8) * 128;
      for (int h = 0; h < 2; h++) {
        const uint16_t* p = chunk(row + uint32_t(h) * 16, operand);
        for (int k = 0; k < 8; k++) out[(8 * h + k) * ld_k + i * ld_i] = bf16_float(p[k]);
      }
    }
  } else {  // rows of 128 bytes are k, i is contiguous
    for (int k = 0; k < 16; k++) {
      const uint32_t row = d.start + uint32_t(k / 8) * d.stride + uint32_t(k % 8) * 128;
      for (int i = 0; i < n; i += 8) {
        const uint16_t* p = chunk(row + uint32_t(i / 64) * d.leading + uint32_t(i % 64) * 2, operand);
        for (int j = 0; j < 8; j++) out[k * ld_k + (i + j) * ld_i] = bf16_float(p[j]);
      }
    }
  }
}

// c[64, n] (+)= a[64, 16] · b[16, n].
typedef float Lanes __attribute__((vector_size(32), aligned(4)));
static void multiply(const float (&a)[64][16], const float* b, float* c, int n, bool add) {
  for (int j = 0; j < n; j += 8) {
    for (int i = 0; i < 64; i += 8) {
      Lanes sum[8];
      for (int r = 0; r < 8; r++) sum[r] = add ? *reinterpret_cast<const Lanes*>(c + (i + r) * n + j) : Lanes{};
      for (int k = 0; k < 16; k++) {
        const Lanes column = *reinterpret_cast<const Lanes*>(b + k * n + j);
#pragma GCC unroll 8
        for (int r = 0; r < 8; r++) sum[r] += a[i + r][k] * column;
      }
      for (int r = 0; r < 8; r++) *reinterpret_cast<Lanes*>(c + (i + r) * n + j) = sum[r];
    }
  }
}

static void execute(Product& p) {
  if (p.done) return;
  p.done = true;
  const int n = p.arguments.columns;
  alignas(32) static float a[64][16];
  alignas(32) static float b[16 * 256];
  if (p.a_registers.empty()) {
    read_operand(p.arguments.a, p.arguments.trans_a, 64, &a[0][0], 1, 16, "A");
  } else {
    for (int t = 0; t < 128; t++) {
      const int row = 16 * (t / 32) + t % 32 / 4, q = 2 * (t % 4);
      for (int i = 0; i < 4; i++) {
        const uint32_t pair = p.a_registers[size_t(t)][i];
        a[row + 8 * (i & 1)][q + 8 * (i >> 1)] = bf16_float(pair & 0xffff);
        a[row + 8 * (i & 1)][q + 8 * (i >> 1) + 1] = bf16_float(pair >> 16);
      }
    }
  }
  read_operand(p.arguments.b, p.arguments.trans_b, n, b, n, 1, "B");
  multiply(a, b, p.acc->tile.data(), n, p.arguments.add);
}

// ---- accumulators ---------------------------------------------------------------------------------------------------------

template <class F>
static void for_fragments(AccTile& tile, F f) {
  const int n = tile.columns;
  for (int t = 0; t < 128; t++) {
    float* acc = tile.pointers[t];
    float* row = tile.tile.data() + (16 * (t / 32) + t % 32 / 4) * n + 2 * (t % 4);
    for (int i = 0; i < n / 2; i += 4) {
      f(acc[i], row[2 * i]);
      f(acc[i + 1], row[2 * i + 1]);
      f(acc[i + 2], row[8 * n + 2 * i]);
      f(acc[i + 3], row[8 * n + 2 * i + 1]);
    }
  }
}

static AccTile* enter(Warpgroup& group, void* const* arguments) {
  const auto lane = [&](int i) -> WgmmaArguments& { return *static_cast<WgmmaArguments*>(arguments[i]); };
  const WgmmaArguments& first = lane(0);
  for (AccTile* tile : group.tiles) {
    if (tile->pointers[0] != first.acc) continue;
    if (tile->columns != first.columns)
      fail("wgmma: an accumulator in flight with N = %d is used with N = %d", tile->columns, first.columns);
    return tile;
  }
  auto* tile = new AccTile{};
  tile->columns = first.columns;
  for (int t = 0; t < 128; t++) tile->pointers[t] = lane(t).acc;
  tile->tile.resize(size_t(64) * size_t(first.columns));
  for_fragments(*tile, [](float& acc, float& element) {
    element = acc;
    acc = NAN;
  });
  group.tiles.push_back(tile);
  return tile;
}

static void leave(Warpgroup& group, AccTile* tile) {
  for_fragments(*tile, [](float& acc, float& element) { acc = element; });
  group.tiles.erase(std::find(group.tiles.begin(), group.tiles.end(), tile));
  delete tile;
}

// ---- instructions ---------------------------------------------------------------------------------------------------------

static Warpgroup& own_group() { return machine.groups[self()->group()]; }

static void run_wgmma(void* const* arguments, unsigned) {
  const auto lane = [&](int i) -> WgmmaArguments& { return *static_cast<WgmmaArguments*>(arguments[i]); };
  Warpgroup& group = own_group();
  const WgmmaArguments& first = lane(0);
  const int base = self()->slot & ~127;
  for (int t = 0; t < 128; t++) {
    const WgmmaArguments& other = lane(t);
    if (other.a != first.a || other.b != first.b || other.columns != first.columns || other.trans_a != first.trans_a ||
        other.trans_b != first.trans_b || other.add != first.add ||
        (other.a_registers == nullptr) != (first.a_registers == nullptr)) {
      fail("wgmma: threads %d and %d of one warpgroup give different shapes, descriptors or scale", base, base + t);
    }
    if (machine.thread[base + t].committed != group.group) fail("wgmma: the warpgroup's threads have committed different groups");
    if (!machine.thread[base + t].fenced) fail("wgmma: no wgmma_fence since the last wait (thread %d)", base + t);
  }
  used = true;
  Product p{};
  p.arguments = first;
  p.acc = enter(group, arguments);
  p.acc->users++;
  p.group = group.group;
  if (first.a_registers != nullptr) {
    for (int t = 0; t < 128; t++) p.a_registers.push_back(lane(t).a_registers);
  }
  group.products.push_back(std::move(p));
  if (mode == Mode::kEager || (mode == Mode::kRandom && chance(40))) {
    for (Product& q : group.products) execute(q);
  } else {
    // Bad descriptors are reported where they were issued.
    if (first.a_registers == nullptr) decode(first.a, "A");
    decode(first.b, "B");
  }
}
static constexpr Collective kWgmma{"wgmma", run_wgmma};

void wgmma(WgmmaArguments& arguments) {
  require_sm90("wgmma");
  group_collective(kWgmma, &arguments);
}

void wgmma_fence() {
  require_sm90("wgmma");
  self()->fenced = true;
}

// Does not wait for the other threads: the next product or wait does.
void wgmma_commit() {
  require_sm90("wgmma");
  Thread* t = self();
  Warpgroup& group = own_group();
  if (t->committed != group.group) fail("wgmma: commit_group again before the rest of the warpgroup got to the last one");
  t->committed++;
  if (++group.commits == 128) {
    group.commits = 0;
    group.group++;
  }
  used = true;
}

struct WaitArguments {
  int pending;
};
static void run_wait(void* const* arguments, unsigned) {
  Warpgroup& group = own_group();
  const int pending = static_cast<WaitArguments*>(arguments[0])->pending;
  for (int t = 0; t < 128; t++) {
    if (static_cast<WaitArguments*>(arguments[t])->pending != pending)
      fail("wgmma: the warpgroup's threads wait for different groups");
  }
  while (!group.products.empty() && group.group - group.products.front().group > uint32_t(pending) &&
         group.products.front().group != group.group) {
    execute(group.products.front());
    AccTile* tile = group.products.front().acc;
    group.products.pop_front();
    if (--tile->users == 0) leave(group, tile);
  }
}
static constexpr Collective kWait{"wgmma wait_group", run_wait};

void wgmma_wait(int pending) {
  require_sm90("wgmma");
  // Random: others run on for a while before the operands are read.
  if (mode == Mode::kRandom && chance(20)) yield(int(random_bits() % 4));
  WaitArguments arguments{pending};
  group_collective(kWait, &arguments);
  self()->fenced = false;
}

void wgmma_begin_cta() {
  for (Warpgroup& group : machine.groups) {
    group.meeting.arrived = 0;
    group.registers = 0;
    group.register_arrivals = 0;
    group.commits = 0;
    group.group = 0;
  }
}

void wgmma_abandon() {
  used = false;
  for (Warpgroup& group : machine.groups) {
    group.products.clear();
    for (AccTile* tile : group.tiles) delete tile;
    group.tiles.clear();
  }
}

void wgmma_end_cta() {
  if (!used) return;
  used = false;
  for (Warpgroup& group : machine.groups) {
    if (!group.products.empty()) fail("the CTA ended with wgmma products in flight (no commit, or no wait)");
  }
}

// ---- setmaxnreg -----------------------------------------------------------------------------------------------------------

void set_max_registers(int count, bool increase) {
  if (device_arch() != 90) return;
  Warpgroup& group = own_group();
  const int number = self()->linear / 128, groups = (machine.threads + 127) / 128;
  const Warpgroup* of_cta = machine.groups + 8 * self()->cta();
  if (group.register_arrivals == 0 || group.register_arrivals == 128) {
    group.register_arrivals = 0;
    group.registers = count;
  } else if (group.registers != count) {
    fail("setmaxnreg %d (%s) in warpgroup %d, whose other threads set %d", count, increase ? "inc" : "dec", number,
         group.registers);
  }
  group.register_arrivals++;
  int total = 0;
  for (int g = 0; g < groups; g++) {
    if (of_cta[g].registers == 0) return;
    total += 128 * of_cta[g].registers;
  }
  // What the block was launched with: registers come in eights per thread.
  const int pool = 65536 / machine.threads / 8 * 8 * machine.threads;
  if (total > pool) fail("setmaxnreg: the warpgroups ask for %d registers, the block has %d", total, pool);
}

}  // namespace esft::emu
