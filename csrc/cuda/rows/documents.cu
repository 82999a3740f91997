// Numbers the documents of a flat sequence and checks what index tensors say of them (the words: ops/checks.cc, attention_cached.cc).
// One block: decoding has a few tokens, and every layer asks again; bound by a launch.
#include "documents.cuh"

#include "../host/launch.h"
#include "../reduce.cuh"

namespace esft::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int64_t kNone = INT64_MAX;

struct DocumentParams {
  const int32_t *doc_start, *positions;  // positions: nullptr, nothing is asked of them
  int64_t T, window, chunk;
  FaultRecord* faults;
  int32_t *of, *begin, *sound;
  int32_t op;
  FaultArgument list;
  Items<int32_t> rooms;  // rows of each cache; without positions only their number counts
};

// What attention_cached.h says of token t, whose document is of the caches.
__device__ __forceinline__ FaultKind bad_position(const DocumentParams& p, int64_t t, int32_t document) {
  const int64_t start = min_of(max_of(int64_t(p.doc_start[t]), int64_t(0)), t), at = p.positions[t];
  if (at < 0 || (start < t && at != int64_t(p.positions[t - 1]) + 1)) return kBadPosition;
  return at - first_cached(p.positions[start], p.window, p.chunk) >= p.rooms.at(document) ? kNoRoom : kNoFault;
}

__device__ __forceinline__ void report_document(const DocumentParams& p, int64_t t, int32_t document) {
  if (document >= p.rooms.count) return report_fault(p.faults, kBadDocuments, p.op, p.list, t, document + 1, p.rooms.count);
  const int64_t start = min_of(max_of(int64_t(p.doc_start[t]), int64_t(0)), t), at = p.positions[t];
  if (bad_position(p, t, document) == kBadPosition)
    return report_fault(p.faults, kBadPosition, p.op, kArgPositions, t, at, start < t ? int64_t(p.positions[t - 1]) + 1 : 0,
                        start < t);
  report_fault(p.faults, kNoRoom, p.op, p.list, document, first_cached(p.positions[start], p.window, p.chunk), p.rooms.at(document),
               int(at));
}

// The lowest of all threads, for thread 0.
__device__ __forceinline__ int64_t lowest(int64_t x, int64_t* of_warp) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) x = min_of(x, __shfl_xor_sync(kFullWarp, x, step));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; threadIdx.x == 0 && w < kWarps; w++) x = min_of(x, of_warp[w]);
  __syncthreads();
  return x;
}

__global__ void __launch_bounds__(kThreads) number_documents(const EarlyStart early, const DocumentParams p) {
  early.wait();
  ESFT_SHARED(smem);
  int64_t* const of_warp = reinterpret_cast<int64_t*>(smem);  // [kWarps]
  int32_t* const opened = reinterpret_cast<int32_t*>(of_warp + kWarps);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int64_t i = threadIdx.x; i <= p.rooms.count; i += kThreads) p.begin[i] = int32_t(p.T);
  int64_t bad_start = kNone, bad = kNone;
  int32_t before = 0;
  for (int64_t t0 = 0; t0 < p.T; t0 += kThreads) {
    const int64_t t = t0 + threadIdx.x;
    const int32_t start = t < p.T ? p.doc_start[t] : -1;
    const bool opens = t < p.T && start == t;
    const unsigned vote = __ballot_sync(kFullWarp, opens);
    if (lane == 0) opened[warp] = __popc(vote);
    __syncthreads();
    int32_t document = before + __popc(vote & ((2u << lane) - 1)) - 1;
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) document += opened[w];
      before += opened[w];
    }
    __syncthreads();
    if (t >= p.T) continue;
    if (start < (t ? p.doc_start[t - 1] : 0) || start > t) bad_start = min_of(bad_start, t);
    bool good = document >= 0 && document < p.rooms.count;
    // Of documents too many the first one is told, as is the first token that stands or fits wrongly.
    if (p.positions && document >= p.rooms.count) bad = min_of(bad, t);
    if (p.positions && good && bad_position(p, t, document) != kNoFault) bad = min_of(bad, t), good = false;
    p.of[t] = good ? document : -1;
    if (opens && good) p.begin[document] = int32_t(t);
  }
  bad_start = lowest(bad_start, of_warp);
  bad = lowest(bad, of_warp);
  if (threadIdx.x != 0) return;
  const bool sound = bad_start == kNone && bad == kNone && before == p.rooms.count;
  *p.sound = sound;
  if (sound) return;
  if (bad_start != kNone) {
    report_fault(p.faults, kBadDocStart, p.op, kArgDocStart, bad_start, p.doc_start[bad_start],
                 bad_start ? p.doc_start[bad_start - 1] : 0);
  } else if (bad != kNone) {
    // Its document: those that open up to it.
    int32_t document = -1;
    for (int64_t t = 0; t <= bad; t++) document += p.doc_start[t] == t;
    report_document(p, bad, document);
  } else {
    report_fault(p.faults, kBadDocuments, p.op, p.list, -1, before, p.rooms.count, p.positions != nullptr);
  }
}

Documents number(Context& c, DocumentParams p, esft_op op, const esft_tensor& doc_start) {
  p.doc_start = data<int32_t>(doc_start);
  p.T = numel(doc_start);
  p.faults = c.faults;
  p.op = op;
  p.of = c.scratch_of<int32_t>(p.T + p.rooms.count + 2);
  p.begin = p.of + p.T;
  p.sound = p.begin + p.rooms.count + 1;
  ESFT_LAUNCH((number_documents), c, dim3(1), kThreads, kWarps * (sizeof(int64_t) + sizeof(int32_t)), p);
  return {p.of, p.begin, p.sound};
}

}  // namespace

Documents documents_on_device(Context& c, esft_op op, FaultArgument list, const esft_tensor& doc_start, int64_t items) {
  DocumentParams p = {};
  p.list = list;
  p.rooms.count = items;
  return number(c, p, op, doc_start);
}

Documents documents_in_caches(Context& c, esft_op op, const esft_tensor& doc_start, const esft_tensor& positions,
                              const esft_tensor_list& caches, int64_t window, int64_t chunk) {
  DocumentParams p = {};
  p.list = kArgKCache;
  p.positions = data<int32_t>(positions);
  p.window = window;
  p.chunk = chunk;
  p.rooms = items_of<int32_t>(c, caches.count, [&](int64_t i) { return int32_t(rows(caches.items[i])); });
  return number(c, p, op, doc_start);
}

}  // namespace esft::cuda
