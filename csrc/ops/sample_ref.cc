// Sampling as written in the contract. Compiled without products and sums in one: the weights are exact by definition.
#include <algorithm>
#include <limits>
#include <vector>

#include "ref_math.h"

namespace esft {
using namespace ref;
using namespace sampling;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kTwo64 = 18446744073709551616.0;
typedef unsigned __int128 u128;

uint64_t weight(float x) {
  if (x < kExpLowest) return 0;
  const float s = x * kExpLog2 + kExpRound, n = s - kExpRound;
  const float r = (x - n * kExpHigh) - n * kExpLow;
  float p = kExp5;
  for (float c : {kExp4, kExp3, kExp2, kExp1, kExp0}) p = p * r + c;
  const float e = p * r * r + r + 1.0f;
  return uint64_t(std::ldexp(double(e), kWeightBits + int(n)));
}

bool legal(const std::vector<float>& z) {
  bool any = false;
  for (float x : z) {
    if (!(x < kInf)) return false;
    any |= x > -kInf;
  }
  return any;
}

std::vector<int32_t> ordered(const std::vector<float>& z) {
  std::vector<int32_t> order(z.size());
  for (size_t i = 0; i < z.size(); i++) order[i] = int32_t(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) { return z[i] > z[j]; });
  return order;
}

float option(const esft_tensor& t, int64_t r, float off) { return present(t) ? data<float>(t)[r] : off; }

// The token of row r with temperature > 0.
int32_t draw(const esft_sample_args& a, int64_t r, const std::vector<float>& z, const std::vector<int32_t>& order) {
  const float top = z[order[0]], temperature = data<float>(a.temperature)[r];
  std::vector<uint64_t> w(z.size());
  for (size_t i = 0; i < z.size(); i++) w[i] = weight((z[i] - top) / temperature);
  size_t kept = z.size();
  const int32_t k = present(a.top_k) ? data<int32_t>(a.top_k)[r] : 0;
  if (k) kept = std::min(kept, size_t(k));
  const float p = option(a.top_p, r, 1);
  if (p < 1) {
    uint64_t sum = 0, before = 0;
    for (size_t i = 0; i < kept; i++) sum += w[order[i]];
    const u128 share = u128(uint64_t(p * kTwo64)) * sum;
    const uint64_t limit = uint64_t(share >> 64) + (uint64_t(share) != 0);
    size_t i = 0;
    do before += w[order[i++]];
    while (i < kept && before < limit);
    kept = i;
  }
  const uint64_t least = uint64_t(std::ceil(std::ldexp(double(option(a.min_p, r, 0)), kWeightBits)));
  std::vector<char> stays(z.size());
  uint64_t sum = 0, upto = 0;
  for (size_t i = 0; i < kept; i++)
    if (w[order[i]] >= least) stays[order[i]] = 1, sum += w[order[i]];
  const uint64_t target = uint64_t(u128(uint64_t(data<double>(a.u)[r] * kTwo64)) * sum >> 64);
  size_t id = 0;
  while (upto += stays[id] ? w[id] : 0, upto <= target) id++;
  return int32_t(id);
}

}  // namespace

void ref_sample(const esft_sample_args& a) {
  check_sample_values(a);
  const int64_t R = rows(a.logits), V = cols(a.logits), N = present(a.top_ids) ? cols(a.top_ids) : 0;
  for (int64_t r = 0; r < R; r++) {
    const std::vector<float> raw(f32_row(a.logits, r), f32_row(a.logits, r) + V);
    std::vector<float> z = raw;
    if (present(a.seen)) {
      const float penalty = data<float>(a.repetition_penalty)[r];
      const int32_t* at = data<int32_t>(a.seen_offsets) + r;
      for (int32_t i = at[0]; i < at[1]; i++) {
        const int32_t id = data<int32_t>(a.seen)[i];
        z[id] = raw[id] > 0 ? raw[id] / penalty : raw[id] * penalty;
      }
    }
    const bool good = legal(raw) && legal(z);
    int32_t id = -1;
    double top = 0, log_sum = std::numeric_limits<double>::quiet_NaN();
    if (good) {
      const std::vector<int32_t> order = ordered(z);
      id = option(a.temperature, r, 0) > 0 ? draw(a, r, z, order) : order[0];
      top = *std::max_element(raw.begin(), raw.end());
      double sum = 0;
      for (float x : raw) sum += std::exp(x - top);
      log_sum = std::log(sum);
    }
    data<int32_t>(a.ids)[r] = id;
    data<float>(a.logprob)[r] = float((good ? raw[id] - top : 0) - log_sum);
    const std::vector<int32_t> order = good && N ? ordered(raw) : std::vector<int32_t>(size_t(N), -1);
    for (int64_t i = 0; i < N; i++) {
      data<int32_t>(a.top_ids)[r * a.top_ids.ld + i] = order[i];
      f32_row(a.top_logprobs, r)[i] = float((good ? raw[order[i]] - top : 0) - log_sum);
    }
  }
}

}  // namespace esft
