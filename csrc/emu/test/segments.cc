// Contractions of more than one segment on Hopper's kernels: low-rank terms beside weights, which lie in one stack or anywhere. Numbers are
// small integers, so that every order of summing gives the same bits.
#include "../../cuda/gemm/gemm_sm90.h"
#include "../../cuda/host/device.h"
#include "harness.h"

namespace esft::emu::test {

using namespace cuda::sm90;

namespace {

constexpr int64_t kExperts = 3, kRows = 152, kIn = 136, kOut = 264, kRank = 24;
constexpr int32_t kOffsets[kExperts + 1] = {0, 131, 131, kRows};

// A matrix of bf16 with its host copy.
struct Matrix {
  int64_t rows, cols;
  std::vector<uint16_t> host;
  Buffer<uint16_t> device;
  Matrix(int64_t rows, int64_t cols, uint32_t seed)
      : rows(rows), cols(cols), host(random_bf16(size_t(rows * cols), seed)), device(host) {}
  float at(int64_t r, int64_t c) const { return bf16_value(host[size_t(r * cols + c)]); }
  // `count` rows from `first` on as a tensor.
  esft_tensor tensor(int64_t first, int64_t count) const {
    esft_tensor t{};
    t.data = device.device + first * cols;
    t.dtype = ESFT_BF16;
    t.rank = 2;
    t.shape[0] = count;
    t.shape[1] = t.ld = cols;
    return t;
  }
};

// The weights of all experts, one after the other, or in another order with a gap: no stack.
struct Weights {
  Matrix all;
  std::vector<esft_tensor> items;
  Weights(int64_t rows, int64_t cols, bool stack, uint32_t seed) : all(4 * rows, cols, seed) {
    for (int64_t e = 0; e < kExperts; e++) items.push_back(all.tensor(first(e, rows, stack), rows));
  }
  static int64_t first(int64_t e, int64_t rows, bool stack) { return (stack ? e : e == 0 ? 3 : e - 1) * rows; }
  float at(int64_t e, bool stack, int64_t r, int64_t c) const { return all.at(first(e, all.rows / 4, stack) + r, c); }
  Operands::Weights operand() const { return {items.data(), kExperts, 1, 0, 1}; }
};

template <class Args>
void set_common(Args& p, const int32_t* offsets, float* out, int64_t columns, cuda::Context& c) {
  p.offsets = offsets;
  p.experts = p.group_count = kExperts;
  p.n = kRows;
  p.faults = c.faults;
  p.op = ESFT_OP_grouped_gemm_nt;
  p.out = {out, columns, 1, 0, 0, 0};
}

int expert_of(int64_t row) { return row < kOffsets[1] ? 0 : 2; }

// y[r] = x[row r] · Wᵀ + u[r] · Bᵀ, x in order or gathered.
bool forward(cuda::CudaDevice& c, bool stack, bool gathered) {
  const Matrix x(kRows, kIn, 1), u(kRows, kRank, 2);
  const Weights w(kOut, kIn, stack, 3), b(kOut, kRank, stack, 4);
  const Buffer<int32_t> offsets(std::vector<int32_t>(kOffsets, kOffsets + kExperts + 1));
  std::vector<int32_t> order;
  for (int64_t r = 0; r < kRows; r++) order.push_back(int32_t(gathered ? (r * 7) % kRows : r));
  const Buffer<int32_t> index(order);
  const Buffer<float> y(size_t(kRows * kOut));
  Arguments<Role::kNt, Epilogue::kStore> p{};
  set_common(p, offsets.device, y.device, kOut, c);
  p.factor = 1;
  p.parts = 1;
  p.part_rows = kOut;
  if (gathered) p.a = {reinterpret_cast<const cuda::bf16*>(x.device.device), kIn, index.device, kRows, cuda::kArgRows};
  Operands operands(c);
  int32_t of_x = -1, of_u;
  constexpr int kBox = Shape<Role::kNt, Epilogue::kStore>::kBoxRows;
  if ((!gathered && !operands.add_a(x.tensor(0, kRows), kTileM, &of_x)) || !operands.add_a(u.tensor(0, kRows), kTileM, &of_u) ||
      !operands.add_segment(&p.contraction, of_x, 0, w.operand(), kIn, kBox) ||
      !operands.add_segment(&p.contraction, of_u, 0, b.operand(), kRank, kBox))
    return false;
  if ((p.contraction.segments[0].table == nullptr) != stack) return false;
  launch(operands.maps, p, Tiling::kWide, 3, c);
  c.synchronize();
  const std::vector<float> got = y.host();
  for (int64_t r = 0; r < kRows; r++) {
    for (int64_t o = 0; o < kOut; o++) {
      float want = 0;
      for (int64_t k = 0; k < kIn; k++) want += x.at(order[size_t(r)], k) * w.at(expert_of(r), stack, o, k);
      for (int64_t k = 0; k < kRank; k++) want += u.at(r, k) * b.at(expert_of(r), stack, o, k);
      if (got[size_t(r * kOut + o)] != want) return false;
    }
  }
  return true;
}

// dx[r] = dy[r] · W + du[r] · A, dy and du side by side in one matrix.
bool backward(cuda::CudaDevice& c, bool stack) {
  const Matrix dy(kRows, kOut + kRank, 5);
  const Weights w(kOut, kIn, stack, 6), a(kRank, kIn, stack, 7);
  const Buffer<int32_t> offsets(std::vector<int32_t>(kOffsets, kOffsets + kExperts + 1));
  const Buffer<float> dx(size_t(kRows * kIn));
  Arguments<Role::kNn, Epilogue::kStore> p{};
  p.factor = 1;
  set_common(p, offsets.device, dx.device, kIn, c);
  p.columns = kIn;
  Operands operands(c);
  int32_t of_dy;
  constexpr int kBox = Shape<Role::kNn, Epilogue::kStore>::kBoxRows;
  if (!operands.add_a(dy.tensor(0, kRows), kTileM, &of_dy) ||
      !operands.add_segment(&p.contraction, of_dy, 0, w.operand(), kOut, kBox) ||
      !operands.add_segment(&p.contraction, of_dy, kOut, a.operand(), kRank, kBox))
    return false;
  launch(operands.maps, p, 3, c);
  c.synchronize();
  const std::vector<float> got = dx.host();
  for (int64_t r = 0; r < kRows; r++) {
    for (int64_t i = 0; i < kIn; i++) {
      float want = 0;
      for (int64_t k = 0; k < kOut; k++) want += dy.at(r, k) * w.at(expert_of(r), stack, k, i);
      for (int64_t k = 0; k < kRank; k++) want += dy.at(r, kOut + k) * a.at(expert_of(r), stack, k, i);
      if (got[size_t(r * kIn + i)] != want) return false;
    }
  }
  return true;
}

}  // namespace

void test_segments() {
  for (const char* clusters : {"1", "2"}) {
    setenv("ESFT_CUDA_CLUSTER", clusters, 1);
    cuda::CudaDevice c(0);
    bool stacked = true, apart = true, gathered = true, back = true;
    for (const char* schedule : kSchedules) {
      set_schedule(schedule);
      stacked &= forward(c, true, false);
      apart &= forward(c, false, false);
      gathered &= forward(c, true, true) && forward(c, false, true);
      back &= backward(c, true) && backward(c, false);
    }
    const std::string with = std::string(", clusters of ") + clusters;
    check(stacked, "low-rank term as a segment, weights in one stack" + with);
    check(apart, "low-rank term as a segment, weights apart" + with);
    check(gathered, "low-rank term as a segment, rows gathered" + with);
    check(back, "low-rank term of the backward product as a segment" + with);
  }
  unsetenv("ESFT_CUDA_CLUSTER");
}

}  // namespace esft::emu::test
