// ldmatrix, mma.sync and wgmma against plain loops.
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

// out[16, 8] = a[16, 16] · b; b_trans: b is stored [16 k, 8 n] (rows of 8) and read transposed, else [8 n, 16 k].
static void warp_product(const uint16_t* a, const uint16_t* b, float* out, bool b_trans) {
  ESFT_SHARED(smem);
  auto* sa = reinterpret_cast<uint16_t*>(smem);
  uint16_t* sb = sa + 256;
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) sa[i] = a[i];
  for (int i = lane; i < 128; i += 32) sb[i] = b[i];
  __syncwarp();
  uint32_t fa[4], fb[4];
  // Matrices of A: rows 0..7 and 8..15 of columns 0..7, then of columns 8..15.
  ptx::ldmatrix_x4(fa, sa + (lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8);
  // Two matrices hold b; the other two lanes' groups read the same rows again.
  const int m = lane / 8 % 2;
  if (b_trans) {
    ptx::ldmatrix_x4_trans(fb, sb + (m * 8 + lane % 8) * 8);
  } else {
    ptx::ldmatrix_x4(fb, sb + lane % 8 * 16 + m * 8);
  }
  float d[4] = {1.f, 1.f, 1.f, 1.f};
  ptx::mma_16816(d, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; i++) out[(lane / 4 + 8 * (i >> 1)) * 8 + 2 * (lane % 4) + (i & 1)] = d[i];
}

static bool warp_product_matches(bool b_trans) {
  const auto a = random_bf16(256, 1), b = random_bf16(128, 2);
  Buffer<uint16_t> da(a), db(b);
  Buffer<float> out(size_t(128));
  run("warp_product", dim3(1), dim3(32), 1024,
      [=, p = da.device, q = db.device, o = out.device] { warp_product(p, q, o, b_trans); });
  const auto host = out.host();
  for (int i = 0; i < 16; i++) {
    for (int j = 0; j < 8; j++) {
      float sum = 1.f;
      for (int k = 0; k < 16; k++)
        sum += bf16_value(a[size_t(i * 16 + k)]) * bf16_value(b[size_t(b_trans ? k * 8 + j : j * 16 + k)]);
      if (host[size_t(i * 8 + j)] != sum) return false;
    }
  }
  return true;
}

constexpr int kDepth = 64;

// Writes element (row, col) of a swizzled tile whose 64-column slabs lie slab_bytes apart.
static void put(unsigned char* tile, int row, int col, int slab_bytes, uint16_t value) {
  unsigned char* slab = tile + col / 64 * slab_bytes;
  *reinterpret_cast<uint16_t*>(slab + row * 128 + ((col % 64 / 8) ^ (row & 7)) * 16 + col % 8 * 2) = value;
}

// out[64, N] = 2·(a[64, K] · b[K, N]) by accumulating twice; K = 64. a is stored [64, K] or (kTransA) [K, 64]; b [N, K] or (kTransB) [K, N].
// planted: the fragments of A change while they are in flight.
template <int N, int kTransA, int kTransB, bool kRegisters>
static void group_product(const uint16_t* a, const uint16_t* b, float* out, bool planted = false) {
  ESFT_SHARED(smem);
  unsigned char *sa = smem, *sb = smem + 8192;
  const int t = int(threadIdx.x);
  for (int i = t; i < 64 * kDepth; i += 128) put(sa, i / 64, i % 64, 0, a[i]);
  for (int i = t; i < N * kDepth; i += 128) {
    if (kTransB) {
      put(sb, i / N, i % N, kDepth * 128, b[i]);
    } else {
      put(sb, i / kDepth, i % kDepth, 0, b[i]);
    }
  }
  ptx::fence_proxy_async();
  __syncthreads();
  float acc[N / 2];
  const uint64_t da = ptx::smem_desc(sa, kTransA ? 8192 : 16, 1024), db = ptx::smem_desc(sb, kTransB ? kDepth * 128 : 16, 1024);
  uint32_t fa[kDepth / 16][4];
  for (int k = 0; k < kDepth / 16; k++)
    for (int i = 0; i < 4; i++) {
      const int row = 16 * (t / 32) + t % 32 / 4 + 8 * (i & 1), col = 16 * k + 2 * (t % 4) + 8 * (i >> 1);
      fa[k][i] = a[row * 64 + col] | uint32_t(a[row * 64 + col + 1]) << 16;
    }
  ptx::warpgroup_fence_operand(acc);
  ptx::warpgroup_fence_operand(fa);
  for (int pass = 0; pass < 2; pass++) {
    ptx::wgmma_fence();
    for (int k = 0; k < kDepth / 16; k++) {
      const uint64_t dbk = ptx::desc_advance(db, uint32_t(k) * (kTransB ? 2048 : 32));
      if constexpr (kRegisters) {
        ptx::wgmma_rs<N, kTransB>(acc, fa[k], dbk, pass > 0 || k > 0);
      } else {
        ptx::wgmma<N, kTransA, kTransB>(acc, ptx::desc_advance(da, uint32_t(k) * (kTransA ? 2048 : 32)), dbk, pass > 0 || k > 0);
      }
    }
    ptx::wgmma_commit();
  }
  if (planted) fa[3][t % 4] = 0;
  ptx::warpgroup_fence_operand(fa);
  ptx::wgmma_wait<1>();
  out[t] = acc[0];  // still in flight: NaN
  ptx::wgmma_wait<0>();
  ptx::warpgroup_fence_operand(acc);
  for (int i = 0; i < N / 2; i++) {
    out[128 + (16 * (t / 32) + t % 32 / 4 + 8 * ((i >> 1) & 1)) * N + 8 * (i >> 2) + 2 * (t % 4) + (i & 1)] = acc[i];
  }
}

