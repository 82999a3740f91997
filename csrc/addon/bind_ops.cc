// An op's arguments from JavaScript values, in the order of the op's argument list: checked, put into the argument struct, queued.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "call.h"
#include "wraps.h"

namespace esft {

namespace {

const char* name_of(Takes takes) {
  switch (takes) {
    case Takes::tensor:
    case Takes::weight: return "tensor";
    case Takes::list:
    case Takes::weights: return "list";
    case Takes::ints: return "ints";
    case Takes::i64: return "i64";
    case Takes::f64: return "f64";
  }
  return "";
}

std::string js_type(const Napi::Value& v) {
  switch (v.Type()) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return "a boolean";
    case napi_number: return format("the number %g", v.As<Napi::Number>().DoubleValue());
    case napi_string: return "a string";
    case napi_object: return v.IsArray() ? "an array" : "an object";
    default: return "another type";
  }
}

bool absent(const Napi::Value& v) { return v.IsUndefined() || v.IsNull(); }

// One call being bound.
struct Binding {
  Napi::Env env;
  const char* op;
  const std::shared_ptr<DeviceOwner>& device;
  Call& call;

  void same_device(const char* name, const std::shared_ptr<DeviceOwner>& owner) const {
    if (owner && owner != device) fail(op, name, "a tensor of the same device", "a tensor of another device");
  }

  esft_tensor tensor(const Field& f, const Napi::Value& v) const {
    const TensorWrap* w = TensorWrap::unwrap(v);
    if (!w) {
      if (!absent(v) || !f.kind.optional) fail(op, f.name, "a Tensor", js_type(v));
      esft_tensor none{};
      none.rank = -1;
      return none;
    }
    if (w->disposed()) throw Error(kDisposed, op, f.name, std::string(op) + ": " + f.name + " was disposed");
    same_device(f.name, w->owner);
    if (f.kind.written && w->buffer->read_only) fail(op, f.name, "writable", "a read-only mapped tensor");
    call.keep(w->buffer);
    return w->tensor;
  }

  esft_tensor_list list(const Field& f, const Napi::Value& v) const {
    const TensorListWrap* w = TensorListWrap::unwrap(v);
    if (!w) {
      if (!absent(v) || !f.kind.optional) fail(op, f.name, "a TensorList", js_type(v));
      return {nullptr, 0};
    }
    if (!w->items) throw Error(kDisposed, op, f.name, std::string(op) + ": " + f.name + " was disposed");
    same_device(f.name, w->owner);
    if (f.kind.written && w->items->any_read_only) fail(op, f.name, "writable tensors", "a read-only mapped tensor");
    call.keep(w->items);
    return {w->items->tensors.data(), int64_t(w->items->tensors.size())};
  }

  // JavaScript has plain weights alone.
  static esft_scaling plain() {
    esft_scaling s{};
    s.scales.rank = -1;
    return s;
  }
  esft_weight_list weights(const Field& f, const Napi::Value& v) const {
    const esft_tensor_list tensors = list(f, v);
    return {tensors.items, tensors.count, nullptr};
  }

  // An array, whose getters may run anything, or an Int32Array.
  esft_ints ints(const Field& f, const Napi::Value& v) const {
    if (absent(v)) return {nullptr, 0};
    if (v.IsTypedArray() && v.As<Napi::TypedArray>().TypedArrayType() == napi_int32_array) {
      const Napi::Int32Array a = v.As<Napi::Int32Array>();
      const size_t n = a.ElementLength();
      std::unique_ptr<int32_t[]> items = room(f, n);
      std::copy_n(a.Data(), n, items.get());  // a detached array has no data
      return kept(std::move(items), n);
    }
    if (!v.IsArray()) fail(op, f.name, "an array of integers", js_type(v));
    const Napi::Array a = v.As<Napi::Array>();
    const uint32_t n = a.Length();
    std::unique_ptr<int32_t[]> items = room(f, n);
    for (uint32_t j = 0; j < n; j++) {
      const int64_t x = to_int(a.Get(j), op, f.name);
      if (x < INT32_MIN || x > INT32_MAX) fail(op, f.name, "32-bit integers", std::to_string(x));
      items[j] = int32_t(x);
    }
    return kept(std::move(items), n);
  }
  std::unique_ptr<int32_t[]> room(const Field& f, size_t n) const {
    if (n > (1u << 24)) fail(op, f.name, "at most 2^24 integers", std::to_string(n));
    return std::unique_ptr<int32_t[]>(new int32_t[n ? n : 1]);
  }
  esft_ints kept(std::unique_ptr<int32_t[]> items, size_t n) const {
    const esft_ints result{items.get(), int64_t(n)};
    call.keep(std::move(items));
    return result;
  }

