// Speed of the product kernels on this machine's instruction set, beside the multiply-add peak measured in the same rounds and
// oneDNN with prepacked weights where its library and headers are found.
//
//   gemm_bench gemm [threads] [filter]     dense products: f32, bf16 weights in exact f32, bf16 compute; per call and packed
//   gemm_bench cold [threads]              14 weight matrices in turn, from memory
//   gemm_bench layer [threads] [d f T E K] one MoE layer of ESFT: forward, input gradients, dW of 8 experts
//
// Contenders are interleaved and compared at the 90th percentile of the rounds: one thread on the thread's CPU clock, several
// on the wall clock (see the notes on noise in docs).
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#include <algorithm>
#include <functional>

#include "../../csrc/cpu/gemm/gemm_engine.h"
#include "../../csrc/cpu/kernels.h"
#include "gemm_harness.h"
#if __has_include(<oneapi/dnnl/dnnl.h>)
#include <oneapi/dnnl/dnnl.h>
#define HAVE_DNNL 1
#endif

using namespace harness;
namespace kernels = esft::cpu::ESFT_ISA;

static double now(bool cpu) {
  timespec t;
  // ESFT_BENCH_CPU=<threads>: processor time of all threads over their number, for a machine shared with others.
  static const int shared_by = getenv("ESFT_BENCH_CPU") ? atoi(getenv("ESFT_BENCH_CPU")) : 0;
  if (shared_by > 0 && !cpu) {
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (t.tv_sec + t.tv_nsec * 1e-9) / shared_by;
  }
  clock_gettime(cpu ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

// ---- peak ---------------------------------------------------------------------------------------------------------------
static void fma_loop(int64_t n) {
  using namespace kernels;
  vf acc[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; j++) acc[j] = splat(float(j + 1));
  const vf x = splat(0.999f), y = splat(1e-9f);
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++) acc[j] = acc[j] * x + y;
  }
  vf sum = {};
#pragma GCC unroll 12
  for (int j = 0; j < 12; j++) sum += acc[j] * splat(float(j + 1));
  asm volatile("" ::"m"(sum));
}
static double fma_flops(int64_t n) { return double(n) * 12 * kernels::W * 2; }

#if defined(__AVX512BF16__)
static void dot_loop(int64_t n) {
  __m512 acc[14];
#pragma GCC unroll 14
  for (int j = 0; j < 14; j++) acc[j] = _mm512_set1_ps(float(j + 1));
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f00);
  for (int64_t i = 0; i < n; i++) {
#pragma GCC unroll 14
    for (int j = 0; j < 14; j++) acc[j] = _mm512_dpbf16_ps(acc[j], x, x);
  }
  __m512 sum = {};
#pragma GCC unroll 14
  for (int j = 0; j < 14; j++) sum += acc[j] * float(j + 1);
  asm volatile("" ::"m"(sum));
}
static double dot_flops(int64_t n) { return double(n) * 14 * 64; }
#else
static void dot_loop(int64_t n) { fma_loop(n); }
static double dot_flops(int64_t n) { return fma_flops(n); }
#endif

