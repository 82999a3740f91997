// The product kernels of every instruction set of this machine against the reference loops: odd shapes, strides, gathers,
// mixed weight dtypes, empty experts, aliasing; and the same bits on 1, 2 and 3 threads. A denser grid than that of test/ops,
// two minutes on two cores: npm run test:kernels. compare_products [instruction set]
#include <math.h>
#include <stdio.h>

#include "../../csrc/ops/checks.h"
#include "gemm_harness.h"

using namespace harness;

static int failures = 0, checks = 0;

struct Buffer {  // f32 with a canary behind it
  std::vector<float> v;
  Buffer(int64_t n = 0) : v(n + 32, 1.25e30f) {}
  float* data() { return v.data(); }
  bool intact(int64_t n) const {
    for (size_t i = n; i < v.size(); i++)
      if (v[i] != 1.25e30f) return false;
    return true;
  }
};

static void fill(Random& r, float* p, int64_t n) {
  for (int64_t i = 0; i < n; i++) p[i] = r.uniform();
}

static double relative(const float* x, const float* want, int64_t n) {
  double d = 0, s = 0;
  for (int64_t i = 0; i < n; i++) d += double(x[i] - want[i]) * (x[i] - want[i]), s += double(want[i]) * want[i];
  if (d != d) return 1;
  return s > 0 ? sqrt(d / s) : sqrt(d);
}

static void expect(const char* what, const char* isa, const std::string& shape, double error, double limit) {
  checks++;
  if (error <= limit) return;
  failures++;
  printf("FAIL %s %s %s: error %.3g > %.3g\n", isa, what, shape.c_str(), error, limit);
}

// Weights of one dtype each, at odd alignment.
struct WeightSet {
  std::vector<std::vector<char>> memory;
  std::vector<esft_tensor> items;
  void add(Random& r, int dtype, int64_t rows, int64_t cols, int64_t ld) {
    const int size = dtype == ESFT_BF16 ? 2 : 4;
    memory.emplace_back(size_t(rows * ld + 4) * size + 8);
    char* p = memory.back().data() + size;
    for (int64_t i = 0; i < rows * ld; i++) {
      const float f = r.uniform() * 0.5f;
      const uint16_t h = to_bf16(f);
      if (dtype == ESFT_BF16)
        memcpy(p + i * 2, &h, 2);
      else
        memcpy(p + i * 4, &f, 4);
    }
    items.push_back(matrix(p, dtype, rows, cols, ld));
  }
  esft_tensor_list list() const { return {items.data(), int64_t(items.size())}; }
};

template <class Run>
static void on_threads(const char* what, const Kernels& isa, const std::string& shape, std::vector<Buffer*> outs, Run run) {
  std::vector<std::vector<float>> before, first;
  for (Buffer* o : outs) before.push_back(o->v);
  static PoolContext one(1), two(2), three(3);
  for (int t = 1; t <= 3; t++) {
    PoolContext& ctx = t == 1 ? one : t == 2 ? two : three;
    for (size_t i = 0; i < outs.size(); i++) outs[i]->v = before[i];
    run(ctx);
    if (t == 1)
      for (Buffer* o : outs) first.push_back(o->v);
    else
      for (size_t i = 0; i < outs.size(); i++)
        expect((std::string(what) + " bits on " + std::to_string(t) + " threads").c_str(), isa.name, shape,
               memcmp(first[i].data(), outs[i]->v.data(), first[i].size() * 4) != 0, 0);
  }
}

static double limit_of(int64_t precision, int64_t k) { return precision ? 1e-5 + 2e-8 * k : 2e-6; }

