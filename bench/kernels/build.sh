#!/bin/sh
# Builds the programs of this folder from the objects of the addon's build and puts them into build/kernels:
#   compare_products   the product kernels of every instruction set against the references
#   gemm_bench         their speed, compiled for the best instruction set of this machine
# bench/kernels/build.sh [compare_products | gemm_bench]: one, or both
set -e
cd "$(dirname "$0")/../.."
[ -f build-cmake/Release/CMakeCache.txt ] || npm run -s build:native
best=baseline
if grep -qw avx2 /proc/cpuinfo; then best=avx2; fi
if grep -qw avx512bw /proc/cpuinfo; then best=avx512; fi
if grep -qw avx512_bf16 /proc/cpuinfo; then best=avx512bf16; fi
for program in ${1:-compare_products gemm_bench}; do
  target=$program
  if [ "$program" = gemm_bench ]; then target=gemm_bench_$best; fi
  cmake --build build-cmake/Release --target "$target"
  [ "$target" = "$program" ] || ln -sf "$target" "build/kernels/$program"
done
