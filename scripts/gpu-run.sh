#!/usr/bin/env bash
# Everything that needs a GPU, from a folder made by `npm run pack:gpu`. Wanted: an NVIDIA driver and python3; for the peer a python
# with torch (and transformers) as PYTHON.
#   ./run.sh survey [--seconds 480]               what some minutes can teach, most valuable first: results/survey.md, written all the time
#   ./run.sh [test] [sanitizer] [bench] [peer]    some of it, in the order given; without arguments test, bench, peer
# Settings: TEST_ARGS, BENCH_ARGS, PEER_ARGS (further arguments), RESULTS (a folder, ./results), ESFT_CUDA_LIBRARY.
set -uo pipefail
began=$(date +%s%3N)
cd "$(dirname "$0")"
results=${RESULTS:-$PWD/results}
mkdir -p "$results"
python=${PYTHON:-python3}
failed=()

# unpack ARCHIVE FILE OLD…: where FILE, which it holds, is not there or older; OLD goes first
unpack() {
  [ ! -e "$2" ] || [ "$1" -nt "$2" ] || return 0
  command -v "$python" > /dev/null || { echo "run.sh: python3 is needed to unpack $1"; exit 1; }
  rm -rf "${@:3}"
  "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(".")' "$1" && touch "$2" ||
    { echo "run.sh: cannot unpack $1"; exit 1; }
}
unpack runtime.tar.xz bin/node bin node_modules
unpack kernels.tar.xz build/Release/libesft_cuda.so build/Release/libesft_cuda_debug.so
export PATH=$PWD/bin:$PATH

# A report even of a machine without a driver.
if [ "${1:-}" = survey ]; then
  exec node --import tsx scripts/survey/main.ts --began "$began" --out "$results" "${@:2}"
fi

if [ -z "${ESFT_CUDA_LIBRARY:-}" ]; then
  export ESFT_CUDA_LIBRARY=$PWD/build/Release/libesft_cuda.so
  command -v nvidia-smi > /dev/null || { echo "run.sh: no nvidia-smi: this machine has no NVIDIA driver"; exit 1; }
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv | tee "$results/gpu.csv" ||
    { echo "run.sh: nvidia-smi finds no GPU"; exit 1; }
else
  echo "run.sh: ESFT_CUDA_LIBRARY=$ESFT_CUDA_LIBRARY"
fi
cp VERSION "$results/"

# stage NAME COMMAND…: output on the screen and in results/NAME.log
stage() {
  local name=$1 start=$SECONDS
  shift
  echo "── $name: $*"
  if "$@" 2>&1 | tee "$results/$name.log"; then
    echo "── $name: ok ($((SECONDS - start)) s)"
  else
    failed+=("$name")
    echo "── $name: FAILED ($((SECONDS - start)) s)"
  fi
}

[ $# -gt 0 ] || set -- test bench peer
for what in "$@"; do
  # Unquoted: settings may hold several arguments.
  # shellcheck disable=SC2086
  case $what in
    test) stage test node --import tsx scripts/test-cuda.ts --gpu --reporter=default --reporter=json --outputFile.json="$results/test.json" ${TEST_ARGS:-} ;;
    sanitizer)
      # The case tables under memcheck and racecheck of the CUDA toolkit: minutes.
      sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
      if [ -z "$sanitizer" ]; then
        echo "── sanitizer: skipped, no compute-sanitizer"
        continue
      fi
      for tool in memcheck racecheck; do
        stage "$tool" "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 9 \
          "$PWD/bin/node" --import tsx scripts/test-cuda.ts --gpu ${SANITIZER_ARGS:-test/cuda}
      done
      ;;
    bench) stage bench node --import tsx bench/main.ts --device cuda --json "$results/bench.json" --markdown "$results/bench.md" ${BENCH_ARGS:-} ;;
    peer)
      # Where `npm run bench` looks, too.
      torch=
      for candidate in ${PYTHON:-} python3 /opt/peer/bin/python; do
        "$candidate" -c 'import torch' 2> /dev/null && torch=$candidate && break
      done
      if [ -n "$torch" ]; then
        stage peer "$torch" bench/peer_torch.py --device cuda --json "$results/peer.json" ${PEER_ARGS:-}
      else
        echo "── peer: skipped, no python with torch (PYTHON names one)"
      fi
      ;;
    *)
      echo "run.sh: unknown part \"$what\"; there are survey, test, sanitizer, bench, peer"
      exit 2
      ;;
  esac
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
echo "all ok; results in $results"