// ---- memory -------------------------------------------------------------------------------------------------------------
static void* huge(size_t bytes) {
  void* p = mmap(nullptr, bytes + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  madvise(p, bytes + (2 << 20), MADV_HUGEPAGE);
  return p;
}
static float* floats(int64_t n, Random& r, float scale = 1) {
  float* p = static_cast<float*>(huge(size_t(n) * 4));
  for (int64_t i = 0; i < n; i++) p[i] = r.uniform() * scale;
  return p;
}
static uint16_t* bf16s(int64_t n, Random& r, float scale = 1) {
  uint16_t* p = static_cast<uint16_t*>(huge(size_t(n) * 2));
  for (int64_t i = 0; i < n; i++) p[i] = to_bf16(r.uniform() * scale);
  return p;
}

// ---- contenders ---------------------------------------------------------------------------------------------------------
struct Contender {
  std::string name;
  double flops;
  std::function<void()> run;
  std::vector<double> rates;
  int64_t repeat = 1;
};
static double percentile(std::vector<double> v, double q) {
  if (v.empty()) return 0;
  std::sort(v.begin(), v.end());
  return v[size_t(q * (v.size() - 1) + 0.5)];
}
static void race(std::vector<Contender>& all, int rounds, bool cpu, double slice = 2e-3) {
  for (auto& c : all) {
    c.run();
    double t = now(cpu);
    c.run();
    t = now(cpu) - t;
    c.repeat = std::max<int64_t>(1, int64_t(slice / std::max(t, 1e-7)));
  }
  for (int r = 0; r < rounds; r++)
    for (auto& c : all) {
      const double t = now(cpu);
      for (int64_t i = 0; i < c.repeat; i++) c.run();
      c.rates.push_back(c.flops * double(c.repeat) / (now(cpu) - t) * 1e-9);
    }
}

// ---- oneDNN with weights in its own format ------------------------------------------------------------------------------
#if HAVE_DNNL
struct Dnnl {
  void* lib = nullptr;
#define FN(f) decltype(&f) p_##f = nullptr;
#define EACH(X)                                                                                                        \
  X(dnnl_engine_create) X(dnnl_stream_create) X(dnnl_memory_desc_init_by_tag) X(dnnl_matmul_desc_init)                  \
  X(dnnl_inner_product_forward_desc_init) X(dnnl_primitive_desc_create) X(dnnl_primitive_desc_query_md)                 \
  X(dnnl_memory_create) X(dnnl_primitive_create) X(dnnl_primitive_execute) X(dnnl_reorder_primitive_desc_create)        \
  X(dnnl_stream_wait)
  EACH(FN)
  dnnl_engine_t engine = nullptr;
  dnnl_stream_t stream = nullptr;
  bool open() {
    lib = dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!lib) return false;
#define LOAD(f)                                                  \
  p_##f = reinterpret_cast<decltype(&f)>(dlsym(lib, #f));        \
  if (!p_##f) return false;
    EACH(LOAD)
    return p_dnnl_engine_create(&engine, dnnl_cpu, 0) == 0 && p_dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) == 0;
  }
  // y[M,N] = x[M,K] · w[N,K]ᵀ; weights reordered once. Empty when the library refuses.
  std::function<void()> product(bool inner, dnnl_data_type_t type, void* x, void* w, void* y, int64_t M, int64_t N, int64_t K) {
    dnnl_dims_t xd = {M, K}, wd = {N, K}, wk = {K, N}, yd = {M, N};
    dnnl_memory_desc_t xm, wm, wany, ym;
    p_dnnl_memory_desc_init_by_tag(&xm, 2, xd, type, dnnl_ab);
    p_dnnl_memory_desc_init_by_tag(&ym, 2, yd, type == dnnl_bf16 ? dnnl_bf16 : dnnl_f32, dnnl_ab);
    dnnl_primitive_desc_t pd = nullptr;
    if (inner) {
      p_dnnl_memory_desc_init_by_tag(&wany, 2, wd, type, dnnl_format_tag_any);
      p_dnnl_memory_desc_init_by_tag(&wm, 2, wd, type, dnnl_ab);
      dnnl_inner_product_desc_t d;
      if (p_dnnl_inner_product_forward_desc_init(&d, dnnl_forward_inference, &xm, &wany, nullptr, &ym)) return {};
      if (p_dnnl_primitive_desc_create(&pd, &d, nullptr, engine, nullptr)) return {};
    } else {
      p_dnnl_memory_desc_init_by_tag(&wany, 2, wk, type, dnnl_format_tag_any);
      p_dnnl_memory_desc_init_by_tag(&wm, 2, wk, type, dnnl_ba);
      dnnl_matmul_desc_t d;
      if (p_dnnl_matmul_desc_init(&d, &xm, &wany, nullptr, &ym)) return {};
      if (p_dnnl_primitive_desc_create(&pd, &d, nullptr, engine, nullptr)) return {};
    }
    const dnnl_memory_desc_t* packed = p_dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    dnnl_memory_t mx, mw, mp, my;
    p_dnnl_memory_create(&mx, &xm, engine, x);
    p_dnnl_memory_create(&mw, &wm, engine, w);
    p_dnnl_memory_create(&mp, packed, engine, huge(size_t(N + 128) * (K + 128) * 4));
    p_dnnl_memory_create(&my, &ym, engine, y);
    dnnl_primitive_desc_t rd;
    dnnl_primitive_t reorder, primitive;
    p_dnnl_reorder_primitive_desc_create(&rd, &wm, engine, packed, engine, nullptr);
    p_dnnl_primitive_create(&reorder, rd);
    dnnl_exec_arg_t ra[] = {{DNNL_ARG_FROM, mw}, {DNNL_ARG_TO, mp}};
    p_dnnl_primitive_execute(reorder, stream, 2, ra);
    p_dnnl_stream_wait(stream);
    p_dnnl_primitive_create(&primitive, pd);
    return [=, this] {
      dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, mx}, {DNNL_ARG_WEIGHTS, mp}, {DNNL_ARG_DST, my}};
      p_dnnl_primitive_execute(primitive, stream, 3, args);
      p_dnnl_stream_wait(stream);
    };
  }
};
#endif

