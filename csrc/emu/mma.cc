// ldmatrix, stmatrix and mma.sync m16n8k16: one call for the whole warp.
#include "machine.h"

namespace esft::emu {

static float bf16_float(uint32_t bits) { return esft_emu_bits<float>(bits << 16); }

struct LdmatrixArguments {
  uint32_t* r;
  const unsigned char* row;
  bool transposed;
};

static void run_ldmatrix(void* const* arguments, unsigned present) {
  if (present != 0xffffffffu) fail("ldmatrix in an incomplete warp");
  const auto lane = [&](int i) -> LdmatrixArguments& { return *static_cast<LdmatrixArguments*>(arguments[i]); };
  for (int m = 0; m < 4; m++) {
    uint16_t matrix[8][8];
    for (int r = 0; r < 8; r++) memcpy(matrix[r], lane(m * 8 + r).row, 16);
    for (int l = 0; l < 32; l++) {
      const int i = l / 4, j = 2 * (l % 4);
      lane(l).r[m] =
          lane(l).transposed ? matrix[j][i] | uint32_t(matrix[j + 1][i]) << 16 : matrix[i][j] | uint32_t(matrix[i][j + 1]) << 16;
    }
  }
}
static constexpr Collective kLdmatrix{"ldmatrix", run_ldmatrix};
static constexpr Collective kLdmatrixTrans{"ldmatrix.trans", run_ldmatrix};

void ldmatrix(uint32_t* r, const void* row, bool transposed) {
  check_shared(row, 16, 16, "ldmatrix");
  LdmatrixArguments arguments{r, static_cast<const unsigned char*>(row), transposed};
  warp_collective(transposed ? kLdmatrixTrans : kLdmatrix, &arguments, 0xffffffffu);
}

struct StmatrixArguments {
  const uint32_t* r;
  unsigned char* row;
};

static void run_stmatrix(void* const* arguments, unsigned present) {
  if (present != 0xffffffffu) fail("stmatrix in an incomplete warp");
  const auto lane = [&](int i) -> StmatrixArguments& { return *static_cast<StmatrixArguments*>(arguments[i]); };
  for (int m = 0; m < 4; m++)
    for (int l = 0; l < 32; l++) memcpy(lane(m * 8 + l / 4).row + l % 4 * 4, &lane(l).r[m], 4);
}
static constexpr Collective kStmatrix{"stmatrix", run_stmatrix};

void stmatrix(void* row, const uint32_t* r) {
  require_sm90("stmatrix");
  check_shared(row, 16, 16, "stmatrix");
  StmatrixArguments arguments{r, static_cast<unsigned char*>(row)};
  warp_collective(kStmatrix, &arguments, 0xffffffffu);
}

struct MmaArguments {
  float* d;
  const uint32_t* a;
  uint32_t b[2];
};

static void run_mma(void* const* arguments, unsigned present) {
  if (present != 0xffffffffu) fail("mma.sync in an incomplete warp");
  const auto lane = [&](int i) -> MmaArguments& { return *static_cast<MmaArguments*>(arguments[i]); };
  float a[16][16], b[16][8], d[16][8];
  for (int l = 0; l < 32; l++) {
    const MmaArguments& own = lane(l);
    const int g = l / 4, q = 2 * (l % 4);
    for (int i = 0; i < 4; i++) {
      const int row = g + 8 * (i & 1), k = q + 8 * (i >> 1);
      a[row][k] = bf16_float(own.a[i] & 0xffff);
      a[row][k + 1] = bf16_float(own.a[i] >> 16);
    }
    for (int i = 0; i < 2; i++) {
      b[q + 8 * i][g] = bf16_float(own.b[i] & 0xffff);
      b[q + 8 * i + 1][g] = bf16_float(own.b[i] >> 16);
    }
    for (int i = 0; i < 4; i++) d[g + 8 * (i >> 1)][q + (i & 1)] = own.d[i];
  }
  for (int i = 0; i < 16; i++) {
    for (int k = 0; k < 16; k++) {
      for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int l = 0; l < 32; l++) {
    for (int i = 0; i < 4; i++) lane(l).d[i] = d[l / 4 + 8 * (i >> 1)][2 * (l % 4) + (i & 1)];
  }
}
static constexpr Collective kMma{"mma.sync", run_mma};

void mma_16816(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  MmaArguments arguments{d, a, {b0, b1}};
  warp_collective(kMma, &arguments, 0xffffffffu);
}

}  // namespace esft::emu
