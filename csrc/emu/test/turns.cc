// Turns: CTAs add to the same sums in the order of their tickets, by the copy engine. Right, with a wait for the reading alone, and
// with a wait for a CTA that begins later.
#include "harness.h"

namespace esft::emu::test {

namespace ptx = cuda::ptx;

constexpr int kCtas = 7, kRounds = 4, kSums = 64;  // sums of a round
constexpr size_t kSharedBytes = 2 * kSums * sizeof(float) + sizeof(int);

static float part(int ticket, int round, int i) {
  constexpr float kSizes[] = {1e8f, 3.f, -1e8f, 7e-3f};  // whose sums depend on their order
  return kSizes[(ticket + round) % 4] * float(1 + i % 5);
}

struct Turns {
  float* sums;  // [kRounds, kSums]
  uint32_t* counters;  // a turn per round, the ticket
};

// Two buffers; thread 0 hands them over, all fill them. kWritten: the turn goes on when the sums are written, not only read.
template <bool kWritten>
static void add_in_turns(Turns t) {
  ESFT_SHARED(smem);
  int* const shared_ticket = reinterpret_cast<int*>(smem + 2 * kSums * sizeof(float));
  if (threadIdx.x == 0) *shared_ticket = int(atomicAdd(t.counters + kRounds, 1u));
  __syncthreads();
  const int ticket = *shared_ticket;
  for (int round = 0; round < kRounds; round++) {
    float* const buffer = reinterpret_cast<float*>(smem) + round % 2 * kSums;
    if (threadIdx.x == 0 && round >= 2) ptx::bulk_wait_read<1>();
    __syncthreads();
    for (int i = int(threadIdx.x); i < kSums; i += int(blockDim.x)) buffer[i] = part(ticket, round, i);
    ptx::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x != 0) continue;
    ptx::turn_wait(t.counters, round, uint32_t(ticket));
    if (ticket == 0)
      ptx::bulk_store(t.sums + round * kSums, buffer, kSums * sizeof(float));
    else
      ptx::bulk_reduce_add(t.sums + round * kSums, buffer, kSums * sizeof(float));
    ptx::bulk_commit();
    if (kWritten)
      ptx::bulk_wait<0>();
    else
      ptx::bulk_wait_read<0>();
    ptx::turn_pass(t.counters, round);
  }
}

template <bool kWritten>
static bool sums_are_right(const char* schedule) {
  set_schedule(schedule);
  Buffer<float> sums(size_t(kRounds * kSums));
  Buffer<uint32_t> counters(std::vector<uint32_t>(kRounds + 1, 0));
  const Turns t{sums.device, counters.device};
  launch(nullptr, "add_in_turns", dim3(kCtas), dim3(64), kSharedBytes, [=] { add_in_turns<kWritten>(t); }, 0);
  cudaStreamSynchronize(nullptr);
  const std::vector<float> got = sums.host();
  for (int round = 0; round < kRounds; round++)
    for (int i = 0; i < kSums; i++) {
      float want = part(0, round, i);
      for (int ticket = 1; ticket < kCtas; ticket++) want += part(ticket, round, i);
      if (got[size_t(round * kSums + i)] != want) return false;
    }
  return true;
}

void test_turns() {
  for (const char* schedule : kSchedules) check(sums_are_right<true>(schedule), std::string("sums in turns, ") + schedule);
  check(!sums_are_right<false>("late"), "a turn passed on before the sums are written is seen");
  set_schedule("eager");
  Buffer<uint32_t> counter(std::vector<uint32_t>(1, 0));
  expect_fault("wait for a CTA that begins later", "wait for turn 0 to be 9 (it is 0)", [p = counter.device] {
    const auto kernel = [p] {
      if (blockIdx.x < 9)
        ptx::turn_wait(p, 0, 9);
      else
        ptx::turn_pass(p, 0);
    };
    launch(nullptr, "planted", dim3(18), dim3(1), 0, kernel, 0);
    cudaStreamSynchronize(nullptr);
  });
  Buffer<float> x(size_t(64));
  expect_fault("an end while a bulk copy reads", "the CTA ended while a bulk copy reads shared offset 128", [p = x.device] {
    set_schedule("late");
    run("planted", dim3(1), dim3(1), 256, [p] {
      ESFT_SHARED(smem);
      ptx::bulk_store(p, smem + 128, 64);
      ptx::bulk_commit();
    });
  });
  expect_fault("a misaligned bulk copy", "bulk store: destination", [p = x.device] {
    run("planted", dim3(1), dim3(1), 256, [p] {
      ESFT_SHARED(smem);
      ptx::bulk_store(p + 1, smem, 16);
    });
  });
}

}  // namespace esft::emu::test