// ---- dense products -----------------------------------------------------------------------------------------------------
static int bench_gemm(int threads, const char* filter, int rounds) {
  PoolContext ctx(threads);
  char omp[16];
  snprintf(omp, sizeof omp, "%d", threads);
  setenv("OMP_NUM_THREADS", omp, 1);
#if HAVE_DNNL
  Dnnl dnnl;
  const bool oracle = dnnl.open();
#else
  const bool oracle = false;
#endif
  if (!oracle) printf("oneDNN not found (libdnnl.so.2 and headers): its columns are missing\n");
  printf(
      "%-10s %5s |%7s %7s |%6s %6s %6s %6s |%6s %6s %6s |%6s %6s | own/1dnn: f32 call, f32 packed, bw call, dp call, dp packed\n",
      "KxN", "M", "fma", "dot", "f32", "f32 pk", "bw nt", "bw nn", "dp nt", "dp nn", "dp pk", "1dnn", "1dnn16");
  const int64_t shapes[][2] = {{2048, 1408}, {1408, 2048}, {2048, 2048}, {512, 512}, {256, 256}, {256, 128}, {128, 256}};
  for (auto& s : shapes)
    for (int64_t M : {16, 32, 64, 192, 256, 384, 1024}) {
      const int64_t K = s[0], N = s[1];
      char label[64];
      snprintf(label, sizeof label, "%ldx%ld", long(K), long(N));
      char full[80];
      snprintf(full, sizeof full, "%s,%ld", label, long(M));
      if (filter && !strstr(full, filter)) continue;
      Random r;
      float* x = floats(M * K, r);
      float* w = floats(N * K, r);
      uint16_t* xh = bf16s(M * K, r);
      uint16_t* wh = bf16s(N * K, r);
      float* y = floats(M * N, r);
      void* pk = huge(kernels::panels_bytes(K, N));
      void* pk16 = huge(kernels::panels_bytes(K, N));
      void* scratch = huge(kernels::product_scratch(M, K));
      const auto panels = kernels::pack_panels(kernels::f32_operand(w, K, true), K, N, 0, pk);
      const auto panels16 = kernels::pack_panels(kernels::bf16_operand(wh, K, true), K, N, 1, pk16);
      const double flops = 2.0 * M * N * K;
      auto call = [&](int mode, bool bf16, int precision) {
        esft_gemm_args g = {};
        g.a = matrix(x, ESFT_F32, M, K);
        const int64_t br = mode == 0 ? N : K, bc = mode == 0 ? K : N;
        g.b = bf16 ? matrix(wh, ESFT_BF16, br, bc) : matrix(w, ESFT_F32, br, bc);
        g.c = matrix(y, ESFT_F32, M, N);
        g.bias = absent();
        g.mode = mode;
        g.precision = precision;
        return [g, &ctx] { kernels::gemm(g, ctx); };
      };
      call(0, false, 0)();  // packed and per-call panels must give the same bits
      std::vector<float> want(y, y + M * N);
      kernels::multiply(kernels::f32_operand(x, K), M, panels, y, N, false, scratch);
      bool same = memcmp(want.data(), y, want.size() * 4) == 0;
      kernels::product(kernels::f32_operand(x, K), kernels::f32_operand(w, K, true), M, N, K, y, N, false, 0, scratch);
      same = same && memcmp(want.data(), y, want.size() * 4) == 0;
      if (K > 64) {  // first 64 of k, columns from the second panel on
        const auto part = kernels::slice_panels(panels, 64, kernels::NR, N);
        kernels::multiply(kernels::f32_operand(x, K), M, part, y, N - kernels::NR, false, scratch);
        double sum = 0;
        for (int64_t k = 0; k < 64; k++) sum += double(x[(M - 1) * K + k]) * w[(N - 1) * K + k];
        same = same && fabs(y[M * (N - kernels::NR) - 1] - sum) < 1e-4;
      }
      if (!same) {
        printf("%s M%ld: packed and per-call products differ\n", label, long(M));
        return 1;
      }
      std::vector<Contender> all;
      const int64_t fma_n = 40000, dot_n = 40000;
      auto peak = [&](void (*loop)(int64_t), int64_t n) {
        return [&ctx, loop, n, threads] { esft::cpu::parallel_for(ctx, threads, [=](int64_t, int) { loop(n); }); };
      };
      all.push_back({"fma", fma_flops(fma_n) * threads, peak(fma_loop, fma_n), {}, 1});
      all.push_back({"dot", dot_flops(dot_n) * threads, peak(dot_loop, dot_n), {}, 1});
      all.push_back({"f32", flops, call(0, false, 0), {}, 1});
      all.push_back(
          {"f32 pk", flops, [&] { kernels::multiply(kernels::f32_operand(x, K), M, panels, y, N, false, scratch); }, {}, 1});
      all.push_back({"bw nt", flops, call(0, true, 0), {}, 1});
      all.push_back({"bw nn", flops, call(1, true, 0), {}, 1});
      if (panels16.kind == kernels::PANEL_DOT) {
        all.push_back({"dp nt", flops, call(0, true, 1), {}, 1});
        all.push_back({"dp nn", flops, call(1, true, 1), {}, 1});
        all.push_back(
            {"dp pk", flops, [&] { kernels::multiply(kernels::f32_operand(x, K), M, panels16, y, N, false, scratch); }, {}, 1});
      }
#if HAVE_DNNL
      if (oracle)
        for (int inner = 0; inner < 2; inner++) {
          auto f = dnnl.product(inner, dnnl_f32, x, w, y, M, N, K);
          if (f) all.push_back({"1dnn", flops, f, {}, 1});
          auto h = dnnl.product(inner, dnnl_bf16, xh, wh, y, M, N, K);
          if (h) all.push_back({"1dnn16", flops, h, {}, 1});
        }
#endif
      race(all, rounds, threads == 1);
      auto best = [&](const char* name) {
        double b = 0;
        for (auto& c : all)
          if (c.name == name) b = std::max(b, percentile(c.rates, 0.9));
        return b;
      };
      const double d = best("1dnn"), d16 = best("1dnn16");
      printf("%-10s %5ld |%7.0f %7.0f |%6.0f %6.0f %6.0f %6.0f |%6.0f %6.0f %6.0f |%6.0f %6.0f | ", label, long(M), best("fma"),
             best("dot"), best("f32"), best("f32 pk"), best("bw nt"), best("bw nn"), best("dp nt"), best("dp nn"), best("dp pk"), d,
             d16);
      if (d > 0)
        printf("%.2f %.2f %.2f %.2f %.2f", best("f32") / d, best("f32 pk") / d, best("bw nt") / d, best("dp nt") / d16,
               best("dp pk") / d16);
      printf("\n");
      fflush(stdout);
      for (auto [p, n] : {std::pair<void*, size_t>{x, M * K * 4},
                          {w, N * K * 4},
                          {xh, M * K * 2},
                          {wh, N * K * 2},
                          {y, M * N * 4},
                          {pk, kernels::panels_bytes(K, N)},
                          {pk16, kernels::panels_bytes(K, N)},
                          {scratch, kernels::product_scratch(M, K)}})
        munmap(p, n + (2 << 20));
    }
  return 0;
}