static void test_gemm(const Kernels& isa, int64_t M, int64_t N, int64_t K, int mode, int dtype, bool accumulate, bool bias,
                      int precision) {
  Random r;
  r.s += M * 131 + N * 17 + K + mode;
  const int64_t pad = (M + N + K) % 3;
  const int64_t ar = mode == 2 ? K : M, ac = mode == 2 ? M : K, br = mode == 0 ? N : K, bc = mode == 0 ? K : N;
  Buffer a(ar * (ac + pad)), c(M * (N + pad)), want(M * (N + pad)), bv(N);
  fill(r, a.data(), ar * (ac + pad));
  fill(r, c.data(), M * (N + pad));
  fill(r, bv.data(), N);
  want.v = c.v;
  WeightSet w;
  w.add(r, dtype, br, bc, bc + pad);
  esft_gemm_args g = {};
  g.a = matrix(a.data(), ESFT_F32, ar, ac, ac + pad);
  g.b = w.items[0];
  g.bias = bias && mode == 0 ? vector_of(bv.data(), ESFT_F32, N) : absent();
  g.mode = mode;
  g.accumulate = accumulate;
  g.precision = precision;
  char shape[128];
  snprintf(shape, sizeof shape, "M%ld N%ld K%ld mode %d %s acc %d bias %d precision %d", long(M), long(N), long(K), mode,
           dtype ? "bf16" : "f32", accumulate, bias, precision);
  g.c = matrix(want.data(), ESFT_F32, M, N, N + pad);
  esft::ref_gemm(g);
  g.c = matrix(c.data(), ESFT_F32, M, N, N + pad);
  on_threads("gemm", isa, shape, {&c}, [&](PoolContext& ctx) { isa.gemm(g, ctx); });
  expect("gemm", isa.name, shape, relative(c.data(), want.data(), M * (N + pad)), limit_of(precision, K));
  expect("gemm overrun", isa.name, shape, !c.intact(M * (N + pad)), 0);
}

struct MoeShape {
  int64_t T, D, F, E, K;
  int S;
  int dtype0, dtype1;
  int precision;
  bool gather;
};

