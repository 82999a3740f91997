// sample: a block per 4096 logits of a row. Each launch is one pass over the rows, at whose end the last block of each row decides
// what the next one looks for: read (highest logit, sum for logprob, N highest, penalty), with a penalty the highest again, three rounds
// of selection for top_k and for top_p, sums of the kept weights and the token. Rows that need no more leave at once; with few rows a
// launch is what a pass costs. Counts and weights are integers: atomics in any order give the same bits.
#include "index_check.cuh"
#include "sample.cuh"

namespace esft::cuda {

namespace {

using namespace sampling;

__device__ __forceinline__ void report_number(const SampleParams& p, FaultArgument argument, int row, double x) {
  report_fault(p.faults, kBadNumber, ESFT_OP_sample, argument, row, __double_as_longlong(x), 0);
}
__device__ __forceinline__ bool finite_number(float x) { return x - x == 0; }

// The settings of a row; false, and a fault, if one is out of range.
__device__ bool read_settings(const SampleParams& p, int row, SampleRow& s) {
  s.temperature = p.temperature ? p.temperature[row] : 0.0f;
  s.top_p = p.top_p ? p.top_p[row] : 1.0f;
  s.min_p = p.min_p ? p.min_p[row] : 0.0f;
  s.top_k = p.top_k ? p.top_k[row] : 0;
  const double u = p.u ? p.u[row] : 0.0;
  const float penalty = p.penalty ? p.penalty[row] : 1.0f;
  bool good = true;
  const auto expect = [&](bool met, FaultArgument argument, double x) {
    if (!met) report_number(p, argument, row, x), good = false;
  };
  expect(s.temperature >= 0 && finite_number(s.temperature), kArgTemperature, s.temperature);
  expect(u >= 0 && u < 1, kArgU, u);
  if (p.top_k) good = index_ok(p.faults, ESFT_OP_sample, kArgTopK, row, s.top_k, int64_t(1) << 31) && good;
  expect(s.top_p >= 0 && s.top_p <= 1, kArgTopP, s.top_p);
  expect(s.min_p >= 0 && s.min_p <= 1, kArgMinP, s.min_p);
  expect(penalty > 0 && finite_number(penalty), kArgRepetitionPenalty, penalty);
  return good;
}

// The row's seen ids, none where the offsets are wrong.
struct SeenRange {
  int64_t begin, end;
};
__device__ __forceinline__ SeenRange seen_of(const SampleParams& p, int row) {
  if (!p.penalty || p.penalty[row] == 1.0f) return {0, 0};
  const int64_t begin = p.seen_offsets[row], end = p.seen_offsets[row + 1];
  return begin < 0 || end > p.seen_count || begin > end ? SeenRange{0, 0} : SeenRange{begin, end};
}

// By one thread. id < 0: the row has no token.
__device__ void finish_row(const SampleParams& p, int row, const SampleRow& s, int id) {
  p.ids[row] = id;
  p.logprob[row] = id < 0 ? bits_to_float(0x7fc00000u) : float(double(p.logits[row * p.logits_ld + id]) - s.raw_top - s.log_sum);
  for (int i = 0; id < 0 && i < p.N; i++) {
    p.top_ids[row * p.top_ids_ld + i] = -1;
    p.top_logprobs[row * p.top_logprobs_ld + i] = bits_to_float(0x7fc00000u);
  }
}

// By one thread, once z is final: the greedy token, or what the next launches look for.
__device__ void start_row(const SampleParams& p, int row, SampleRow& s, u64 best) {
  s.top = top_of(best);
  s.pass = kPassNone;
  s.draws = 0;
  const bool possible = s.top > -__builtin_inff() && s.top < __builtin_inff();
  if (!possible || !(s.temperature > 0)) {
    finish_row(p, row, s, possible ? id_of(best) : -1);
  } else {
    s.draws = 1;
    s.cut = -__builtin_inff(), s.last = p.V - 1;
    s.round = 0, s.prefix = 0, s.above = 0, s.target = u64(s.top_k);
    s.floor = -__builtin_inff();
    s.pass = s.top_k > 0 && s.top_k < p.V ? kPassCount : s.top_p < 1 ? kPassWeight : kPassNone;
    // What weighs less than (1 − p) / V of the heaviest, all like it together, is less than what top_p leaves out; with a margin.
    if (s.top_p < 1) {
      const double low = double(s.top) + double(s.temperature) * (log((1.0 - double(s.top_p)) / p.V) - 1.01);
      const float floor = float(low);
      s.floor = floor - fabsf(floor) * 1e-6f;
    }
  }
  p.rows[row] = s;
}

// The N highest logits from those of each chunk. By the block.
__device__ void merge_top(const SampleParams& p, int row, const SampleRow& s, u64* scratch) {
  const u64* ranks = p.ranks + int64_t(row) * p.count * p.N;
  u64 last = ~u64(0);
  for (int n = 0; n < p.N; n++) {
    u64 best = 0;
    for (int i = threadIdx.x; i < p.count * p.N; i += kSampleThreads) {
      const u64 rank = __ldcg(ranks + i);
      if (rank < last) best = max_of(best, rank);
    }
    last = block_best(best, scratch);
    if (threadIdx.x != 0) continue;
    p.top_ids[row * p.top_ids_ld + n] = id_of(last);
    p.top_logprobs[row * p.top_logprobs_ld + n] = float(double(top_of(last)) - s.raw_top - s.log_sum);
  }
}

__global__ void __launch_bounds__(kSampleThreads) read_rows(const EarlyStart early, const SampleParams p) {
  early.wait();
  ESFT_SHARED(smem);
  u64* scratch = reinterpret_cast<u64*>(smem);  // [warps]
  double* doubles = reinterpret_cast<double*>(scratch + kSampleWarps);  // [warps]
  const int row = blockIdx.x / p.count, chunk = blockIdx.x % p.count, first = chunk * kSampleChunk + threadIdx.x;
  const float* logits = p.logits + row * p.logits_ld;
  const SeenRange seen = seen_of(p, row);

  float x[kSamplePer];
  u64 best = 0;
#pragma unroll
  for (int i = 0; i < kSamplePer; i++) {
    const int id = first + i * kSampleThreads;
    x[i] = id < p.V ? logits[id] : -__builtin_inff();
    if (id < p.V) best = max_of(best, x[i] < __builtin_inff() ? rank_of(x[i], id) : ~u64(0));
    if (id < p.V && seen.end > seen.begin) p.z[int64_t(row) * p.V + id] = x[i];
  }
  best = block_best(best, scratch);
  const float top = top_of(best);
  float sum = 0;
  if (top > -__builtin_inff() && ~best)
#pragma unroll
    for (int i = 0; i < kSamplePer; i++) sum += expf(x[i] - top);
  const double all = block_sum(double(sum), doubles);
  if (threadIdx.x == 0) p.chunks[blockIdx.x] = {all, best, 0};
  u64 last = ~u64(0);
  for (int n = 0; ~best && n < p.N; n++) {
    u64 next = 0;
#pragma unroll
    for (int i = 0; i < kSamplePer; i++) {
      const int id = first + i * kSampleThreads;
      const u64 rank = id < p.V ? rank_of(x[i], id) : 0;
      if (rank < last) next = max_of(next, rank);
    }
    last = block_best(next, scratch);
    if (threadIdx.x == 0) p.ranks[int64_t(blockIdx.x) * p.N + n] = last;
  }
  if (!last_of_row(p, row, scratch)) return;

  const SampleChunk* chunks = p.chunks + int64_t(row) * p.count;
  const bool mine = int(threadIdx.x) < p.count;
  const u64 own = mine ? __ldcg(&chunks[threadIdx.x].rank) : 0;
  best = block_best(own, scratch);
  SampleRow s = {};
  s.raw_top = top_of(best);
  bool good = ~best && s.raw_top > -__builtin_inff();
  const bool adds = good && mine && top_of(own) > -__builtin_inff();
  s.log_sum = log(block_sum(adds ? __ldcg(&chunks[threadIdx.x].sum) * exp(double(top_of(own)) - double(s.raw_top)) : 0.0, doubles));
  if (good && p.N) merge_top(p, row, s, scratch);
  if (threadIdx.x == 0) scratch[0] = read_settings(p, row, s);
  __syncthreads();
  good = scratch[0] != 0 && good;
  __syncthreads();
  for (int64_t i = seen.begin + threadIdx.x; i < seen.end; i += kSampleThreads) {
    const int32_t id = p.seen[i];
    if (!index_ok(p.faults, ESFT_OP_sample, kArgSeen, i, id, p.V)) continue;
    const float raw = logits[id], penalty = p.penalty[row];
    p.z[int64_t(row) * p.V + id] = raw > 0 ? __fdiv_rn(raw, penalty) : __fmul_rn(raw, penalty);
  }
  if (threadIdx.x != 0) return;
  s.penalised = good && seen.end > seen.begin;
  if (s.penalised)
    p.rows[row] = s;
  else
    start_row(p, row, s, good ? best : 0);
}

// The highest z of the rows that were penalised.
__global__ void __launch_bounds__(kSampleThreads) read_penalised(const EarlyStart early, const SampleParams p) {
  early.wait();
  ESFT_SHARED(smem);
  u64* scratch = reinterpret_cast<u64*>(smem);  // [warps]
  const int row = blockIdx.x / p.count, first = blockIdx.x % p.count * kSampleChunk + threadIdx.x;
  if (!p.rows[row].penalised) return;
  const float* z = p.z + int64_t(row) * p.V;
  u64 best = 0;
#pragma unroll
  for (int i = 0; i < kSamplePer; i++) {
    const int id = first + i * kSampleThreads;
    if (id < p.V) best = max_of(best, rank_of(z[id], id));
  }
  best = block_best(best, scratch);
  if (threadIdx.x == 0) p.chunks[blockIdx.x].rank = best;
  if (!last_of_row(p, row, scratch)) return;
  const SampleChunk* chunks = p.chunks + int64_t(row) * p.count;
  best = block_best(int(threadIdx.x) < p.count ? __ldcg(&chunks[threadIdx.x].rank) : 0, scratch);
  if (threadIdx.x != 0) return;
  SampleRow s = p.rows[row];
  start_row(p, row, s, best);
}

// The id of the nth z that equals `value`; V - 1 where there are fewer. By the block; out: shared.
__device__ int find_equal(const SampleParams& p, const float* z, float value, u64 nth, u64* scratch, int* out) {
  if (threadIdx.x == 0) *out = p.V - 1;
  __syncthreads();
  u64 before = 0;
  for (int base = 0; base < p.V && before < nth; base += kSampleChunk) {
    const int begin = base + int(threadIdx.x) * kSamplePer, end = min_of(p.V, begin + kSamplePer);
    u64 mine = 0, all;
    for (int id = begin; id < end; id++) mine += z[id] == value;
    u64 upto = before + block_prefix(mine, scratch, all);
    if (upto >= nth && upto - mine < nth)
      for (int id = end - 1; id >= begin; id--)
        if (z[id] == value && upto-- == nth) *out = id;
    before += all;
  }
  __syncthreads();
  return *out;
}

// From the bins of a round to the next one, or to the selection's end. By the block.
__device__ void narrow(const SampleParams& p, int row, SampleRow s, u64* scratch, u64* found) {
  u64* bins = p.bins + int64_t(row) * (kSampleBins + 1);
  constexpr int kMine = kSampleBins / kSampleThreads;
  const int first = kSampleBins - 1 - int(threadIdx.x) * kMine;  // the thread's bins, downwards
  u64 mine = 0, total;
  for (int i = 0; i < kMine; i++) mine += __ldcg(bins + first - i);
  u64 upto = block_prefix(mine, scratch, total);
  const bool weigh = s.pass == kPassWeight;
  if (weigh && s.round == 0) {
    const u64 sum = total + __ldcg(bins + kSampleBins), share = fraction_of(s.top_p);
    s.target = max_of(__umul64hi(share, sum) + (share * sum != 0), u64(1));
  }
  if (threadIdx.x == 0) found[0] = 0, found[1] = s.above, found[2] = 0;
  __syncthreads();
  upto += s.above;
  if (upto >= s.target && upto - mine < s.target) {
    u64 above = upto - mine;
    int bin = first;
    while (above + __ldcg(bins + bin) < s.target) above += __ldcg(bins + bin--);
    found[0] = u64(bin), found[1] = above, found[2] = __ldcg(bins + bin);
  }
  __syncthreads();
  for (int i = 0; i < kMine; i++) bins[first - i] = 0;
  if (threadIdx.x == 0) bins[kSampleBins] = 0;
  s.prefix = s.prefix << bits_of(s.round) | uint32_t(found[0]);
  s.above = found[1];
  const u64 inside = found[2];
  if (++s.round == kSampleRounds) {
    const float value = value_of(s.prefix);
    const u64 each = weigh ? weight_of(value, s.top, s.temperature) : 1, wanted = s.target - s.above;
    const u64 take = each ? (wanted + each - 1) / each : 1;
    if (take * each < inside)
      s.last = find_equal(p, row_z(p, s, row), value, take, scratch, reinterpret_cast<int*>(found + 3));
    else if (!(value == s.cut))
      s.last = p.V - 1;
    s.cut = value;
    s.pass = !weigh && s.top_p < 1 ? kPassWeight : kPassNone;
    s.round = 0, s.prefix = 0, s.above = 0;
  }
  if (threadIdx.x == 0) p.rows[row] = s;
}

__device__ __forceinline__ bool kept(const SampleRow& s, float z, int id) { return z > s.cut || (z == s.cut && id <= s.last); }

// One round of the selection that a row is in. Shared memory adds 64 bits as two atomics of 32: those of 64 are loops there.
__global__ void __launch_bounds__(kSampleThreads) count_bins(const EarlyStart early, const SampleParams p) {
  early.wait();
  ESFT_SHARED(smem);
  u64* scratch = reinterpret_cast<u64*>(smem);  // [warps]
  u64* found = scratch + kSampleWarps;  // [4]
  uint32_t* low = reinterpret_cast<uint32_t*>(found + 4);  // [bins]
  uint32_t* high = low + kSampleBins;  // [bins]
  const int row = blockIdx.x / p.count, begin = blockIdx.x % p.count * kSampleChunk + threadIdx.x;
  const SampleRow s = p.rows[row];
  if (s.pass == kPassNone) return;
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads) low[i] = high[i] = 0;
  __syncthreads();
  const float* z = row_z(p, s, row);
  const bool weigh = s.pass == kPassWeight;
  const int shift = shift_of(s.round), bits = bits_of(s.round);
  u64 below = 0;
  for (int i = 0; i < kSamplePer; i++) {
    const int id = begin + i * kSampleThreads;
    if (id >= p.V) break;
    const float x = z[id];
    if (!kept(s, x, id)) continue;
    const uint32_t key = key_of(x);
    if (s.round > 0 && key >> (shift + bits) != s.prefix) continue;
    const u64 amount = weigh ? weight_of(x, s.top, s.temperature) : 1;
    if (weigh && s.round == 0 && x < s.floor) {
      below += amount;
      continue;
    }
    const uint32_t bin = key >> shift & ((1u << bits) - 1), add = uint32_t(amount);
    const uint32_t more = uint32_t(amount >> 32) + (atomicAdd(&low[bin], add) > ~add);
    if (more) atomicAdd(&high[bin], more);
  }
  below = block_sum(below, scratch);
  u64* bins = p.bins + int64_t(row) * (kSampleBins + 1);
  if (threadIdx.x == 0 && below) atomicAdd(bins + kSampleBins, below);
  for (int i = threadIdx.x; i < kSampleBins; i += kSampleThreads)
    if (low[i] | high[i]) atomicAdd(bins + i, u64(high[i]) << 32 | low[i]);
  if (last_of_row(p, row, scratch)) narrow(p, row, s, scratch, found);
}

// The weight that a token is drawn with.
__device__ __forceinline__ u64 drawn_weight(const SampleRow& s, float z, int id, u64 least) {
  const u64 w = kept(s, z, id) ? weight_of(z, s.top, s.temperature) : 0;
  return w >= least ? w : 0;
}

__global__ void __launch_bounds__(kSampleThreads) draw_tokens(const EarlyStart early, const SampleParams p) {
  early.wait();
  ESFT_SHARED(smem);
  u64* scratch = reinterpret_cast<u64*>(smem);  // [warps]
  u64* found = scratch + kSampleWarps;  // [2]
  const int row = blockIdx.x / p.count, chunk = blockIdx.x % p.count, begin = chunk * kSampleChunk + threadIdx.x;
  const SampleRow s = p.rows[row];
  if (!s.draws) return;
  const float* z = row_z(p, s, row);
  const u64 least = u64(ceil(double(s.min_p) * double(u64(1) << kWeightBits)));
  u64 sum = 0;
#pragma unroll 4
  for (int i = 0; i < kSamplePer; i++) {
    const int id = begin + i * kSampleThreads;
    if (id < p.V) sum += drawn_weight(s, z[id], id, least);
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) p.chunks[blockIdx.x].weight = sum;
  if (!last_of_row(p, row, scratch)) return;

  // The chunk in which the sum passes the target, then the token.
  const SampleChunk* chunks = p.chunks + int64_t(row) * p.count;
  u64 mine = int(threadIdx.x) < p.count ? __ldcg(&chunks[threadIdx.x].weight) : 0, total;
  u64 upto = block_prefix(mine, scratch, total);
  const u64 target = __umul64hi(fraction_of(p.u[row]), total);
  if (upto > target && upto - mine <= target) found[0] = threadIdx.x, found[1] = upto - mine;
  __syncthreads();
  const int first = int(found[0]) * kSampleChunk + int(threadIdx.x) * kSamplePer, end = min_of(p.V, first + kSamplePer);
  mine = 0;
  for (int id = first; id < end; id++) mine += drawn_weight(s, z[id], id, least);
  u64 unused;
  upto = found[1] + block_prefix(mine, scratch, unused);
  if (!(upto > target && upto - mine <= target)) return;
  u64 before = upto - mine;
  for (int id = first; id < end; id++)
    if ((before += drawn_weight(s, z[id], id, least)) > target) return finish_row(p, row, s, id);
}

}  // namespace

