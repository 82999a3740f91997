// How products are cut into tasks: row blocks x panel ranges, enough of them to keep all threads busy, largest first.
// The cut never touches k, so results do not depend on it.
#pragma once
#include "../context.h"
#include "gemm_narrow.h"
#include "gemm_stream.h"

namespace esft::cpu::ESFT_ISA {

struct Task {
  int64_t item;  // the caller's number of the product
  int64_t m0, m1, p0, p1;
  int64_t cost;
};

struct TaskList {
  Task* tasks;
  int64_t count;
};

// What one call is cut into where sizes allow: enough for largest-first to even out, few enough to keep panels shared.
constexpr int64_t kTasksPerThread = 8;
// The last tasks decide how long threads wait for each other: the smallest ones are cut into kTailParts each.
constexpr int64_t kTailTasks = 2;  // per thread
constexpr int64_t kTailParts = 4;
// Below this many multiply-adds a second thread costs more than it brings.
constexpr int64_t kSerialWork = int64_t(1) << 20;

struct CutRule {
  int64_t panel_columns;  // multiply-adds per row, panel and k
  int64_t k;
  int64_t parts;          // wanted at least, where the size allows
  bool rows_only;         // never cut the panels
  bool a_in_place;        // cutting panels costs no second packing of A
  int64_t row_bytes;      // of prepared A
};

// Rows of one block: prepared A stays within the share of L3 one thread can count on, but panels are never rebuilt more
// often than every kMinRows rows.
constexpr int64_t kBlockBytes = int64_t(3) << 20;
constexpr int64_t kMinRows = 192;
ESFT_INLINE int64_t block_rows(int64_t row_bytes) {
  const int64_t r = kBlockBytes / (row_bytes > 0 ? row_bytes : 1);
  return r < kMinRows ? kMinRows : r;
}

// Room for the tasks of `items` products with `rows` rows together.
ESFT_INLINE int64_t tasks_bound(int64_t items, int64_t rows, int64_t threads) {
  return 2 * (3 * items + (kTasksPerThread + 2) * threads + rows / kMinRows) + kTailTasks * kTailParts * threads;
}

// Appends the tasks of one product of m rows and `panels` panels.
static void cut(TaskList& list, int64_t item, int64_t m, int64_t panels, const CutRule& r) {
  if (m <= 0 || panels <= 0) return;
  const int64_t least = (m + block_rows(r.row_bytes) - 1) / block_rows(r.row_bytes);
  int64_t best_m = least, best_n = 1, best = -1;
  const int64_t most = r.parts > least ? r.parts : least;
  for (int64_t bm = least; bm <= most && (bm == least || m / bm >= 16); bm++) {
    int64_t bn = r.rows_only ? 1 : (r.parts + bm - 1) / bm;
    if (bn < 1) bn = 1;  // a small product beside large ones wants less than one part
    if (bn > panels) bn = panels;
    // Elements built and packed beyond one pass, plus what falls short of the wanted number of parts.
    const int64_t pieces = bm * bn, missing = pieces < r.parts ? r.parts - pieces : 0;
    const int64_t extra =
        (bm - 1) * panels * r.panel_columns + (r.a_in_place ? 0 : (bn - 1) * m) + missing * m * panels * r.panel_columns / 64;
    if (best < 0 || extra < best) best = extra, best_m = bm, best_n = bn;
  }
  for (int64_t i = 0; i < best_m; i++)
    for (int64_t j = 0; j < best_n; j++) {
      Task t = {item, m * i / best_m, m * (i + 1) / best_m, panels * j / best_n, panels * (j + 1) / best_n, 0};
      t.cost = (t.m1 - t.m0 + 8) * (t.p1 - t.p0) * r.panel_columns * (r.k + 8);
      list.tasks[list.count++] = t;
    }
}

// Largest first (heap sort: equal costs may change places, results do not).
static void largest_first(TaskList& list) {
  Task* t = list.tasks;
  auto sink = [t](int64_t i, int64_t n) {
    const Task x = t[i];
    for (int64_t c = 2 * i + 1; c < n; c = 2 * i + 1) {
      if (c + 1 < n && t[c + 1].cost < t[c].cost) c++;
      if (t[c].cost >= x.cost) break;
      t[i] = t[c];
      i = c;
    }
    t[i] = x;
  };
  for (int64_t i = list.count / 2 - 1; i >= 0; i--) sink(i, list.count);
  for (int64_t n = list.count - 1; n > 0; n--) {
    const Task x = t[0];
    t[0] = t[n];
    t[n] = x;
    sink(0, n);
  }
}

static void cut_tail(TaskList& list, const Block* blocks, int64_t threads) {
  const int64_t tail = min_of(kTailTasks * threads, list.count);
  const int64_t first = list.count - tail;
  for (int64_t i = first; i < first + tail; i++) {
    const Task t = list.tasks[i];
    const bool by_rows = blocks[t.item].out.dgate != nullptr;
    // A part keeps enough panels to pay for packing A again, or enough rows to pay for building the panels again.
    const int64_t length = by_rows ? t.m1 - t.m0 : t.p1 - t.p0, parts = min_of(kTailParts, length / (by_rows ? 48 : 3));
    for (int64_t q = 1; q < parts; q++) {
      Task part = t;
      (by_rows ? part.m0 : part.p0) += length * q / parts;
      (by_rows ? part.m1 : part.p1) = (by_rows ? t.m0 : t.p0) + length * (q + 1) / parts;
      list.tasks[list.count++] = part;
    }
    if (parts > 1) (by_rows ? list.tasks[i].m1 : list.tasks[i].p1) = (by_rows ? t.m0 : t.p0) + length / parts;
  }
}

// Few rows are bound by the weights that they read.
ESFT_INLINE int64_t work_of(const Block& b) {
  return max_of(b.m, b.streams ? 8 : 0) * b.n * (b.out.kind == OUT_GATED ? 2 : 1) * (b.k + b.term.k);
}

// Cuts the blocks (whole products) into `tasks` and runs them.
static void run_blocks(Context& ctx, const Block* blocks, int64_t count, Task* tasks) {
  int64_t total = 0;
  for (int64_t i = 0; i < count; i++) total += work_of(blocks[i]);
  const int64_t threads = total < kSerialWork ? 1 : ctx.threads();
  TaskList list = {tasks, 0};
  for (int64_t i = 0; i < count; i++) {
    const Block& b = blocks[i];
    CutRule r = {};
    r.panel_columns = NR;
    r.k = b.k;
    r.parts = threads == 1 ? 1 : work_of(b) * threads * kTasksPerThread / total;
    if (r.parts < 1) r.parts = 1;
    r.rows_only = b.out.dgate != nullptr;
    r.row_bytes = a_elements(b.kind, pass_k(b.k, b.out.kind)) * 4;
    if (count == 1 && threads > 1) {  // alone: every cut packs something twice, and equal parts must come out even
      const int64_t least = (b.m + block_rows(r.row_bytes) - 1) / block_rows(r.row_bytes);
      r.parts = ((least > 2 * threads ? least : 2 * threads) + threads - 1) / threads * threads;
    }
    r.a_in_place = reads_a_in_place(b);
    cut(list, i, b.m, block_panels(b), r);
  }
  if (threads > 1 && count > 1) {
    largest_first(list);
    cut_tail(list, blocks, threads);
  }
  size_t scratch = 0;
  for (int64_t i = 0; i < list.count; i++) {
    const Block& b = blocks[list.tasks[i].item];
    const int64_t m = list.tasks[i].m1 - list.tasks[i].m0;
    const size_t s = b.streams    ? stream_scratch(b)
                     : b.few_rows ? narrow_columns_scratch(m)
                                  : block_scratch(m, pass_k(b.k, b.out.kind), b.kind, b.source != FROM_PANELS, b.term.k);
    if (s > scratch) scratch = s;
  }
  auto run = [&](int64_t i, int worker) {
    const Task& t = list.tasks[i];
    const Block b = block_part(blocks[t.item], t.m0, t.m1);
    void* mine = ctx.worker_scratch(worker, scratch);
    b.streams ? stream_block(b, t.p0, t.p1, mine) : run_block(b, t.p0, t.p1, mine);
  };
  if (threads == 1)
    for (int64_t i = 0; i < list.count; i++) run(i, 0);
  else
    parallel_for(ctx, list.count, run);
}

}  // namespace esft::cpu::ESFT_ISA
