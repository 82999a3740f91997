#!/bin/sh
# Builds the product tests and benchmarks without Node: bench/kernels/build.sh [output folder]
set -e
root=$(cd "$(dirname "$0")/../.." && pwd)
out=${1:-$root/build/kernels}
mkdir -p "$out"
cd "$root"
common="-std=gnu++17 -O3 -Wall -Wextra -Wno-psabi -fPIC -DNDEBUG"
kernel="-fno-math-errno -ffp-contract=fast -fno-unswitch-loops"
avx512="-mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512"
rules="$out/rules.mk"
{
  echo "all: gemm_test gemm_bench"
  objects=""
  core="csrc/core/check.cc csrc/core/thread_pool.cc csrc/ops/checks.cc csrc/ops/gemm.cc csrc/ops/gemm_ref.cc csrc/ops/grouped_gemm.cc csrc/ops/grouped_gemm_ref.cc"
  for f in $core; do
    o=$(echo "$f" | tr / _).o
    objects="$objects $o"
    printf '%s: %s/%s\n\tg++ %s -MMD -c $< -o $@\n' "$o" "$root" "$f" "$common"
  done
  for isa in baseline avx2 avx512 avx512bf16; do
    case $isa in
      baseline) flags="" ;;
      avx2) flags="-mavx2 -mfma -mf16c" ;;
      avx512) flags="$avx512" ;;
      avx512bf16) flags="$avx512 -mavx512bf16" ;;
    esac
    for f in gemm/gemm_micro gemm/gemm_pack gemm/gemm_epilogue gemm/gemm_block gemm/gemm_engine gemm/gemm gemm/grouped_gemm rows/combine; do
      o=$isa.$(basename "$f").o
      objects="$objects $o"
      printf '%s: %s/csrc/cpu/%s.cc\n\tg++ %s %s %s -DESFT_ISA=%s -MMD -c $< -o $@\n' "$o" "$root" "$f" "$common" "$kernel" "$flags" "$isa"
    done
  done
  best=baseline  # the benchmark itself is compiled for the best instruction set of this machine
  if grep -qw avx2 /proc/cpuinfo; then best=avx2 best_flags="-mavx2 -mfma -mf16c"; fi
  if grep -qw avx512bw /proc/cpuinfo; then best=avx512 best_flags="$avx512"; fi
  if grep -qw avx512_bf16 /proc/cpuinfo; then best=avx512bf16 best_flags="$avx512 -mavx512bf16"; fi
  for t in gemm_test gemm_bench; do
    flags=""
    if [ $t = gemm_bench ]; then flags="-std=gnu++20 $kernel -DESFT_ISA=$best $best_flags"; fi
    printf '%s.o: %s/bench/kernels/%s.cc\n\tg++ %s %s -MMD -c $< -o $@\n' "$t" "$root" "$t" "$common" "$flags"
    printf '%s: %s.o %s\n\tg++ $^ -o $@ -lpthread -ldl\n' "$t" "$t" "$objects"
  done
  echo "-include *.d"
} > "$rules"
make -s -C "$out" -f rules.mk -j"$(nproc)" ${2:-all}