void run_sample(const esft_sample_args& a, Context& c) {
  const int64_t R = rows(a.logits), V = cols(a.logits), count = ceil_div(V, int64_t(kSampleChunk));
  if (R == 0) return;
  SampleParams p{};
  const auto floats = [](const esft_tensor& t) { return present(t) ? data<float>(t) : nullptr; };
  const auto ints = [](const esft_tensor& t) { return present(t) ? data<int32_t>(t) : nullptr; };
  p.logits = data<float>(a.logits), p.logits_ld = a.logits.ld;
  p.temperature = floats(a.temperature), p.top_p = floats(a.top_p), p.min_p = floats(a.min_p),
  p.penalty = floats(a.repetition_penalty);
  p.u = present(a.u) ? data<double>(a.u) : nullptr;
  p.top_k = ints(a.top_k), p.seen = ints(a.seen), p.seen_offsets = ints(a.seen_offsets);
  p.ids = data<int32_t>(a.ids), p.logprob = data<float>(a.logprob);
  p.top_ids = ints(a.top_ids), p.top_logprobs = floats(a.top_logprobs);
  p.top_ids_ld = a.top_ids.ld, p.top_logprobs_ld = a.top_logprobs.ld;
  p.faults = c.faults;
  p.V = int32_t(V), p.N = present(a.top_ids) ? int32_t(cols(a.top_ids)) : 0, p.count = int32_t(count);
  p.rows = c.scratch_of<SampleRow>(R);
  p.chunks = c.scratch_of<SampleChunk>(R * count);
  if (p.N) p.ranks = c.scratch_of<u64>(R * count * p.N);
  const int64_t bins = p.temperature ? R * (kSampleBins + 1) : 0;
  p.bins = c.scratch_of<u64>(bins + ceil_div(R, int64_t(2)));
  p.tickets = reinterpret_cast<uint32_t*>(p.bins + bins);
  if (p.penalty) {
    p.z = c.scratch_of<float>(R * V);
    p.seen_count = numel(a.seen);
    check_offsets_on_device(c, ESFT_OP_sample, a.seen_offsets, p.seen_count, kArgSeenOffsets);
  }
  check_cuda(cudaMemsetAsync(p.bins, 0, size_t(bins) * sizeof(u64) + size_t(R) * sizeof(uint32_t), c.stream), "sample");
  const dim3 grid(unsigned(R * count));
  constexpr size_t kScratch = kSampleWarps * sizeof(u64), kFound = 4 * sizeof(u64);
  ESFT_LAUNCH((read_rows), c, grid, kSampleThreads, 2 * kScratch, p);
  if (p.penalty) ESFT_LAUNCH((read_penalised), c, grid, kSampleThreads, kScratch, p);
  const int rounds = (p.top_k ? kSampleRounds : 0) + (p.top_p ? kSampleRounds : 0);
  for (int i = 0; i < rounds; i++)
    ESFT_LAUNCH((count_bins), c, grid, kSampleThreads, kScratch + kFound + 2 * kSampleBins * sizeof(uint32_t), p);
  if (p.temperature) ESFT_LAUNCH((draw_tokens), c, grid, kSampleThreads, kScratch + kFound, p);
}

}  // namespace esft::cuda
