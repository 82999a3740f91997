// Which document each token of a flat sequence is of, and lists with an item per document as kernels read them.
//
// Such lists (what sequences keep) are others every time a sequence joins or leaves: up to kNear items travel as kernel parameters, by
// value, which a graph records with the launch. Tables that live as long as the device (Context::constant) would pile up.
#pragma once
#include <vector>

#include "../host/context.h"

namespace esft::cuda {

template <class Item>
struct Items {
  static constexpr int kNear = 96;
  const Item* far;  // longer lists; nullptr: near
  int64_t count;
  Item near[kNear];
  __device__ __forceinline__ const Item& at(int64_t i) const { return far ? far[i] : near[i]; }
};

// make(i): the item of tensor i.
template <class Item, class F>
Items<Item> items_of(Context& c, int64_t count, F make) {
  Items<Item> items = {};
  items.count = count;
  if (count <= Items<Item>::kNear) {
    for (int64_t i = 0; i < count; i++) items.near[i] = make(i);
    return items;
  }
  std::vector<Item> all(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; i++) all[size_t(i)] = make(i);
  items.far = c.constant_of(all.data(), count);
  return items;
}

// On the device. Safe to follow whatever doc_start holds; `sound` is 0 where it held something wrong, which has been reported: then nothing
// that is kept may be changed.
struct Documents {
  const int32_t* of;  // [T], −1: none
  const int32_t* begin;  // [count + 1], the first token of each and T
  const int32_t* sound;
};

// Checks doc_start, and that it has as many documents as the list `list` has items.
Documents documents_on_device(Context& c, esft_op op, FaultArgument list, const esft_tensor& doc_start, int64_t items);

// The same, and what else attention_cached.h asks of positions and of rooms[i], the rows of cache i.
Documents documents_in_caches(Context& c, esft_op op, const esft_tensor& doc_start, const esft_tensor& positions,
                              const esft_tensor_list& caches, int64_t window, int64_t chunk);

}  // namespace esft::cuda
