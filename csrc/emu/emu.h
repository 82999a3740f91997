// The emulation's own interface: how kernels are started and in which order their threads and asynchronous operations run.
#pragma once
#include <cuda_runtime.h>

#include <functional>

namespace esft::emu {

// A wait that will never end: that of the thread that has waited longest. cta: linear in the grid; at: shared offset of an mbarrier, number
// of a named barrier.
struct Hang {
  int op, barrier;  // of the wrapper's WaitSite
  int64_t cta;
  int thread;
  int64_t at, parity;
};

// Runs the kernel (one call of it = one thread) for every thread of every CTA, in stream order; the CTAs of a cluster together. cluster = 0:
// no clusters, but CTAs that wait for one another (ptx::turn_wait), of which several run side by side, as they do on a GPU.
// `early`: it may begin before the kernels before it have ended. What those wrote is not there yet, and they may still read: its threads
// must not touch device memory before they wait (dependency_wait), and must wait before they end.
void launch(cudaStream_t stream, const char* name, dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel,
            int cluster = 1, std::function<void(const Hang&)> hung = nullptr, bool early = false);

// ESFT_EMU_LOSE=WHAT:N stands in for a broken kernel: the Nth copy of the copy engine never lands (copy), the Nth arrival at an mbarrier
// (arrival) or at a named barrier (barrier) does not count, nor the Nth turn that is passed on (turn). While it is set a deadlock is no report and abort, but ends as the
// bounded waits of the debug build do on a GPU: `hung` is told, and the device serves nothing more.
bool loses(const char* what);
bool loses_anything();

// The choice of one order of events among those the hardware may take. A correct kernel gives the same bits under all.
//   eager        threads ascending; asynchronous copies and wgmma operand reads happen when they are issued; streams at once
//   late         threads descending; copies land after every other thread had its turn, wgmma reads its operands in the wait,
//                a thread that arrives on an mbarrier falls behind; streams run when the host waits for them, the one made last first,
//                and of the others only what it waits for by events
//   random:SEED  orders of threads, CTAs and streams, delays of copies and operand reads drawn from the seed
// A stream has that of ESFT_EMU_SCHEDULE when it was created, eager without it; the stream used last decides. After set_schedule all
// have the one given. False: not a schedule.
bool set_schedule(const char* text);
const char* schedule_text();

}  // namespace esft::emu
