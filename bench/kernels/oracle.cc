// Matrix products of other libraries, opened at run time when they are installed: oneDNN (dnnl_sgemm) and OpenBLAS (cblas_sgemm).
// Reads lines "LIBRARY THREADS M N K MILLISECONDS" and answers each with one JSON line {"gflops": median of the slice, or null}.
// y[M,N] = x[M,K] · W[N,K]ᵀ in f32, weights unpacked, as the library's plain call takes them. Built by bench/cpu/oracle.ts.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <vector>

typedef int (*dnnl_sgemm_t)(char, char, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t, float,
                            float*, int64_t);
typedef void (*cblas_sgemm_t)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);

static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

template <class F>
static F symbol(const char* const* names, const char* function, void** handle) {
  for (; *names && !*handle; names++) *handle = dlopen(*names, RTLD_NOW | RTLD_LOCAL);
  return *handle ? reinterpret_cast<F>(dlsym(*handle, function)) : nullptr;
}

int main() {
  setenv("OPENBLAS_CORETYPE", "SKYLAKEX", 0);  // otherwise it runs AVX2 kernels on some CPUs with AVX-512
  const char* const dnnl_names[] = {"libdnnl.so.3", "libdnnl.so.2", nullptr};
  const char* const blas_names[] = {"libopenblas.so.0", "libopenblas.so", nullptr};
  char library[16];
  int threads;
  long M, N, K;
  double ms;
  void *dnnl = nullptr, *blas = nullptr, *omp = nullptr;
  while (scanf("%15s %d %ld %ld %ld %lf", library, &threads, &M, &N, &K, &ms) == 6) {
    std::vector<float> x(M * K, 0.5f), w(N * K, 0.25f), y(M * N);
    void (*call)(void*) = nullptr;
    struct Args {
      long M, N, K;
      float *x, *w, *y;
      void* f;
    } a = {M, N, K, x.data(), w.data(), y.data(), nullptr};
    if (strcmp(library, "onednn") == 0) {
      a.f = reinterpret_cast<void*>(symbol<dnnl_sgemm_t>(dnnl_names, "dnnl_sgemm", &dnnl));
      if (!omp) omp = dlopen("libgomp.so.1", RTLD_NOW);
      if (omp)
        if (auto set = reinterpret_cast<void (*)(int)>(dlsym(omp, "omp_set_num_threads"))) set(threads);
      call = [](void* p) {
        const Args& b = *static_cast<Args*>(p);
        reinterpret_cast<dnnl_sgemm_t>(b.f)('N', 'T', b.M, b.N, b.K, 1.0f, b.x, b.K, b.w, b.K, 0.0f, b.y, b.N);
      };
    } else {
      a.f = reinterpret_cast<void*>(symbol<cblas_sgemm_t>(blas_names, "cblas_sgemm", &blas));
      if (blas)
        if (auto set = reinterpret_cast<void (*)(int)>(dlsym(blas, "openblas_set_num_threads"))) set(threads);
      call = [](void* p) {
        const Args& b = *static_cast<Args*>(p);
        reinterpret_cast<cblas_sgemm_t>(b.f)(101, 111, 112, int(b.M), int(b.N), int(b.K), 1.0f, b.x, int(b.K), b.w, int(b.K), 0.0f,
                                             b.y, int(b.N));
      };
    }
    if (!a.f) {
      printf("{\"gflops\": null}\n");
      fflush(stdout);
      continue;
    }
    call(&a);
    std::vector<double> seconds;
    for (const double end = now() + ms * 1e-3; now() < end || seconds.size() < 3;) {
      const double t = now();
      call(&a);
      seconds.push_back(now() - t);
    }
    std::sort(seconds.begin(), seconds.end());
    printf("{\"gflops\": %.2f}\n", 2.0 * double(M) * double(N) * double(K) / seconds[seconds.size() / 2] * 1e-9);
    fflush(stdout);
  }
}