// ---- cold weights -------------------------------------------------------------------------------------------------------
// As a MoE layer meets them: 14 weight matrices in turn, more than the caches hold. f32 and bf16 weights packed beforehand on both
// sides, and our row-major bf16 weights without a packed copy.
static int bench_cold(int threads, int rounds) {
  constexpr int kCopies = 14;
  const int64_t K = 2048, N = 1408;
  PoolContext ctx(threads);
  char omp[16];
  snprintf(omp, sizeof omp, "%d", threads);
  setenv("OMP_NUM_THREADS", omp, 1);
#if HAVE_DNNL
  Dnnl dnnl;
  const bool oracle = dnnl.open();
#endif
  for (int64_t M : {16, 32, 64, 192}) {
    Random r;
    float* x = floats(M * K, r);
    uint16_t* xh = bf16s(M * K, r);
    float* y = floats(M * N, r);
    void* scratch = huge(kernels::product_scratch(M, K));
    std::vector<kernels::Panels> f32, bf16;
    std::vector<uint16_t*> rows;
    std::vector<std::function<void()>> d32, d16;
    for (int i = 0; i < kCopies; i++) {
      float* w = floats(N * K, r);
      rows.push_back(bf16s(N * K, r));
      f32.push_back(kernels::pack_panels(kernels::f32_operand(w, K, true), K, N, 0, huge(kernels::panels_bytes(K, N))));
      bf16.push_back(kernels::pack_panels(kernels::bf16_operand(rows[i], K, true), K, N, 1, huge(kernels::panels_bytes(K, N))));
#if HAVE_DNNL
      if (oracle) {
        if (auto f = dnnl.product(0, dnnl_f32, x, w, y, M, N, K)) d32.push_back(f);
        if (auto f = dnnl.product(0, dnnl_bf16, xh, rows[i], y, M, N, K)) d16.push_back(f);
      }
#endif
      munmap(w, size_t(N) * K * 4);
    }
    (void)xh;
    const double flops = 2.0 * double(M * N * K);
    std::vector<Contender> all;
    auto row_major = [&](int precision) {
      return [&, precision, n = 0]() mutable {
        esft_gemm_args g = {};
        g.a = matrix(x, ESFT_F32, M, K);
        g.b = matrix(rows[n++ % kCopies], ESFT_BF16, N, K);
        g.c = matrix(y, ESFT_F32, M, N);
        g.bias = absent();
        g.precision = precision;
        kernels::gemm(g, ctx);
      };
    };
    auto packed = [&](const std::vector<kernels::Panels>& p) {
      return [&, n = 0]() mutable { kernels::multiply(kernels::f32_operand(x, K), M, p[n++ % kCopies], y, N, false, scratch); };
    };
    auto turn = [](const std::vector<std::function<void()>>& f) { return [&f, n = 0]() mutable { f[n++ % f.size()](); }; };
    if (threads == 1) all.push_back({"f32 packed", flops, packed(f32), {}, 1});
    all.push_back({"bf16 weights", flops, row_major(0), {}, 1});
    if (!d32.empty()) all.push_back({"oneDNN f32", flops, turn(d32), {}, 1});
    if (bf16[0].kind == kernels::PANEL_DOT) {
      if (threads == 1) all.push_back({"bf16 compute packed", flops, packed(bf16), {}, 1});
      all.push_back({"bf16 compute", flops, row_major(1), {}, 1});
    }
    if (!d16.empty()) all.push_back({"oneDNN bf16", flops, turn(d16), {}, 1});
    race(all, rounds, threads == 1, 10e-3);
    printf("cold %ldx%ld M %4ld:", long(K), long(N), long(M));
    for (auto& c : all) printf("  %s %.0f", c.name.c_str(), percentile(c.rates, 0.9));
    printf("\n");
    fflush(stdout);
  }
  return 0;
}

