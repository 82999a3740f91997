// How sample (contract: ops/sample.h) finds what top_k and top_p keep: weights, the state of a row, and a radix selection in three rounds
// over the bits of integers in the order of the floats. A round adds up counts (top_k) or weights (top_p) in 2048 bins and finds the
// one in which the bound falls; the next one looks into that bin. Blocks of 64 logits whose maximum lies below what is sought are passed
// over unread: with top_k nearly all.
#pragma once
#include "rows.h"

namespace esft::cpu::ESFT_ISA {

namespace {  // sample.cc alone includes it

using namespace sampling;

constexpr float kInf = __builtin_inff(), kNaN = __builtin_nanf("");
constexpr int64_t kBlock = 64, kChunk = 4096, kLeastPart = 16384;
constexpr int kBins = 2048;
constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};  // of the three rounds

typedef uint64_t vq __attribute__((vector_size(W * 4)));  // W/2 lanes
typedef unsigned __int128 u128;

// Integers in the order of the floats, −0 and 0 alike.
ESFT_INLINE vu keys(vf x) {
  const vi i = as_i(x + vf{});
  return (vu)(i ^ ((i >> 31) | int32_t(0x80000000)));
}
ESFT_INLINE float value_of(uint32_t key) {
  const uint32_t u = key >> 31 ? key & 0x7fffffffu : ~key;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

// The weights of the contract, of the even and of the odd lanes.
struct Weights {
  vq even, odd;
  ESFT_INLINE uint64_t lane(const Weights& w, int i) { return i % 2 ? w.odd[i / 2] : w.even[i / 2]; }
};
ESFT_INLINE Weights weights(vf z, float top, float temperature, vi kept) {
  vf x = (z - splat(top)) / splat(temperature);
  kept &= x >= splat(kExpLowest);
  x = vmax(x, splat(kExpLowest));
  const vf s = x * splat(kExpLog2) + splat(kExpRound), n = s - splat(kExpRound);
  const vf r = (x - n * splat(kExpHigh)) - n * splat(kExpLow);
  vf p = splat(kExp5);
  p = p * r + splat(kExp4);
  p = p * r + splat(kExp3);
  p = p * r + splat(kExp2);
  p = p * r + splat(kExp1);
  p = p * r + splat(kExp0);
  const vu e = (vu)(p * r * r + r + splat(1.0f));
  // e · 2^(43 + n) of a number with 23 bits behind its point and an exponent of its own, biased by 127.
  const vq m = (vq)(((e & 0x7fffff) | 0x800000) & (vu)kept);
  const vq down = (vq)(127 - (e >> 23) - (vu)(as_i(s) - as_i(splat(kExpRound))));
  constexpr int kUp = kWeightBits - 23;
  return {((m & 0xffffffff) << kUp) >> (down & 0xffffffff), ((m >> 32) << kUp) >> (down >> 32)};
}
ESFT_INLINE uint64_t weight_of(float z, float top, float temperature) {
  return weights(splat(z), top, temperature, vi{} == vi{}).even[0];
}

ESFT_INLINE vf load_row(const float* x, int64_t n) {
  if (n >= W) return load(x);
  vf v = splat(-kInf);
  for (int64_t i = 0; i < n; i++) v[i] = x[i];
  return v;
}
ESFT_INLINE vi lanes_from(int64_t first) {
  vi v;
  for (int i = 0; i < W; i++) v[i] = i;
  return v + int32_t(first);
}

struct Chunk {
  double sum;  // of exp(logit − top); NaN: a logit is NaN or +inf
  uint64_t weight;
  float top;
};

enum Pass { kNone, kCount, kWeight };  // what a selection adds up: tokens (top_k) or their weights (top_p)

struct Row {
  const float *logits, *z;
  float *copy, *maxima;  // copy: z where the penalty changes something, or nullptr
  Chunk* chunks;
  uint64_t* bins;  // [parts][kBins + 1], the last for what lies below the floor
  int64_t V, blocks, parts, per_part;
  float temperature, top_p, min_p, top, raw_top;
  double u, log_sum;
  int64_t top_k;
  float weightless;  // below it all weights are 0
  // Kept so far: z > cut, or z == cut and id <= last.
  float cut;
  int64_t last;
  // The selection: its round, the bits that are known of the bound (which is not below `floor`), what lies above them, what is sought.
  Pass pass;
  int round;
  uint32_t prefix;
  float floor;
  uint64_t above, target;
  int32_t id;
};

// z at which (z − top) / temperature is at least `x` less a margin, rounded down.
float reaches(const Row& row, double x) {
  const double b = double(row.top) + double(row.temperature) * (x - 0.01);
  const float f = float(b);
  return double(f) > b ? __builtin_nextafterf(f, -kInf) : f;
}

// A bound that at least n of the row's values reach, from the maxima of its blocks. bins: kBins of them.
float reached_by(const Row& row, int64_t n, uint64_t* bins) {
  if (n > row.blocks) return -kInf;
  memset(bins, 0, kBins * 8);
  for (int64_t b = 0; b < row.blocks; b++) bins[keys(splat(row.maxima[b]))[0] >> kShift[0]]++;
  int bin = kBins;
  for (uint64_t found = 0; found < uint64_t(n);) found += bins[--bin];
  const uint32_t key = uint32_t(bin) << kShift[0], lowest = 0x007fffff;  // of −inf
  return key <= lowest ? -kInf : value_of(key);
}

int64_t find_equal(const Row& row, float value, uint64_t nth) {
  for (int64_t b = 0; b < row.blocks; b++)
    if (row.maxima[b] >= value)
      for (int64_t i = b * kBlock; i < min_of(row.V, (b + 1) * kBlock); i++)
        if (row.z[i] == value && --nth == 0) return i;
  return row.V - 1;
}

void begin_pass(Row& row, Pass pass) {
  row.pass = pass;
  row.round = 0, row.prefix = 0, row.above = 0;
  if (pass == kCount) {
    row.target = uint64_t(row.top_k);
    row.floor = reached_by(row, row.top_k, row.bins);
  } else if (pass == kWeight) {
    // What weighs less than (1 − p) / V of the heaviest: all like it together weigh less than what top_p leaves out.
    const float low = reaches(row, __builtin_log((1.0 - double(row.top_p)) / double(row.V)) - 1);
    row.floor = row.cut > low ? row.cut : low;
  }
}

// Lanes of the vector at i that are kept so far; of those beyond the row none, since they are -inf and last < V.
ESFT_INLINE vi kept_lanes(const Row& row, vf z, int64_t i) {
  return (z > splat(row.cut)) | ((z == splat(row.cut)) & (lanes_from(i) <= int32_t(row.last)));
}

// One round over a part of the row.
void count_part(const Row& row, int64_t part) {
  uint64_t* bins = row.bins + part * (kBins + 1);
  memset(bins, 0, (kBins + 1) * 8);
  const bool weigh = row.pass == kWeight, first = row.round == 0;
  const int shift = kShift[row.round];
  // Sought are those from `floor` on; the first round of weights needs the sum of the others too.
  const float rest = row.cut > row.weightless ? row.cut : row.weightless, least = weigh && first ? rest : row.floor;
  vq below = {};
  const int64_t end = min_of(row.blocks, (part + 1) * row.per_part);
  for (int64_t b = part * row.per_part; b < end; b++) {
    if (!(row.maxima[b] >= least)) continue;
    for (int64_t i = b * kBlock; i < min_of(row.V, (b + 1) * kBlock); i += W) {
      const vf z = load_row(row.z + i, row.V - i);
      const vu key = keys(z);
      vi kept = kept_lanes(row, z, i);
      vi sought = kept & (first ? z >= splat(row.floor) : (vi)((key >> (shift + kBits[row.round])) == row.prefix));
      uint32_t bits = lane_bits(sought);
      Weights w = {};
      if (weigh && (bits || first)) {
        w = weights(z, row.top, row.temperature, kept);
        const vq even = (vq)((vu)sought) << 32 >> 32, odd = (vq)((vu)sought) >> 32;
        below += (even == 0 ? w.even : vq{}) + (odd == 0 ? w.odd : vq{});
      }
      for (; bits; bits &= bits - 1) {
        const int lane = __builtin_ctz(bits);
        bins[(key[lane] >> shift) & ((1u << kBits[row.round]) - 1)] += weigh ? Weights::lane(w, lane) : 1;
      }
    }
  }
  for (int i = 0; i < W / 2; i++) bins[kBins] += below[i];
}

// From the bins of a round to the next one, or to the selection's end.
void narrow(Row& row) {
  const int bits = kBits[row.round], count = 1 << bits;
  for (int64_t part = 1; part < row.parts; part++)
    for (int i = 0; i <= kBins; i++) row.bins[i] += row.bins[part * (kBins + 1) + i];
  if (row.pass == kWeight && row.round == 0) {
    uint64_t sum = row.bins[kBins];
    for (int i = 0; i < count; i++) sum += row.bins[i];
    const u128 share = u128(uint64_t(double(row.top_p) * 18446744073709551616.0)) * sum;
    row.target = uint64_t(share >> 64) + (uint64_t(share) != 0);
    if (row.target == 0) row.target = 1;
  }
  int bin = count - 1;
  while (bin > 0 && row.above + row.bins[bin] < row.target) row.above += row.bins[bin--];
  row.prefix = row.prefix << bits | uint32_t(bin);
  if (++row.round < 3) {
    const uint32_t lowest = row.prefix << kShift[row.round - 1];
    const float floor = lowest <= 0x007fffff ? -kInf : value_of(lowest);
    row.floor = floor > row.floor ? floor : row.floor;
    return;
  }
  // The bound itself: so many of the tokens that equal it stay.
  const float value = value_of(row.prefix);
  const uint64_t each = row.pass == kWeight ? weight_of(value, row.top, row.temperature) : 1;
  const uint64_t wanted = row.target - row.above, take = each ? (wanted + each - 1) / each : 1;
  if (take * each < row.bins[bin])
    row.last = find_equal(row, value, take);
  else if (!(value == row.cut))
    row.last = row.V - 1;
  row.cut = value;
  begin_pass(row, row.pass == kCount && row.top_p < 1 ? kWeight : kNone);
}

}  // namespace

}  // namespace esft::cpu::ESFT_ISA
