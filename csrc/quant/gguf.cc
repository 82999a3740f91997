#include "gguf.h"

#include "floats.h"

namespace esft {

void q8_0_block(const uint8_t* block, float* out) {
  const float d = f16_to_f32(load<uint16_t>(block));
  for (int i = 0; i < 32; i++) out[i] = d * float(int8_t(block[2 + i]));
}

void mxfp4_block(const uint8_t* block, float* out) {
  // Half of the scale and twice the code: 2^128 is no f32.
  const float half = block[0] < 2 ? from_bits(0x00200000u << block[0]) : from_bits(uint32_t(block[0] - 1) << 23);
  for (int i = 0; i < 16; i++) {
    out[i] = 2 * kE2m1Values[block[1 + i] & 15] * half;
    out[16 + i] = 2 * kE2m1Values[block[1 + i] >> 4] * half;
  }
}

void q4_K_block(const uint8_t* block, float* out) {
  const float d = f16_to_f32(load<uint16_t>(block)), dmin = f16_to_f32(load<uint16_t>(block + 2));
  const uint8_t *six = block + 4, *codes = block + 16;
  for (int group = 0; group < 8; group++) {
    // Groups 0..3: six bits each. 4..7: four low bits here, the two high ones above those of group - 4.
    const int scale = group < 4 ? six[group] & 63 : (six[group + 4] & 15) | (six[group - 4] >> 6 << 4);
    const int least = group < 4 ? six[group + 4] & 63 : (six[group + 4] >> 4) | (six[group] >> 6 << 4);
    const float s = d * float(scale), m = dmin * float(least);
    const uint8_t* at = codes + group / 2 * 32;
    for (int i = 0; i < 32; i++) out[group * 32 + i] = s * float(group % 2 ? at[i] >> 4 : at[i] & 15) - m;
  }
}

void q6_K_block(const uint8_t* block, float* out) {
  const uint8_t *low = block, *high = block + 128, *scales = block + 192;
  const float d = f16_to_f32(load<uint16_t>(block + 208));
  for (int i = 0; i < 256; i++) {
    const int half = i / 128, quarter = i % 128 / 32, l = i % 32;
    const uint8_t nibbles = low[half * 64 + quarter % 2 * 32 + l];
    const int q = (quarter < 2 ? nibbles & 15 : nibbles >> 4) | (high[half * 32 + l] >> (2 * quarter) & 3) << 4;
    out[i] = d * float(int8_t(scales[i / 16])) * float(q - 32);
  }
}

}  // namespace esft