// ---- MoE layer ----------------------------------------------------------------------------------------------------------
struct Layer {
  int64_t T, D, F, E, K, N;
  std::vector<int32_t> offsets, rows, pos, groups;
  std::vector<float> gate_TK, gate_N;
  std::vector<esft_tensor> up, down, dup, ddown;
  float *x, *h, *act, *y_N, *y, *dy, *dgate, *dx_N, *dx;
};

static Layer make_layer(int64_t T, int64_t D, int64_t F, int64_t E, int64_t K, bool mapped) {
  Layer l = {};
  Random r;
  l.T = T, l.D = D, l.F = F, l.E = E, l.K = K, l.N = T * K;
  std::vector<int32_t> expert(l.N);
  for (int64_t t = 0; t < T; t++)
    for (int64_t k = 0; k < K; k++) {
      int32_t e;
      bool again;
      do {
        e = int32_t(r.below(E)), again = false;
        for (int64_t j = 0; j < k; j++) again |= expert[t * K + j] == e;
      } while (again);
      expert[t * K + k] = e;
    }
  l.offsets.assign(E + 1, 0), l.rows.resize(l.N), l.pos.resize(l.N), l.gate_N.resize(l.N), l.gate_TK.resize(l.N);
  for (int32_t e : expert) l.offsets[e + 1]++;
  for (int64_t e = 0; e < E; e++) l.offsets[e + 1] += l.offsets[e];
  std::vector<int32_t> at(l.offsets.begin(), l.offsets.end() - 1);
  for (int64_t i = 0; i < l.N; i++) {
    const int32_t p = at[expert[i]]++;
    l.rows[p] = int32_t(i / K), l.pos[i] = p;
    l.gate_TK[i] = l.gate_N[p] = 0.1f + 0.1f * r.uniform();
  }
  for (int e = 0; e < 8 && e < E; e++) l.groups.push_back(int32_t(e * E / 8));
  // Weights of all experts in one allocation; "mapped": on 4 KB pages at 8-byte alignment, as a checkpoint file is.
  const size_t bytes = size_t(E) * 3 * D * F * 2 + 64;
  char* w = mapped ? static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + 8
                   : static_cast<char*>(huge(bytes));
  if (mapped) madvise(w - 8, bytes, MADV_NOHUGEPAGE);
  uint16_t* h = reinterpret_cast<uint16_t*>(w);
  for (int64_t i = 0; i < E * 3 * D * F; i++) h[i] = to_bf16(r.uniform() * 0.05f);
  for (int64_t e = 0; e < E; e++) {
    uint16_t* p = h + e * 3 * D * F;
    l.up.push_back(matrix(p, ESFT_BF16, F, D));
    l.up.push_back(matrix(p + D * F, ESFT_BF16, F, D));
    l.down.push_back(matrix(p + 2 * D * F, ESFT_BF16, D, F));
  }
  for (size_t g = 0; g < l.groups.size(); g++) {
    for (int s = 0; s < 2; s++) l.dup.push_back(matrix(floats(D * F, r, 0), ESFT_F32, F, D));
    l.ddown.push_back(matrix(floats(D * F, r, 0), ESFT_F32, D, F));
  }
  l.x = floats(T * D, r), l.dy = floats(T * D, r), l.y = floats(T * D, r), l.dx = floats(T * D, r);
  l.h = floats(l.N * 2 * F, r), l.act = floats(l.N * F, r), l.y_N = floats(l.N * D, r), l.dx_N = floats(l.N * D, r);
  l.dgate = floats(l.N, r);
  return l;
}

