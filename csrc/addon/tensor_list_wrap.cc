// TensorList: operands of a grouped op, gathered once.
#include <algorithm>

#include "wraps.h"

namespace esft {

Napi::Function TensorListWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTensorList", {InstanceMethod<&TensorListWrap::dispose>("dispose")});
}
TensorListWrap::TensorListWrap(const Napi::CallbackInfo& info) : ArgumentWrap<TensorListWrap>(info) {
  translated(info.Env(), [&] {
    const char* op = "TensorList";
    if (!info[0].IsArray()) fail(op, "tensors", "an array of Tensor", "something else");
    Napi::Array a = info[0].As<Napi::Array>();
    const uint32_t n = a.Length();
    if (n > (1u << 24)) fail(op, "tensors", "at most 2^24", std::to_string(n));
    auto list = std::make_shared<ListItems>();
    for (uint32_t i = 0; i < n; i++) {
      TensorWrap* w = TensorWrap::unwrap(a.Get(i));
      if (!w) fail(op, "tensors", "Tensors", format("something else at index %u", i));
      if (w->disposed()) throw Error(kDisposed, op, "tensors", format("TensorList: tensor %u was disposed", i));
      if (w->owner) {
        if (owner && owner != w->owner) fail(op, "tensors", "of one device", format("another device at index %u", i));
        owner = w->owner;
      }
      list->tensors.push_back(w->tensor);
      list->buffers.push_back(w->buffer);
      list->any_read_only = list->any_read_only || w->buffer->read_only;
      if (w->buffer->mapped && std::find(list->files.begin(), list->files.end(), w->buffer.get()) == list->files.end())
        list->files.push_back(w->buffer.get());
    }
    items = std::move(list);
  });
}

Napi::Value TensorListWrap::dispose(const Napi::CallbackInfo& info) {
  items.reset();
  owner.reset();
  return info.Env().Undefined();
}

}  // namespace esft
