// sample (contract: ops/sample.h): no row is sorted. One pass keeps the maximum of every block of 64 logits and the sum behind logprob;
// then greedy rows are done, and others select (sample_select.h) and draw.
//
// A row is cut into as many parts as there are threads for it. Counts and weights are integers and maxima have no order, so that this
// leaves no trace in the result; the sum behind logprob is over chunks of one size.
#include "../../ops/checks.h"
#include "../kernels.h"
#include "sample_select.h"

namespace esft::cpu::ESFT_ISA {

namespace {

void read_chunk(Row& row, int64_t c) {
  const int64_t begin = c * kChunk, end = min_of(row.V, begin + kChunk);
  const float* x = row.logits;
  vi bad = {};
  float top = -kInf;
  for (int64_t b = begin; b < end; b += kBlock) {
    vf most = splat(-kInf);
    for (int64_t i = b; i < min_of(end, b + kBlock); i += W) {
      const vf v = load_row(x + i, end - i);
      bad |= ~(v < splat(kInf));
      most = vmax(most, v);
    }
    row.maxima[b / kBlock] = hmax(most);
    top = row.maxima[b / kBlock] > top ? row.maxima[b / kBlock] : top;
  }
  if (row.copy) memcpy(row.copy + begin, x + begin, (end - begin) * 4);
  vf sum = {};
  if (top > -kInf)
    for (int64_t i = begin; i < end; i += W) sum += vexp(load_row(x + i, end - i) - splat(top));
  row.chunks[c].top = top;
  row.chunks[c].sum = lane_bits(bad) ? double(kNaN) : double(hsum(sum));
}

// f(id, value) for those that may reach `floor`, by ascending id.
template <class F>
ESFT_INLINE void for_candidates(const Row& row, float floor, F f) {
  for (int64_t b = 0; b < row.blocks; b++)
    if (row.maxima[b] >= floor)
      for (int64_t i = b * kBlock; i < min_of(row.V, (b + 1) * kBlock); i++) f(i, row.z[i]);
}

// The N highest logits, kept in order while they go by. Before the penalty: z are the logits.
void list_top(const Row& row, int32_t* ids, float* values, int64_t N) {
  int64_t n = 0;
  for_candidates(row, reached_by(row, N, row.bins), [&](int64_t id, float x) ESFT_LAMBDA {
    if (n == N && !(x > values[N - 1])) return;
    int64_t at = n < N ? n++ : N - 1;
    for (; at > 0 && x > values[at - 1]; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
    values[at] = x, ids[at] = int32_t(id);
  });
}

// The penalty of the seen ids, and the maxima of their blocks.
void penalise(Row& row, float penalty, const int32_t* seen, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    const float x = row.logits[seen[i]];
    row.copy[seen[i]] = x > 0 ? x / penalty : x * penalty;
    row.maxima[seen[i] / kBlock] = kNaN;
  }
  row.z = row.copy;
  for (int64_t b = 0; b < row.blocks; b++) {
    if (row.maxima[b] == row.maxima[b]) continue;
    vf most = splat(-kInf);
    for (int64_t i = b * kBlock; i < min_of(row.V, (b + 1) * kBlock); i += W) most = vmax(most, load_row(row.z + i, row.V - i));
    row.maxima[b] = hmax(most);
  }
}

// False: the row is no distribution.
bool settle(Row& row) {
  row.raw_top = -kInf;
  const int64_t chunks = ceil_div(row.V, kChunk);
  for (int64_t c = 0; c < chunks; c++) row.raw_top = row.chunks[c].top > row.raw_top ? row.chunks[c].top : row.raw_top;
  double sum = 0;
  for (int64_t c = 0; c < chunks; c++)
    if (!(row.chunks[c].sum == 0)) sum += row.chunks[c].sum * __builtin_exp(double(row.chunks[c].top) - double(row.raw_top));
  row.log_sum = __builtin_log(sum);
  return sum > 0;
}

// What is to be done with z once it is final: the greedy token, or the selections. False: z is no distribution.
bool start(Row& row) {
  row.top = -kInf;
  for (int64_t b = 0; b < row.blocks; b++) row.top = row.maxima[b] > row.top ? row.maxima[b] : row.top;
  if (!(row.top > -kInf && row.top < kInf)) return false;
  if (!(row.temperature > 0)) {
    row.id = int32_t(find_equal(row, row.top, 1));
    return true;
  }
  row.cut = -kInf, row.last = row.V - 1;
  row.weightless = reaches(row, double(kExpLowest));
  begin_pass(row, row.top_k > 0 && row.top_k < row.V ? kCount : row.top_p < 1 ? kWeight : kNone);
  return true;
}

// f(first id, weights) of the kept tokens of a chunk, vector by vector.
template <class F>
ESFT_INLINE void for_weights(const Row& row, int64_t c, F f) {
  const vq least = vq{} + uint64_t(__builtin_ceil(double(row.min_p) * double(uint64_t(1) << kWeightBits)));
  float floor = row.cut > row.weightless ? row.cut : row.weightless;
  if (row.min_p > 0) {
    const float low = reaches(row, __builtin_log(double(row.min_p)));
    floor = low > floor ? low : floor;
  }
  for (int64_t b = c * kChunk / kBlock; b < min_of(row.blocks, (c + 1) * kChunk / kBlock); b++) {
    if (!(row.maxima[b] >= floor)) continue;
    for (int64_t i = b * kBlock; i < min_of(row.V, (b + 1) * kBlock); i += W) {
      const vf z = load_row(row.z + i, row.V - i);
      Weights w = weights(z, row.top, row.temperature, kept_lanes(row, z, i));
      w.even = w.even >= least ? w.even : vq{};
      w.odd = w.odd >= least ? w.odd : vq{};
      if (f(i, w)) return;
    }
  }
}

void weigh_chunk(Row& row, int64_t c) {
  vq sum = {};
  for_weights(row, c, [&](int64_t, const Weights& w) ESFT_LAMBDA { return sum += w.even + w.odd, false; });
  row.chunks[c].weight = 0;
  for (int i = 0; i < W / 2; i++) row.chunks[c].weight += sum[i];
}

void choose(Row& row) {
  uint64_t sum = 0, before = 0;
  for (int64_t c = 0; c < ceil_div(row.V, kChunk); c++) sum += row.chunks[c].weight;
  const uint64_t target = uint64_t(u128(uint64_t(row.u * 18446744073709551616.0)) * sum >> 64);
  int64_t c = 0;
  while (before + row.chunks[c].weight <= target) before += row.chunks[c++].weight;
  for_weights(row, c, [&](int64_t first, const Weights& w) ESFT_LAMBDA {
    for (int i = 0; i < W; i++) {
      before += Weights::lane(w, i);
      if (before <= target) continue;
      row.id = int32_t(first + i);
      return true;
    }
    return false;
  });
}

template <class T>
ESFT_INLINE T option(const esft_tensor& t, int64_t r, T off) {
  return present(t) ? data<T>(t)[r] : off;
}

// The row's inputs, and its share of the scratch memory.
char* place(Row& row, const esft_sample_args& a, int64_t r, int64_t parts, bool copies, char* memory) {
  const auto take = [&](int64_t bytes) {
    char* at = memory;
    memory += round_up(bytes, 64);
    return at;
  };
  row.V = cols(a.logits), row.blocks = ceil_div(row.V, kBlock);
  row.parts = parts, row.per_part = ceil_div(ceil_div(row.V, kChunk), parts) * (kChunk / kBlock);
  row.logits = row.z = row_of<float>(a.logits, r);
  row.maxima = reinterpret_cast<float*>(take(row.blocks * 4));
  row.chunks = reinterpret_cast<Chunk*>(take(ceil_div(row.V, kChunk) * int64_t(sizeof(Chunk))));
  row.bins = reinterpret_cast<uint64_t*>(take(parts * (kBins + 1) * 8));
  row.copy = copies ? reinterpret_cast<float*>(take(row.V * 4)) : nullptr;
  row.temperature = option(a.temperature, r, 0.0f), row.u = option(a.u, r, 0.0);
  row.top_k = option(a.top_k, r, int32_t(0)), row.top_p = option(a.top_p, r, 1.0f), row.min_p = option(a.min_p, r, 0.0f);
  row.pass = kNone, row.id = -1;
  return memory;
}

// The row once all of it has been read: what asks the logits as they came, the penalty, then the first step towards the token.
void begin_row(Row& row, const esft_sample_args& a, int64_t r) {
  const bool good = settle(row);
  if (present(a.top_ids)) {
    int32_t* ids = row_of<int32_t>(a.top_ids, r);
    float* logprobs = row_of<float>(a.top_logprobs, r);
    const int64_t N = cols(a.top_ids);
    if (good) list_top(row, ids, logprobs, N);
    for (int64_t i = 0; i < N; i++) {
      if (!good) ids[i] = -1;
      logprobs[i] = good ? float(double(logprobs[i]) - double(row.raw_top) - row.log_sum) : kNaN;
    }
  }
  const int32_t* at = row.copy ? data<int32_t>(a.seen_offsets) + r : nullptr;
  if (good && at) penalise(row, data<float>(a.repetition_penalty)[r], data<int32_t>(a.seen) + at[0], at[1] - at[0]);
  if (good && start(row)) return;
  row.temperature = 0;  // nothing more to do
  for (int64_t i = 0; present(a.top_ids) && i < cols(a.top_ids); i++)
    row_of<int32_t>(a.top_ids, r)[i] = -1, row_of<float>(a.top_logprobs, r)[i] = kNaN;
}

bool is_penalised(const esft_sample_args& a, int64_t r) {
  if (!present(a.seen)) return false;
  const int32_t* at = data<int32_t>(a.seen_offsets) + r;
  return at[1] > at[0] && data<float>(a.repetition_penalty)[r] != 1;
}

// The scratch memory of rows first .. first + n.
int64_t bytes_of(const esft_sample_args& a, int64_t first, int64_t n, int64_t parts) {
  const int64_t V = cols(a.logits), chunks = ceil_div(V, kChunk);
  const int64_t each = V / kBlock * 4 + chunks * int64_t(sizeof(Chunk)) + parts * (kBins + 1) * 8 + 5 * 64;
  int64_t bytes = n * (int64_t(sizeof(Row)) + each) + 64;
  for (int64_t r = first; r < first + n; r++) bytes += is_penalised(a, r) ? round_up(V * 4, 64) : 0;
  return bytes;
}

void sample_rows(const esft_sample_args& a, int64_t first, int64_t n, int64_t parts, char* memory, Context& ctx) {
  const int64_t chunks = ceil_div(cols(a.logits), kChunk);
  Row* all = reinterpret_cast<Row*>(memory);
  memory += round_up(n * int64_t(sizeof(Row)), 64);
  for (int64_t i = 0; i < n; i++) memory = place(all[i], a, first + i, parts, is_penalised(a, first + i), memory);

  const bool serial = n * cols(a.logits) < kSerialElements;
  const auto over = [&](int64_t tasks, auto f) {
    for_chunks(ctx, tasks, 1, serial ? 0 : kSerialElements, [&](int64_t i, int64_t, int) { f(i); });
  };
  const auto chunks_of = [&](int64_t task, auto f) {  // of a part of a row
    Row& row = all[task / parts];
    const int64_t per_part = row.per_part / (kChunk / kBlock), begin = task % parts * per_part;
    for (int64_t c = begin; c < min_of(chunks, begin + per_part); c++) f(row, c);
  };
  over(n * parts, [&](int64_t task) { chunks_of(task, [](Row& row, int64_t c) { read_chunk(row, c); }); });
  over(n, [&](int64_t i) { begin_row(all[i], a, first + i); });
  for (;;) {
    bool any = false;
    for (int64_t i = 0; i < n; i++) any |= all[i].pass != kNone;
    if (!any) break;
    over(n * parts, [&](int64_t task) {
      if (all[task / parts].pass != kNone) count_part(all[task / parts], task % parts);
    });
    over(n, [&](int64_t i) {
      if (all[i].pass != kNone) narrow(all[i]);
    });
  }
  over(n * parts, [&](int64_t task) {
    if (all[task / parts].temperature > 0) chunks_of(task, [](Row& row, int64_t c) { weigh_chunk(row, c); });
  });
  over(n, [&](int64_t i) {
    Row& row = all[i];
    if (row.temperature > 0) choose(row);
    data<int32_t>(a.ids)[first + i] = row.id;
    data<float>(a.logprob)[first + i] = row.id < 0 ? kNaN : float(double(row.logits[row.id]) - double(row.raw_top) - row.log_sum);
  });
}

}  // namespace

// Some rows at a time: their scratch memory stays small, however many there are.
void sample(const esft_sample_args& a, Context& ctx) {
  const int64_t R = rows(a.logits), V = cols(a.logits), threads = ctx.threads(), group = max_of(16, 2 * threads);
  check_sample_values(a);
  const bool whole = R * V < kSerialElements;
  const int64_t parts = whole ? 1 : max_of(1, min_of(ceil_div(threads, max_of(R, 1)), ceil_div(V, kLeastPart)));
  int64_t most = 0;
  for (int64_t r = 0; r < R; r += group) most = max_of(most, bytes_of(a, r, min_of(group, R - r), parts));
  char* memory = static_cast<char*>(ctx.shared_scratch(most));
  for (int64_t r = 0; r < R; r += group) sample_rows(a, r, min_of(group, R - r), parts, memory, ctx);
}

}  // namespace esft::cpu::ESFT_ISA