static int bench_layer(int threads, int64_t D, int64_t F, int64_t T, int64_t E, int64_t K, int rounds, bool mapped) {
  Layer l = make_layer(T, D, F, E, K, mapped);
  PoolContext ctx(threads);
  const bool cpu = threads == 1;
  const int64_t N = l.N;
  int64_t trained = 0;
  for (int32_t g : l.groups) trained += l.offsets[g + 1] - l.offsets[g];
  const double unit = 2.0 * N * D * F, forward = 3 * unit, back = 3 * unit, grad = 3 * 2.0 * trained * D * F;
  auto f32 = [](float* p, int64_t r, int64_t c) { return matrix(p, ESFT_F32, r, c); };
  const esft_tensor off = vector_of(l.offsets.data(), ESFT_I32, E + 1), rows_t = vector_of(l.rows.data(), ESFT_I32, N);
  const esft_tensor pos = matrix(l.pos.data(), ESFT_I32, T, K);
  double seconds[7];
  auto step = [&](int precision) {
    int part = 0;
    auto timed = [&](auto f) {
      const double t = now(cpu);
      f();
      seconds[part++] += now(cpu) - t;
    };
    esft_grouped_gemm_nt_args up = {}, dn = {};
    up.x = f32(l.x, T, D), up.rows = rows_t, up.w = {l.up.data(), 2 * E}, up.offsets = off, up.h = f32(l.h, N, 2 * F);
    up.y = f32(l.act, N, F), up.segments = 2, up.factor = 1, up.act = 1, up.precision = precision;
    timed([&] { kernels::grouped_gemm_nt(up, ctx); });
    dn.x = f32(l.act, N, F), dn.rows = absent(), dn.w = {l.down.data(), E}, dn.offsets = off, dn.h = absent();
    dn.y = f32(l.y_N, N, D), dn.segments = 1, dn.factor = 1, dn.precision = precision;
    timed([&] { kernels::grouped_gemm_nt(dn, ctx); });
    esft_combine_args co = {};
    co.x = f32(l.y_N, N, D), co.pos = pos, co.weights = matrix(l.gate_TK.data(), ESFT_F32, T, K), co.y = f32(l.y, T, D);
    timed([&] { kernels::combine(co, ctx); });
    // backward; dh overwrites h only after dW of the down projection has read it
    esft_grouped_gemm_tn_args td = {}, tu = {};
    td.dy = f32(l.dy, T, D), td.dy_rows = rows_t, td.dy_scale = vector_of(l.gate_N.data(), ESFT_F32, N), td.x = f32(l.h, N, 2 * F);
    td.x_rows = absent(), td.x_act = 1, td.offsets = off, td.groups = {l.groups.data(), int64_t(l.groups.size())}, td.segments = 1;
    td.dw = {l.ddown.data(), int64_t(l.ddown.size())}, td.precision = precision;
    timed([&] { kernels::grouped_gemm_tn(td, ctx); });
    esft_grouped_gemm_nn_args nd = {}, nu = {};
    nd.dy = f32(l.dy, T, D), nd.rows = rows_t, nd.w = {l.down.data(), E}, nd.offsets = off, nd.h = f32(l.h, N, 2 * F);
    nd.gate = vector_of(l.gate_N.data(), ESFT_F32, N), nd.dx = nd.h, nd.dgate = vector_of(l.dgate, ESFT_F32, N);
    nd.segments = 1, nd.factor = 1, nd.act = 1, nd.precision = precision;
    timed([&] { kernels::grouped_gemm_nn(nd, ctx); });
    nu.dy = f32(l.h, N, 2 * F), nu.rows = absent(), nu.w = {l.up.data(), 2 * E}, nu.offsets = off;
    nu.h = nu.gate = nu.dgate = absent(), nu.dx = f32(l.dx_N, N, D), nu.segments = 2, nu.factor = 1, nu.precision = precision;
    timed([&] { kernels::grouped_gemm_nn(nu, ctx); });
    tu.dy = f32(l.h, N, 2 * F), tu.dy_rows = tu.dy_scale = absent(), tu.x = f32(l.x, T, D), tu.x_rows = rows_t, tu.offsets = off;
    tu.groups = td.groups, tu.segments = 2, tu.dw = {l.dup.data(), int64_t(l.dup.size())}, tu.precision = precision;
    co.x = f32(l.dx_N, N, D), co.weights = absent(), co.y = f32(l.dx, T, D);
    timed([&] {
      kernels::grouped_gemm_tn(tu, ctx);
      kernels::combine(co, ctx);
    });
  };
  const double flops = forward + back + grad;
  const double share[7] = {2 * unit, unit, 0, grad / 3, unit, 2 * unit, grad * 2 / 3};
  const char* names[7] = {"up", "down", "combine", "tn down", "nn down", "nn up", "tn up+combine"};
  printf("layer d%ld f%ld T%ld top-%ld/%ld, %d threads%s: %.2f GFLOP per step\n", long(D), long(F), long(T), long(K), long(E),
         threads, mapped ? ", weights on 4 KB pages" : "", flops * 1e-9);
  for (int precision = 0; precision <= 1; precision++) {
#if !defined(__AVX512BF16__)
    if (precision) break;
#endif
    std::vector<double> tok, peak, ratio;
    memset(seconds, 0, sizeof seconds);
    step(precision), step(precision);
    memset(seconds, 0, sizeof seconds);
    double total = 0;
    for (int r = 0; r < rounds; r++) {
      void (*loop)(int64_t) = precision ? dot_loop : fma_loop;
      const int64_t n = 300000;
      double t = now(cpu);
      esft::cpu::parallel_for(ctx, threads, [=](int64_t, int) { loop(n); });
      const double p = (precision ? dot_flops(n) : fma_flops(n)) * threads / (now(cpu) - t);
      t = now(cpu);
      step(precision);
      t = now(cpu) - t;
      total += t;
      tok.push_back(double(T) / t), peak.push_back(p), ratio.push_back(flops / t / p);
    }
    printf(
        "  %s: tok/s median %.0f best %.0f; GF/s median %.0f best %.0f; peak median %.0f best %.0f; share median %.3f, p90/p90 "
        "%.3f\n",
        precision ? "bf16" : "f32 ", percentile(tok, 0.5), percentile(tok, 1), percentile(tok, 0.5) * flops / double(T) * 1e-9,
        percentile(tok, 1) * flops / double(T) * 1e-9, percentile(peak, 0.5) * 1e-9, percentile(peak, 1) * 1e-9,
        percentile(ratio, 0.5), percentile(tok, 0.9) * flops / double(T) / percentile(peak, 0.9));
    printf("       ");
    for (int i = 0; i < 7; i++)
      printf(" %s %.1f%% %.0f;", names[i], 100 * seconds[i] / total, share[i] * rounds / seconds[i] * 1e-9);
    printf("\n");
  }
  return 0;
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  const int threads = argc > 2 ? atoi(argv[2]) : 1;
  if (what == "gemm") return bench_gemm(threads, argc > 3 ? argv[3] : nullptr, argc > 4 ? atoi(argv[4]) : 30);
  if (what == "cold") return bench_cold(threads, argc > 3 ? atoi(argv[3]) : 15);
  if (what == "layer") {
    auto number = [&](int i, int64_t otherwise) { return argc > i ? atoll(argv[i]) : otherwise; };
    return bench_layer(threads, number(3, 256), number(4, 128), number(5, 4096), number(6, 64), number(7, 6), int(number(8, 20)),
                       number(9, 0) != 0);
  }
  printf(
      "usage: gemm_bench gemm [threads] [KxN,M filter] [rounds]\n       gemm_bench cold [threads] [rounds]\n       gemm_bench "
      "layer [threads] [d f T E K rounds mapped]\n");
  return 2;
}
