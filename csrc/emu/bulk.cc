// Copies of the copy engine from shared to global memory, and the turns that CTAs take.
#include "machine.h"

namespace esft::emu {

static std::vector<Thread*> storing;  // threads with copies at some time in this CTA

static void read_source(BulkCopy& c) {
  if (!c.was_read) c.values.assign(c.from, c.from + c.bytes);
  c.was_read = true;
}
static void land(BulkCopy& c) {
  read_source(c);
  if (!c.add) {
    memcpy(c.to, c.values.data(), c.bytes);
    return;
  }
  for (uint32_t i = 0; i < c.bytes; i += 4) {
    float sum, x;
    memcpy(&sum, c.to + i, 4);
    memcpy(&x, c.values.data() + i, 4);
    sum += x;
    memcpy(c.to + i, &sum, 4);
  }
}

void bulk_copy(void* dst, const void* src, uint32_t bytes, bool add) {
  const char* const what = add ? "bulk reduction" : "bulk store";
  require_sm90(what);
  check_shared(src, bytes, 16, what);
  if (bytes == 0 || bytes % 16 != 0) fail("%s of %u bytes, a multiple of 16 needed", what, bytes);
  if (reinterpret_cast<uintptr_t>(dst) % 16 != 0) fail("%s: destination %p is not 16-byte aligned", what, dst);
  check_device(dst, bytes, what);
  check_dependency("a bulk copy");
  Thread* t = self();
  BulkCopy copy{
      static_cast<unsigned char*>(dst), static_cast<unsigned char*>(const_cast<void*>(src)), bytes, t->bulk_groups, add, false, {}};
  if (mode == Mode::kEager || (mode == Mode::kRandom && t->bulk.empty() && chance(50))) return land(copy);
  if (mode == Mode::kRandom && chance(30)) read_source(copy);
  if (t->bulk.empty()) storing.push_back(t);
  t->bulk.push_back(std::move(copy));
}

// A box from shared memory, swizzled as a load would have left it; what lies outside the tensor is not written.
void tma_store_2d(const CUtensorMap* map, const void* src, int32_t x, int32_t y) {
  require_sm90("TMA store");
  const TensorMap m = decode_map(map);
  if (m.rank != 2) fail("TMA store: a 2-d store through a map of rank %u", m.rank);
  const uint32_t row_bytes = uint32_t(m.box[0]) * m.element_bytes;
  check_shared(src, row_bytes * m.box[1], m.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 1024 : 128, "TMA store");
  if (x < 0 || y < 0) fail("TMA store at column %d, row %d", x, y);
  const uint32_t bits = m.swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : (1u << m.swizzle) - 1;
  const uint32_t base = shared_offset(src);
  Thread* t = self();
  const bool now = mode == Mode::kEager || (mode == Mode::kRandom && t->bulk.empty() && chance(50));
  const bool read = !now && mode == Mode::kRandom && chance(30);
  if (!now && t->bulk.empty()) storing.push_back(t);
  for (uint32_t r = 0; r < m.box[1] && y + r < m.dims[1]; r++) {
    for (uint32_t at = 0; at < row_bytes; at += 16) {
      const int64_t column = int64_t(x) + at / m.element_bytes, left = (int64_t(m.dims[0]) - column) * m.element_bytes;
      if (left <= 0) break;
      const uint32_t from = base + r * row_bytes + at, bytes = uint32_t(std::min<int64_t>(16, left));
      unsigned char* to = m.base + (int64_t(y) + r) * int64_t(m.strides[0]) + column * m.element_bytes;
      check_device(to, bytes, "TMA store");
      BulkCopy copy{to, shared_block + (from ^ ((from >> 7 & bits) << 4)), bytes, t->bulk_groups, false, false, {}};
      if (now) {
        land(copy);
        continue;
      }
      if (read) read_source(copy);
      t->bulk.push_back(std::move(copy));
    }
  }
}

void bulk_commit() {
  self()->bulk_groups++;
  if (mode == Mode::kRandom && chance(25)) yield(0);
}

// read: until the source may change; the destination may still be as it was.
void bulk_wait(int pending, bool read) {
  Thread* t = self();
  if (mode == Mode::kLate) yield(2);
  if (mode == Mode::kRandom && chance(50)) yield(int(random_bits() % 4));
  const auto over = [&](const BulkCopy& c) { return int(t->bulk_groups - c.group) > pending; };
  if (read) {
    for (BulkCopy& c : t->bulk)
      if (over(c)) read_source(c);
    return;
  }
  while (!t->bulk.empty() && over(t->bulk.front())) {
    land(t->bulk.front());
    t->bulk.pop_front();
  }
}

void bulk_abandon() {
  for (Thread* t : storing) t->bulk.clear();
  storing.clear();
}

// What nobody waited for lands as late as it can, the last thread's first.
void bulk_end_cta() {
  for (size_t i = storing.size(); i-- > 0;)
    for (BulkCopy& c : storing[i]->bulk) {
      use_cta(storing[i]->cta());
      if (!c.was_read) fail("the CTA ended while a bulk copy reads shared offset %td", c.from - shared_block);
      land(c);
    }
  bulk_abandon();
}

// ---- turns ----------------------------------------------------------------------------------------------------------------

void turn_wait(const uint32_t* turns, int turn, uint32_t value, int op, int site) {
  check_device(turns + turn, 4, "turn");
  check_dependency("a turn");
  Thread* t = self();
  t->wait_turns = turns;
  t->wait_turn = turn;
  t->wait_value = value;
  if (turn_has_come(*t)) return;
  t->wait_op = op;
  t->wait_site = site;
  t->wait_round = machine.round;
  block(State::kTurn);
}

void turn_pass(uint32_t* turns, int turn) {
  check_device(turns + turn, 4, "turn");
  check_dependency("a turn");
  if (!loses("turn")) turns[turn]++;
  if (mode == Mode::kRandom && chance(30)) yield(int(random_bits() % 6));
}

}  // namespace esft::emu
