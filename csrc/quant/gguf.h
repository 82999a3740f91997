// Blocks of GGUF tensors as f32: ggml-common.h and ggml-quants.c of ggml.
//
//   q8_0    32 values, 34 bytes: f16 d, 32 i8                                                d*q
//   mxfp4   32 values, 17 bytes: e8m0 scale, 16 bytes: low nibbles 0..15, high ones 16..31   e2m1 * 2^(s-127)
//   q4_K   256 values, 144 bytes: f16 d, f16 dmin, 12 bytes of eight 6-bit scales and minima, 128 bytes of nibbles: of each 64 values
//          the low ones, then the high ones                                                  (d*sc)*q - dmin*m
//   q6_K   256 values, 210 bytes: 128 bytes of low nibbles, 64 of high bits, 16 i8 scales, f16 d   (d*sc)*(q-32)
#pragma once
#include <stdint.h>

namespace esft {

void q8_0_block(const uint8_t* block, float* out);
void mxfp4_block(const uint8_t* block, float* out);
void q4_K_block(const uint8_t* block, float* out);
void q6_K_block(const uint8_t* block, float* out);

}  // namespace esft