static void test_moe(const Kernels& isa, const MoeShape& m, uint64_t seed) {
  Random r;
  r.s += seed * 7919;
  const int64_t N = m.T * m.K;
  std::vector<int32_t> offsets(m.E + 1), rows(N), groups;
  for (int64_t i = 1; i < m.E; i++) offsets[i] = int32_t(r.below(N + 1));
  offsets[0] = 0, offsets[m.E] = int32_t(N);
  for (int64_t i = 1; i < m.E; i++)  // ascending, with empty experts where equal
    for (int64_t j = i; j > 1 && offsets[j] < offsets[j - 1]; j--) std::swap(offsets[j], offsets[j - 1]);
  if (m.E > 2) offsets[2] = offsets[1];
  for (auto& x : rows) x = int32_t(r.below(m.T));
  for (int64_t e = 0; e < m.E; e++)
    if (e % 2 == int64_t(seed % 2)) groups.push_back(int32_t(e));
  WeightSet up, down;
  for (int64_t e = 0; e < m.E; e++) {
    for (int s = 0; s < m.S; s++) up.add(r, (e + s) % 3 == 1 ? m.dtype1 : m.dtype0, m.S == 2 ? m.F : 2 * m.F, m.D, m.D);
    down.add(r, e % 2 ? m.dtype1 : m.dtype0, m.D, m.F, m.F);
  }
  char shape[160];
  snprintf(shape, sizeof shape, "T%ld D%ld F%ld E%ld K%ld S%d dtypes %d %d precision %d gather %d", long(m.T), long(m.D), long(m.F),
           long(m.E), long(m.K), m.S, m.dtype0, m.dtype1, m.precision, m.gather);
  const int64_t xr = m.gather ? m.T : N;
  Buffer x(xr * m.D), h(N * 2 * m.F), act(N * m.F), y(N * m.D);
  Buffer wh(N * 2 * m.F), wact(N * m.F), wy(N * m.D);
  fill(r, x.data(), xr * m.D);
  const double limit = m.precision ? 2e-4 : 2e-6;  // bf16: a sum near a rounding step may round the activation the other way
  const esft_tensor off = vector_of(offsets.data(), ESFT_I32, m.E + 1);
  const esft_tensor index = m.gather ? vector_of(rows.data(), ESFT_I32, N) : absent();
  auto f32 = [](Buffer& b, int64_t rr, int64_t cc) { return matrix(b.data(), ESFT_F32, rr, cc); };

  esft_grouped_gemm_nt_args nt = {};
  nt.x = f32(x, xr, m.D), nt.rows = index, nt.w = up.list(), nt.offsets = off, nt.segments = m.S, nt.act = 1, nt.factor = 1,
  nt.precision = m.precision;
  nt.h = f32(wh, N, 2 * m.F), nt.y = f32(wact, N, m.F);
  esft::ref_grouped_gemm_nt(nt);
  nt.h = f32(h, N, 2 * m.F), nt.y = f32(act, N, m.F);
  on_threads("nt act", isa, shape, {&h, &act}, [&](PoolContext& c) { isa.grouped_gemm_nt(nt, c); });
  expect("nt h", isa.name, shape, relative(h.data(), wh.data(), N * 2 * m.F), m.precision ? 1e-5 : 2e-6);
  expect("nt act", isa.name, shape, relative(act.data(), wact.data(), N * m.F), m.precision ? 1e-5 : 3e-6);
  nt.h = absent();
  Buffer act2(N * m.F);
  nt.y = f32(act2, N, m.F);
  on_threads("nt act, no h", isa, shape, {&act2}, [&](PoolContext& c) { isa.grouped_gemm_nt(nt, c); });
  expect("nt act, no h", isa.name, shape, memcmp(act.data(), act2.data(), N * m.F * 4) != 0, 0);

  esft_grouped_gemm_nt_args dn = {};
  dn.x = f32(wact, N, m.F), dn.rows = absent(), dn.w = down.list(), dn.offsets = off, dn.h = absent(), dn.segments = 1,
  dn.factor = 1, dn.precision = m.precision;
  dn.y = f32(wy, N, m.D);
  esft::ref_grouped_gemm_nt(dn);
  dn.y = f32(y, N, m.D);
  on_threads("nt", isa, shape, {&y}, [&](PoolContext& c) { isa.grouped_gemm_nt(dn, c); });
  expect("nt", isa.name, shape, relative(y.data(), wy.data(), N * m.D), limit);

  // backward: dy gathered by token, dh over h
  Buffer dy(m.T * m.D), gate(N), dh(N * 2 * m.F), wdh(N * 2 * m.F), dgate(N), wdgate(N), dx(N * m.D), wdx(N * m.D);
  fill(r, dy.data(), m.T * m.D);
  fill(r, gate.data(), N);
  const esft_tensor rows_t = vector_of(rows.data(), ESFT_I32, N);
  for (int some = 0; some < 2; some++) {
    esft_grouped_gemm_nn_args nn = {};
    nn.dy = f32(dy, m.T, m.D), nn.rows = rows_t, nn.w = down.list(), nn.offsets = off;
    nn.gate = seed % 3 ? vector_of(gate.data(), ESFT_F32, N) : absent();
    nn.segments = 1, nn.factor = 1, nn.act = 1, nn.precision = m.precision;
    if (some) nn.groups = {groups.data(), int64_t(groups.size())};
    wdh.v = wh.v;  // aliasing h
    nn.h = f32(wdh, N, 2 * m.F), nn.dx = nn.h, nn.dgate = vector_of(wdgate.data(), ESFT_F32, N);
    esft::ref_grouped_gemm_nn(nn);
    dh.v = wh.v;
    nn.h = f32(dh, N, 2 * m.F), nn.dx = nn.h, nn.dgate = vector_of(dgate.data(), ESFT_F32, N);
    on_threads("nn act", isa, shape, {&dh, &dgate}, [&](PoolContext& c) { isa.grouped_gemm_nn(nn, c); });
    expect("nn act", isa.name, shape, relative(dh.data(), wdh.data(), N * 2 * m.F), limit);
    expect("nn dgate", isa.name, shape, relative(dgate.data(), wdgate.data(), N), limit);
    expect("nn overrun", isa.name, shape, !dh.intact(N * 2 * m.F) || !dgate.intact(N), 0);

    esft_grouped_gemm_nn_args nx = {};
    nx.dy = f32(wdh, N, 2 * m.F), nx.rows = absent(), nx.w = up.list(), nx.offsets = off;
    nx.h = nx.gate = nx.dgate = absent();
    nx.segments = m.S, nx.factor = 1, nx.precision = m.precision, nx.groups = nn.groups;
    nx.dx = f32(wdx, N, m.D);
    esft::ref_grouped_gemm_nn(nx);
    nx.dx = f32(dx, N, m.D);
    on_threads("nn", isa, shape, {&dx}, [&](PoolContext& c) { isa.grouped_gemm_nn(nx, c); });
    expect("nn", isa.name, shape, relative(dx.data(), wdx.data(), N * m.D), limit);
  }

  // weight gradients of the chosen experts
  for (int which = 0; which < 2; which++) {
    std::vector<Buffer> dw, wdw;
    std::vector<esft_tensor> items, witems;
    const int64_t rows_n = which ? m.D : m.S == 2 ? m.F : 2 * m.F, cols_n = which ? m.F : m.D;
    const int S = which ? 1 : m.S;
    for (size_t g = 0; g < groups.size() * S; g++) {
      dw.emplace_back(rows_n * cols_n);
      fill(r, dw.back().data(), rows_n * cols_n);
      wdw.push_back(dw.back());
    }
    for (auto& b : dw) items.push_back(f32(b, rows_n, cols_n));
    for (auto& b : wdw) witems.push_back(f32(b, rows_n, cols_n));
    esft_grouped_gemm_tn_args tn = {};
    tn.offsets = off, tn.groups = {groups.data(), int64_t(groups.size())}, tn.segments = S, tn.precision = m.precision;
    if (which) {
      tn.dy = f32(dy, m.T, m.D), tn.dy_rows = rows_t, tn.dy_scale = vector_of(gate.data(), ESFT_F32, N);
      tn.x = f32(wh, N, 2 * m.F), tn.x_rows = absent(), tn.x_act = 1;
    } else {
      tn.dy = f32(wdh, N, 2 * m.F), tn.dy_rows = absent(), tn.dy_scale = absent();
      tn.x = f32(x, xr, m.D), tn.x_rows = index;
    }
    tn.dw = {witems.data(), int64_t(witems.size())};
    esft::ref_grouped_gemm_tn(tn);
    tn.dw = {items.data(), int64_t(items.size())};
    std::vector<Buffer*> outs;
    for (auto& b : dw) outs.push_back(&b);
    on_threads(which ? "tn down" : "tn up", isa, shape, outs, [&](PoolContext& c) { isa.grouped_gemm_tn(tn, c); });
    for (size_t i = 0; i < dw.size(); i++) {
      expect(which ? "tn down" : "tn up", isa.name, shape, relative(dw[i].data(), wdw[i].data(), rows_n * cols_n), limit);
      expect("tn overrun", isa.name, shape, !dw[i].intact(rows_n * cols_n), 0);
    }
  }
}

