// attention_backward (contract: ops/attention.h): what surrounds its main kernels, and the choice of them: one pass where wgmma serves
// (attention_backward_one_sm90.cu), two if the environment says so (attention_backward_sm90.cu), else two with mma.sync
// (attention_backward_portable.cu).
//
// Bound by the tensor cores, deterministic. In two passes dk, dv and dq each have one owner, so scores and dp are computed twice,
// 2·(4·dq + 3·dv) FLOPs per visible pair and head; in one pass 2·(3·dq + 2·dv), and dq is summed in global memory in a fixed order.
// Launches: the numbers per query (lse, Δ = ⟨dout, out⟩, first key); dsinks from them; dk and dv (and dq); with shared keys the sum of their parts over the
// kv-heads, in order; dq. Scratch: 8 bytes per query and head, 4 per query; parts of shared keys and, in one pass, dq in f32, together
// up to 256 MB at a time, or what one kv-head needs.
#include "attention_backward.cuh"

namespace esft::cuda {

namespace attention {

namespace {

// ---- numbers per query --------------------------------------------------------------------------------------------------

struct RowParams {
  Layout layout;
  const bf16 *dout, *out;
  const float* lse;
  int64_t dout_ld, out_ld, lse_ld;
  float *minus_lse2, *minus_delta;
  int32_t* first;
  uint32_t* bad_order;  // set where first decreases
  int padded, lanes;  // lanes per (token, head): a power of two
  bool vector;
};

// `lanes` lanes per token and head; neighbours take the heads of one token.
__global__ void __launch_bounds__(256) query_numbers(const EarlyStart early, const RowParams p) {
  early.wait();
  const Layout& l = p.layout;
  const int64_t count = int64_t(p.padded) * l.heads, per_block = blockDim.x / p.lanes;
  const int part = int(threadIdx.x) % p.lanes;
  for (int64_t base = blockIdx.x * per_block; base < count; base += gridDim.x * per_block) {
    const int64_t i = base + int(threadIdx.x) / p.lanes;
    const int t = int(i / l.heads), h = int(i % l.heads);
    float sum = 0.f;
    if (t < l.T) {
      const bf16 *const a = p.dout + t * p.dout_ld + int64_t(h) * l.v_dim, *const b = p.out + t * p.out_ld + int64_t(h) * l.v_dim;
      if (p.vector) {
        for (int c = part * 8; c < l.v_dim; c += p.lanes * 8) {
          float x[8], y[8];
          unpack8(load16(a + c), x);
          unpack8(load16(b + c), y);
#pragma unroll
          for (int j = 0; j < 8; j++) sum = fmaf(x[j], y[j], sum);
        }
      } else {
        for (int c = part; c < l.v_dim; c += p.lanes) sum = fmaf(to_float(a[c]), to_float(b[c]), sum);
      }
    }
    for (int step = p.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
    if (part != 0 || i >= count) continue;
    const int64_t at = int64_t(h) * p.padded + t;
    p.minus_delta[at] = -sum;
    p.minus_lse2[at] = t < l.T ? p.lse[t * p.lse_ld + h] * -kLog2e : -INFINITY;
    if (h != 0) continue;
    const int first = t < l.T ? l.first_key(t) : t;
    p.first[t] = first;
    if (t > 0 && t < l.T && first < l.first_key(t - 1)) *p.bad_order = 1;
  }
}

// ---- sinks --------------------------------------------------------------------------------------------------------------

struct SinkParams {
  Sinks sinks;
  const float *minus_lse2, *minus_delta;  // [heads, padded]
  float* dsinks;
  int T, padded;
};

// A block per head: a thread's tokens ascending, then the threads as a fixed tree.
__global__ void __launch_bounds__(256) sum_sinks(const EarlyStart early, const SinkParams p) {
  ESFT_SHARED(smem);
  early.wait();
  const int h = int(blockIdx.x);
  const float *const lse = p.minus_lse2 + int64_t(h) * p.padded, *const delta = p.minus_delta + int64_t(h) * p.padded;
  const float sink = p.sinks.exponent(h);
  float sum = 0.f;
  for (int t = int(threadIdx.x); t < p.T; t += 256) sum = fmaf(ptx::exp2_approx(sink + lse[t]), delta[t], sum);
  sum = block_sum(sum, reinterpret_cast<float*>(smem));
  if (threadIdx.x == 0) p.dsinks[h] += sum;
}

// ---- shared keys --------------------------------------------------------------------------------------------------------

struct SharedSumParams {
  const float* parts;  // [count, T, width]
  float* sum;  // [T, width]: what earlier launches summed
  bf16* out;  // nullptr: more parts follow
  int64_t ld, elements;
  int width, count;
  bool add;  // to `sum`
};

__global__ void __launch_bounds__(256) sum_shared_keys(const EarlyStart early, const SharedSumParams p) {
  early.wait();
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < p.elements; i += int64_t(gridDim.x) * blockDim.x) {
    float x = p.add ? p.sum[i] : 0.f;
    for (int g = 0; g < p.count; g++) x += p.parts[g * p.elements + i];
    if (p.out)
      p.out[i / p.width * p.ld + i % p.width] = from_float<bf16>(x);
    else
      p.sum[i] = x;
  }
}

// Parts of shared keys and sums of dq kept at a time, together.
constexpr int64_t kPartBytes = int64_t(256) << 20;

int lanes_of(int v_dim, bool vector) {
  int lanes = 1;
  while (lanes < 32 && lanes * (vector ? 8 : 1) < v_dim) lanes *= 2;
  return lanes;
}

void launch_query_numbers(const BackwardParams& p, const esft_attention_backward_args& a, Context& c) {
  const Layout& l = p.layout;
  RowParams r{};
  r.layout = l;
  r.dout = p.dout;
  r.out = data<bf16>(a.out);
  r.lse = data<float>(a.lse);
  r.dout_ld = p.dout_ld;
  r.out_ld = a.out.ld;
  r.lse_ld = a.lse.ld;
  r.minus_lse2 = const_cast<float*>(p.minus_lse2);
  r.minus_delta = const_cast<float*>(p.minus_delta);
  r.first = const_cast<int32_t*>(p.first);
  r.bad_order = p.bad_order;
  r.padded = p.padded;
  r.vector = l.vector && in_vectors(a.out, 0, l.v_dim, l.heads, l.v_dim);
  r.lanes = lanes_of(l.v_dim, r.vector);
  const int64_t blocks = ceil_div(int64_t(p.padded) * l.heads * r.lanes, 256);
  ESFT_LAUNCH((query_numbers), c, dim3(unsigned(min_of(blocks, int64_t(c.sms) * 16))), 256, 0, r);
}

}  // namespace

}  // namespace attention

void run_attention_backward(const esft_attention_backward_args& a, Context& c) {
  using namespace attention;
  BackwardParams p{};
  p.layout = layout_of(a, "attention_backward");
  Layout& l = p.layout;
  if (l.T == 0) return;
  const int kv_heads = l.heads / l.group, width = l.qk_dim - l.k_dim;
  l.vector = l.vector && in_vectors(a.dout, 0, l.v_dim, l.heads, l.v_dim);
  p.dout = data<bf16>(a.dout);
  p.dout_ld = a.dout.ld;
  p.padded = int(ceil_div(l.T, kRowPadding) * kRowPadding);
  p.minus_lse2 = c.scratch_of<float>(int64_t(p.padded) * l.heads);
  p.minus_delta = c.scratch_of<float>(int64_t(p.padded) * l.heads);
  p.first = c.scratch_of<int32_t>(p.padded);
  p.scale = float(a.scale);
  p.scale2 = float(a.scale * double(kLog2e));
  p.dq = data<bf16>(a.dq);
  p.dk = data<bf16>(a.dk) + a.k_offset;
  p.dv = data<bf16>(a.dv) + a.v_offset;
  p.dq_ld = a.dq.ld;
  p.dk_ld = a.dk.ld;
  p.dv_ld = a.dv.ld;
  p.dk_stride = l.k_stride;
  p.dv_stride = l.v_stride;
  p.dq_vector = in_vectors(a.dq, 0, l.qk_dim, l.heads, l.qk_dim);
  p.dk_vector = in_vectors(a.dk, a.k_offset, a.k_stride, a.kv_heads, a.k_dim);
  p.dv_vector = in_vectors(a.dv, a.v_offset, a.v_stride, a.kv_heads, a.v_dim);

  // Zeros: turns, a ticket for each launch in one pass, bad_order.
  p.sum_blocks = int(ceil_div(l.T, kSumRows));
  const int64_t turns = int64_t(l.heads) * p.sum_blocks, counters = turns + kv_heads + 1;
  p.turns = c.scratch_of<uint32_t>(counters);
  p.bad_order = p.turns + turns + kv_heads;
  check_cuda(cudaMemsetAsync(p.turns, 0, size_t(counters) * sizeof(uint32_t), c.stream), "attention_backward");

  check_doc_start_on_device(c, ESFT_OP_attention_backward, kArgDocStart, a.doc_start);
  launch_query_numbers(p, a, c);
  if (present(a.dsinks)) {
    const SinkParams s{l.sinks, p.minus_lse2, p.minus_delta, data<float>(a.dsinks), l.T, p.padded};
    ESFT_LAUNCH((sum_sinks), c, dim3(unsigned(l.heads)), 256, 256 / 32 * sizeof(float), s);
  }

  const bool shared = width > 0 && present(a.dk_shared);
  const int64_t part = int64_t(l.T) * width, dq_bytes = int64_t(l.group) * p.sum_blocks * kSumRows * l.qk_dim * 4;
  const bool one_pass = c.attention_one_pass && one_pass_serves(p, a, c);
  const int64_t bytes = max_of(int64_t(1), (shared ? part * 4 : 0) + (one_pass ? dq_bytes : 0));
  const int chunk = int(max_of(int64_t(1), min_of(int64_t(kv_heads), kPartBytes / bytes)));
  if (one_pass) p.dq_sums = c.scratch_of<float>(dq_bytes / 4 * chunk);
  SharedSumParams sum{};
  if (shared) {
    p.shared_parts = c.scratch_of<float>(part * chunk);
    sum.parts = p.shared_parts;
    sum.sum = chunk < kv_heads ? c.scratch_of<float>(part) : nullptr;
    sum.ld = a.dk_shared.ld;
    sum.elements = part;
    sum.width = width;
  }
  for (p.kv_begin = 0; p.kv_begin < kv_heads; p.kv_begin += chunk) {
    const int count = min_of(chunk, kv_heads - p.kv_begin);
    p.ticket = p.turns + turns + p.kv_begin / chunk;
    if (one_pass) {
      backward_one_sm90(p, a, count, c);
      finish_dq_sm90(p, count * l.group, c);
    } else if (!backward_keys_sm90(p, a, count, c)) {
      backward_keys_portable(p, count, c);
    }
    if (!shared) continue;
    sum.count = count;
    sum.add = p.kv_begin > 0;
    sum.out = p.kv_begin + chunk >= kv_heads ? data<bf16>(a.dk_shared) : nullptr;
    ESFT_LAUNCH((sum_shared_keys), c, dim3(unsigned(min_of(ceil_div(part, 256), int64_t(c.sms) * 16))), 256, 0, sum);
  }
  if (!one_pass && !backward_queries_sm90(p, a, c)) backward_queries_portable(p, c);
}

}  // namespace esft::cuda