  int64_t i64(const Field& f, const Napi::Value& v) const {
    if (absent(v)) fail(op, f.name, "an integer", js_type(v));
    return to_int(v, op, f.name);
  }

  double f64(const Field& f, const Napi::Value& v) const {
    if (!v.IsNumber()) fail(op, f.name, "a number", js_type(v));
    const double x = v.As<Napi::Number>().DoubleValue();
    if (std::isnan(x)) fail(op, f.name, "a number", "NaN");
    return x;
  }

  void bind(const Field& f, const Napi::Value& v) const {
    char* slot = static_cast<char*>(call.args()) + f.offset;
    const auto put = [slot](const auto& x) { memcpy(slot, &x, sizeof x); };
    switch (f.kind.takes) {
      case Takes::tensor: return put(tensor(f, v));
      case Takes::list: return put(list(f, v));
      case Takes::weight: return put(esft_weight{tensor(f, v), plain()});
      case Takes::weights: return put(weights(f, v));
      case Takes::ints: return put(ints(f, v));
      case Takes::i64: return put(i64(f, v));
      case Takes::f64: return put(f64(f, v));
    }
  }
};

}  // namespace

void run_op(Napi::Env env, const std::shared_ptr<DeviceOwner>& device, int64_t index, const napi_value* values, size_t count) {
  if (index < 0 || index >= ESFT_OP_COUNT) fail("run", "op", format("in 0..%d", int(ESFT_OP_COUNT) - 1), std::to_string(index));
  const OpInfo& op = kOps[index];
  if (count != op.field_count) fail(op.name, "arguments", format("%zu values", op.field_count), std::to_string(count));
  Device& d = *device->device;
  std::shared_ptr<Call> call = d.new_call();
  call->op = int(index);
  const Binding binding{env, op.name, device, *call};
  for (size_t i = 0; i < count; i++) binding.bind(op.fields[i], Napi::Value(env, values[i]));
  op.check(call->args());
  if (!d.backend()->run[index])
    fail_status(ESFT_UNSUPPORTED, op.name, "device", std::string("not supported by the ") + d.backend()->name + " backend");
  if (const std::shared_ptr<Graph>& graph = d.recording()) {
    graph->calls.push_back(call);
    if (!graph->on_device) return;
  }
  d.submit(std::move(call));
}

Napi::Array op_schema(Napi::Env env) {
  Napi::Array ops = Napi::Array::New(env, ESFT_OP_COUNT);
  for (uint32_t i = 0; i < ESFT_OP_COUNT; i++) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", kOps[i].name);
    Napi::Array fields = Napi::Array::New(env, kOps[i].field_count);
    for (uint32_t j = 0; j < kOps[i].field_count; j++) {
      const Field& field = kOps[i].fields[j];
      Napi::Object f = Napi::Object::New(env);
      f.Set("name", field.name);
      f.Set("kind", name_of(field.kind.takes));
      f.Set("written", field.kind.written);
      f.Set("optional", field.kind.optional);
      f.Set("activation", field.kind.activation);
      fields.Set(j, f);
    }
    o.Set("fields", fields);
    ops.Set(i, o);
  }
  return ops;
}

}  // namespace esft
