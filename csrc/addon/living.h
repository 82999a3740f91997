// The objects of one environment that come as arguments, as long as they live: address → class. napi_unwrap gives a pointer for
// whatever any addon has wrapped; one that is in here is ours, and this is the quickest way to know: one cache line, where a type
// tag is a property of the JavaScript object.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace esft {

class Living {
 public:
  Living() : slots_(64) {}

  void add(const void* object, const void* type) {
    if (2 * ++count_ > slots_.size()) grow();
    put({object, type});
  }

  // Null when it is not ours.
  const void* type_of(const void* object) const {
    for (size_t i = home(object); slots_[i].object; i = next(i))
      if (slots_[i].object == object) return slots_[i].type;
    return nullptr;
  }

  void remove(const void* object) {
    size_t hole = home(object);
    while (slots_[hole].object != object) hole = next(hole);
    // What stands behind moves up, unless the hole is before its home.
    for (size_t i = next(hole); slots_[i].object; i = next(i)) {
      const size_t from_home = (i - home(slots_[i].object)) & (slots_.size() - 1), from_hole = (i - hole) & (slots_.size() - 1);
      if (from_home < from_hole) continue;
      slots_[hole] = slots_[i];
      hole = i;
    }
    slots_[hole] = {};
    count_--;
  }

 private:
  struct Slot {
    const void* object = nullptr;
    const void* type = nullptr;
  };
  size_t next(size_t i) const { return (i + 1) & (slots_.size() - 1); }
  size_t home(const void* object) const {
    return (reinterpret_cast<uintptr_t>(object) * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (slots_.size() - 1);
  }
  void put(Slot slot) {
    size_t i = home(slot.object);
    while (slots_[i].object) i = next(i);
    slots_[i] = slot;
  }
  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old)
      if (slot.object) put(slot);
  }

  std::vector<Slot> slots_;  // a power of two, at most half full
  size_t count_ = 0;
};

}  // namespace esft