int main(int argc, char** argv) {
  for (const Kernels* of_isa : instruction_sets()) {
    const Kernels& isa = *of_isa;
    if (argc > 1 && strcmp(argv[1], isa.name) != 0) continue;
    const int before = failures;
    for (int precision = 0; precision <= (isa.bf16_compute ? 1 : 0); precision++)
      for (int dtype : {int(ESFT_F32), int(ESFT_BF16)})
        for (int mode = 0; mode < 3; mode++) {
          int turn = 0;  // a third of the grid per mode, dtype and precision
          for (int64_t M : {1, 2, 3, 5, 7, 13, 14, 15, 29, 64})
            for (int64_t N : {1, 15, 16, 17, 33, 70})
              for (int64_t K : {0, 1, 2, 3, 15, 16, 17, 31, 64, 129})
                if (turn++ % 3 == mode) test_gemm(isa, M, N, K, mode, dtype, (M + N + K) % 2, (M + K) % 3 == 0, precision);
          test_gemm(isa, 210, 136, 1500, mode, dtype, true, true, precision);
          test_gemm(isa, 37, 333, 2001, mode, dtype, false, true, precision);
          test_gemm(isa, 400, 64, 700, mode, dtype, false, false, precision);
          test_gemm(isa, 19, 40, 6001, mode, dtype, true, true, precision);
          test_gemm(isa, 0, 5, 5, mode, dtype, false, false, precision);
          test_gemm(isa, 5, 0, 5, mode, dtype, false, false, precision);
        }
    uint64_t seed = 0;
    for (int precision = 0; precision <= (isa.bf16_compute ? 1 : 0); precision++)
      for (int d0 : {int(ESFT_F32), int(ESFT_BF16)})
        for (int d1 : {int(ESFT_F32), int(ESFT_BF16)})
          for (int S = 1; S <= 2; S++)
            for (bool gather : {false, true}) {
              test_moe(isa, {37, 50, 19, 5, 3, S, d0, d1, precision, gather}, seed++);
              test_moe(isa, {64, 64, 32, 4, 2, S, d0, d1, precision, gather}, seed++);
              test_moe(isa, {9, 33, 7, 8, 2, S, d0, d1, precision, gather}, seed++);
              test_moe(isa, {150, 96, 80, 3, 4, S, d0, d1, precision, gather}, seed++);
            }
    test_moe(isa, {500, 48, 3000, 1, 12, 2, ESFT_BF16, ESFT_BF16, 0, true}, seed++);
    test_moe(isa, {300, 640, 176, 4, 3, 2, ESFT_BF16, ESFT_BF16, isa.bf16_compute, true}, seed++);
    printf("%s: %s\n", isa.name, failures == before ? "ok" : "FAILED");
  }
  printf("%d checks, %d failures\n", checks, failures);
  return failures != 0;
}
