// What a thread does between two looks at a word that another one is about to write.
#pragma once

namespace esft {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // as long as x86's pause; yield is over at once
#endif
}

}  // namespace esft
