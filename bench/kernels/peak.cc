// The multiply-add peak of this machine in this moment. Reads lines "THREADS MILLISECONDS" and answers each with one JSON line
// {"f32": GFLOP/s, "bf16": GFLOP/s or 0, "copy": GB/s, "read": GB/s of memory that no cache holds}. Built by bench/cpu/peak.ts for the machine it runs on.
#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <thread>
#include <vector>

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif
typedef float vf __attribute__((vector_size(W * 4)));

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

constexpr int64_t kLoop = 20000;

static void fma_loop() {
  vf acc[12];
  for (int j = 0; j < 12; j++) acc[j] = vf{} + float(j + 1);
  const vf x = vf{} + 0.999f, y = vf{} + 1e-9f;
  for (int64_t i = 0; i < kLoop; i++) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++) acc[j] = acc[j] * x + y;
  }
  for (int j = 0; j < 12; j++) asm volatile("" ::"m"(acc[j]));
}

#if defined(__AVX512BF16__)
static void dot_loop() {
  __m512 acc[14];
  for (int j = 0; j < 14; j++) acc[j] = _mm512_set1_ps(float(j + 1));
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f00);
  for (int64_t i = 0; i < kLoop; i++) {
#pragma GCC unroll 14
    for (int j = 0; j < 14; j++) acc[j] = _mm512_dpbf16_ps(acc[j], x, x);
  }
  for (int j = 0; j < 14; j++) asm volatile("" ::"m"(acc[j]));
}
#endif

// Bytes that end in registers.
static void read_all(const char* p, size_t bytes) {
  vf sum[8] = {};
  for (size_t i = 0; i + 8 * sizeof(vf) <= bytes; i += 8 * sizeof(vf))
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) sum[j] += *reinterpret_cast<const vf*>(p + i + j * sizeof(vf));
  for (int j = 0; j < 8; j++) asm volatile("" ::"m"(sum[j]));
}

// Calls f on every thread until `seconds` are over; returns calls per second of all threads together.
template <class F>
static double rate(int threads, double seconds, F f) {
  std::vector<std::thread> pool;
  std::vector<double> done(threads);
  for (int t = 0; t < threads; t++)
    pool.emplace_back([&, t] {
      const double begin = now();
      int64_t n = 0;
      while (now() - begin < seconds) f(t), n++;
      done[t] = double(n) / (now() - begin);
    });
  double sum = 0;
  for (int t = 0; t < threads; t++) {
    pool[t].join();
    sum += done[t];
  }
  return sum;
}

int main() {
  int threads;
  double ms;
  const size_t bytes = size_t(64) << 20;
  const size_t large = size_t(512) << 20, piece = size_t(8) << 20;
  char* a = static_cast<char*>(aligned_alloc(64, large));
  memset(a, 0, large);
  std::vector<char> b(bytes);
  while (scanf("%d %lf", &threads, &ms) == 2) {
    const double s = ms * 1e-3;
    const double f32 = rate(threads, s, [](int) { fma_loop(); }) * kLoop * 12 * W * 2 * 1e-9;
    double bf16 = 0;
#if defined(__AVX512BF16__)
    bf16 = rate(threads, s, [](int) { dot_loop(); }) * kLoop * 14 * 64 * 1e-9;
#endif
    const size_t part = bytes / size_t(threads);
    const double copy = rate(threads, s, [&](int t) { memcpy(b.data() + part * t, a + part * t, part); }) * double(part) * 2 * 1e-9;
    const size_t own = large / size_t(threads) / piece * piece;
    std::vector<size_t> at(threads, 0);
    const double read = rate(threads, s,
                             [&](int t) {
                               read_all(a + own * t + at[t], piece);
                               at[t] = (at[t] + piece) % own;
                             }) *
                        double(piece) * 1e-9;
    printf("{\"f32\": %.2f, \"bf16\": %.2f, \"copy\": %.2f, \"read\": %.2f}\n", f32, bf16, copy, read);
    fflush(stdout);
  }
}