template <int N, int kTransA, int kTransB, bool kRegisters>
static void check_group_product() {
  bool ok = true, poisoned = true;
  const auto a = random_bf16(64 * kDepth, 3), b = random_bf16(size_t(N) * kDepth, 4);
  for (const char* schedule : kSchedules) {
    set_schedule(schedule);
    Buffer<uint16_t> da(a), db(b);
    Buffer<float> out(size_t(64 * N + 128));
    run("group_product", dim3(1), dim3(128), 8192 + ((N + 63) / 64) * kDepth * 128,
        [p = da.device, q = db.device, o = out.device] { group_product<N, kTransA, kTransB, kRegisters>(p, q, o); });
    const auto host = out.host();
    for (int t = 0; t < 128; t++) poisoned &= host[size_t(t)] != host[size_t(t)];
    for (int i = 0; i < 64; i++) {
      for (int j = 0; j < N; j++) {
        float sum = 0;
        for (int k = 0; k < kDepth; k++) {
          sum += bf16_value(a[size_t(kTransA ? k * 64 + i : i * 64 + k)]) *
                 bf16_value(b[size_t(kTransB ? k * N + j : j * kDepth + k)]);
        }
        ok &= host[size_t(128 + i * N + j)] == 2 * sum;
      }
    }
  }
  char name[128];
  snprintf(name, sizeof name, "wgmma m64n%dk16, A %s, B %s; NaN while in flight", N,
           kRegisters ? "in registers" : (kTransA ? "MN-major" : "K-major"), kTransB ? "MN-major" : "K-major");
  check(ok && poisoned, name);
}

static std::vector<float> planted_product(const char* schedule) {
  set_schedule(schedule);
  Buffer<uint16_t> a(random_bf16(64 * kDepth, 3)), b(random_bf16(size_t(64) * kDepth, 4));
  Buffer<float> out(size_t(64 * 64 + 128));
  run("planted", dim3(1), dim3(128), 16384,
      [p = a.device, q = b.device, o = out.device] { group_product<64, 0, 1, true>(p, q, o, true); });
  auto host = out.host();
  host.erase(host.begin(), host.begin() + 128);
  return host;
}

static void round_pairs(const float* in, uint32_t* out) {
  out[threadIdx.x] = ptx::pack_bf16x2(in[2 * threadIdx.x], in[2 * threadIdx.x + 1]);
}

void test_products() {
  set_schedule("eager");
  check(warp_product_matches(false), "ldmatrix and mma.sync m16n8k16");
  check(warp_product_matches(true), "ldmatrix.trans and mma.sync m16n8k16");
  check_group_product<64, 0, 0, false>();
  check_group_product<96, 0, 0, false>();
  check_group_product<128, 0, 1, false>();
  check_group_product<192, 1, 0, false>();
  check_group_product<256, 1, 1, false>();
  check_group_product<256, 0, 0, false>();
  check_group_product<128, 0, 0, true>();
  check_group_product<64, 0, 1, true>();
  check(planted_product("eager") != planted_product("late"), "fragments of A that change in flight give other results under late");
  set_schedule("eager");

  const std::vector<float> values = {1.f, -2.5f, 1.00390625f, 1.01171875f, NAN, -INFINITY, 3.4e38f, 1e-40f};
  Buffer<float> in(values);
  Buffer<uint32_t> out(size_t(4));
  run("round_pairs", dim3(1), dim3(4), 0, [p = in.device, q = out.device] { round_pairs(p, q); });
  const std::vector<uint32_t> expected = {0xc0203f80, 0x3f823f80, 0xff807fff, 0x00017f80};
  check(out.host() == expected, "bf16 rounding: ties to even, NaN, infinities, overflow, denormals");
}

}  // namespace esft::emu::test
