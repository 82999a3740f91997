// See fiber.h.
#include "fiber.h"

#include "machine.h"

namespace esft::emu {

#if defined(__x86_64__) && !defined(ESFT_EMU_UCONTEXT)

// esft_emu_switch(rdi: where to save the stack pointer, rsi: the stack pointer to continue with)
asm(R"(
.text
.p2align 4
.hidden esft_emu_switch
.globl esft_emu_switch
.type esft_emu_switch,@function
esft_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size esft_emu_switch,.-esft_emu_switch
.hidden esft_emu_start
.globl esft_emu_start
.type esft_emu_start,@function
esft_emu_start:
  movq %rbx, %rdi
  callq *%r12
  ud2
.size esft_emu_start,.-esft_emu_start
)");
extern "C" void esft_emu_switch(void** save, void* load) ESFT_EMU_HIDDEN;
extern "C" void esft_emu_start() ESFT_EMU_HIDDEN;

Fiber* make_fiber(void (*entry)(Fiber*)) {
  auto* fiber = new Fiber{};
  // What esft_emu_switch pops: r15 r14 r13 r12 rbx rbp, then the address to return to. At esft_emu_start the stack is 16-byte aligned.
  // Stacks start at different offsets, or they would all compete for the same cache sets.
  static unsigned colour = 0;
  auto* top = static_cast<void**>(map_stack(kStackBytes)) - 2 - (colour++ * 40 % 2048);
  void** frame = top - 7;
  for (int i = 0; i < 9; i++) frame[i] = nullptr;
  frame[3] = reinterpret_cast<void*>(entry);
  frame[4] = fiber;
  frame[6] = reinterpret_cast<void*>(&esft_emu_start);
  fiber->stack_pointer = frame;
  return fiber;
}

void switch_fiber(Fiber* from, Fiber* to) { esft_emu_switch(&from->stack_pointer, to->stack_pointer); }

#else

static void start(unsigned high, unsigned low, unsigned entry_high, unsigned entry_low) {
  auto* fiber = reinterpret_cast<Fiber*>(uintptr_t(high) << 32 | low);
  reinterpret_cast<void (*)(Fiber*)>(uintptr_t(entry_high) << 32 | entry_low)(fiber);
}

Fiber* make_fiber(void (*entry)(Fiber*)) {
  auto* fiber = new Fiber{};
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = static_cast<char*>(map_stack(kStackBytes)) - kStackBytes;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  const auto f = reinterpret_cast<uintptr_t>(fiber), e = reinterpret_cast<uintptr_t>(entry);
  makecontext(&fiber->context, reinterpret_cast<void (*)()>(start), 4, unsigned(f >> 32), unsigned(f), unsigned(e >> 32),
              unsigned(e));
  return fiber;
}

void switch_fiber(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }

#endif

}  // namespace esft::emu
