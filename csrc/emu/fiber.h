// Fibers: stacks that run one after another in one host thread. A switch saves the callee-saved registers, no system call; on
// other machines than x86-64 (or with ESFT_EMU_UCONTEXT) it is swapcontext.
#pragma once
#include <stddef.h>
#if !defined(__x86_64__) || defined(ESFT_EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace esft::emu {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  Fiber* next_free;
#if !defined(__x86_64__) || defined(ESFT_EMU_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer;
#endif
};

// A fiber that starts in `entry`, which must not return.
Fiber* make_fiber(void (*entry)(Fiber*));
// Saves the running context in `from` and continues `to`.
void switch_fiber(Fiber* from, Fiber* to);

}  // namespace esft::emu
