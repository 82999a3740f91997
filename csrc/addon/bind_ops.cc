// Every op, bound once: the field table from ops/<op>.h says what to take from the JavaScript object.
// The argument struct, its buffers and its lists travel with the queued job, so dispose() is safe while ops are pending.
#include <cmath>
#include <cstddef>
#include <cstring>

#include "../ops/checks.h"
#include "wraps.h"

namespace esft {

namespace {

enum Kind {
  // clang-format off
  kIN, kIN_OPT, kOUT, kOUT_OPT, kINOUT, kINOUT_OPT,
  kAIN, kAIN_OPT, kAOUT, kAOUT_OPT, kAINOUT, kAINOUT_OPT,
  kLIST_IN, kLIST_IN_OPT, kLIST_INOUT, kLIST_INOUT_OPT,
  kINTS, kI64, kF64
  // clang-format on
};

struct Field {
  Kind kind;
  const char* name;
  size_t offset;
};

struct OpInfo {
  const char* name;
  size_t args_size;
  const Field* fields;
  size_t field_count;
  void (*check)(const void*);
};

#define ESFT_FIELD(kind, name) {k##kind, #name, offsetof(args_t, name)},
#define ESFT_OP_FIELDS(op)                                                              \
  namespace op##_info {                                                                 \
  using args_t = esft_##op##_args;                                                      \
  const Field fields[] = {ESFT_ARGS_##op(ESFT_FIELD)};                                  \
  void check(const void* a) { check_##op(*static_cast<const args_t*>(a)); }             \
  }
ESFT_OPS(ESFT_OP_FIELDS)

const OpInfo kOps[ESFT_OP_COUNT] = {
#define ESFT_OP_INFO(op) \
  {#op, sizeof(esft_##op##_args), op##_info::fields, sizeof(op##_info::fields) / sizeof(Field), op##_info::check},
    ESFT_OPS(ESFT_OP_INFO)
#undef ESFT_OP_INFO
};

// The queued form of a call.
struct Call {
  int op;
  std::vector<std::max_align_t> storage;  // the argument struct
  std::vector<std::shared_ptr<Buffer>> buffers;
  std::vector<std::shared_ptr<TensorListWrap::Items>> lists;
  std::vector<std::unique_ptr<int32_t[]>> ints;
  void* args() { return storage.data(); }
};

const char* kind_name(Kind k) {
  switch (k) {
    case kIN: return "in";
    case kIN_OPT: return "in?";
    case kOUT: return "out";
    case kOUT_OPT: return "out?";
    case kINOUT: return "inout";
    case kINOUT_OPT: return "inout?";
    case kAIN: return "act in";
    case kAIN_OPT: return "act in?";
    case kAOUT: return "act out";
    case kAOUT_OPT: return "act out?";
    case kAINOUT: return "act inout";
    case kAINOUT_OPT: return "act inout?";
    case kLIST_IN: return "list in";
    case kLIST_IN_OPT: return "list in?";
    case kLIST_INOUT: return "list inout";
    case kLIST_INOUT_OPT: return "list inout?";
    case kINTS: return "ints";
    case kI64: return "i64";
    case kF64: return "f64";
  }
  return "";
}

bool writes(Kind k) { return strstr(kind_name(k), "out"); }
bool optional(Kind k) { return strchr(kind_name(k), '?'); }

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

using Owner = std::shared_ptr<DeviceOwner>;
void same_device(const char* op, const char* name, const Owner& device, const Owner& owner, bool mapped) {
  if (owner && owner != device) fail(op, name, "a tensor of the same device", "a tensor of another device");
  if (mapped && !device->device->info().host_memory) fail(op, name, "in device memory", "a mapped file (upload it first)");
}

}  // namespace

void run_op(const std::shared_ptr<DeviceOwner>& device, int64_t index, const Napi::Object& args) {
  if (index < 0 || index >= ESFT_OP_COUNT) fail("run", "op", format("in 0..%d", int(ESFT_OP_COUNT) - 1), std::to_string(index));
  const OpInfo& info = kOps[index];
  const char* op = info.name;
  auto call = std::make_shared<Call>();
  call->op = int(index);
  call->storage.resize((info.args_size + sizeof(std::max_align_t) - 1) / sizeof(std::max_align_t));
  memset(call->args(), 0, info.args_size);
  for (size_t i = 0; i < info.field_count; i++) {
    const Field& f = info.fields[i];
    char* slot = static_cast<char*>(call->args()) + f.offset;
    Napi::Value v = args.Get(f.name);
    bool absent = v.IsUndefined() || v.IsNull();
    switch (f.kind) {
      case kI64: {
        if (absent) fail(op, f.name, "an integer", js_type(v));
        int64_t n = to_int(v, op, f.name);
        memcpy(slot, &n, sizeof n);
        break;
      }
      case kF64: {
        if (!v.IsNumber()) fail(op, f.name, "a number", js_type(v));
        double x = v.As<Napi::Number>().DoubleValue();
        if (std::isnan(x)) fail(op, f.name, "a number", "NaN");
        memcpy(slot, &x, sizeof x);
        break;
      }
      case kINTS: {
        esft_ints ints{nullptr, 0};
        if (!absent) {
          if (!v.IsArray()) fail(op, f.name, "an array of integers", js_type(v));
          Napi::Array a = v.As<Napi::Array>();
          uint32_t n = a.Length();
          if (n > (1u << 24)) fail(op, f.name, "at most 2^24 integers", std::to_string(n));
          std::unique_ptr<int32_t[]> items(new int32_t[n ? n : 1]);
          for (uint32_t j = 0; j < n; j++) {
            int64_t x = to_int(a.Get(j), op, f.name);
            if (x < INT32_MIN || x > INT32_MAX) fail(op, f.name, "32-bit integers", std::to_string(x));
            items[j] = int32_t(x);
          }
          ints = {items.get(), n};
          call->ints.push_back(std::move(items));
        }
        memcpy(slot, &ints, sizeof ints);
        break;
      }
      case kLIST_IN:
      case kLIST_IN_OPT:
      case kLIST_INOUT:
      case kLIST_INOUT_OPT: {
        esft_tensor_list list{nullptr, 0};
        if (absent && !optional(f.kind)) fail(op, f.name, "a TensorList", js_type(v));
        if (!absent) {
          TensorListWrap* w = TensorListWrap::unwrap(v);
          if (!w) fail(op, f.name, "a TensorList", js_type(v));
          if (!w->items) throw Error(kDisposed, op, f.name, std::string(op) + ": " + f.name + " was disposed");
          same_device(op, f.name, device, w->owner, false);
          if (writes(f.kind) && w->items->any_read_only) fail(op, f.name, "writable tensors", "a read-only mapped tensor");
          list = {w->items->tensors.data(), int64_t(w->items->tensors.size())};
          call->lists.push_back(w->items);
        }
        memcpy(slot, &list, sizeof list);
        break;
      }
      default: {
        esft_tensor t{};
        t.rank = -1;
        if (absent && !optional(f.kind)) fail(op, f.name, "a Tensor", js_type(v));
        if (!absent) {
          TensorWrap* w = TensorWrap::unwrap(v);
          if (!w) fail(op, f.name, "a Tensor", js_type(v));
          if (w->disposed()) throw Error(kDisposed, op, f.name, std::string(op) + ": " + f.name + " was disposed");
          same_device(op, f.name, device, w->owner, w->buffer->mapped);
          if (writes(f.kind) && w->buffer->read_only) fail(op, f.name, "writable", "a read-only mapped tensor");
          t = w->tensor;
          call->buffers.push_back(w->buffer);
        }
        memcpy(slot, &t, sizeof t);
        break;
      }
    }
  }
  info.check(call->args());
  std::shared_ptr<Device> d = device->device;
  if (!d->backend()->run[index])
    fail_status(ESFT_UNSUPPORTED, op, "device", std::string("not supported by the ") + d->backend()->name + " backend");
  Device* raw = d.get();
  if (d->recording()) d->recording()->calls.push_back(call);
  d->submit([raw, call](Failure& f) {
    const char* op = kOps[call->op].name;
    for (const auto& b : call->buffers)
      if (b->mapped && !b->still_whole(op, f)) return;
    for (const auto& list : call->lists)
      for (const Buffer* b : list->files)
        if (!b->still_whole(op, f)) return;
    char err[2048] = "";
    int status = raw->backend()->run[call->op](raw->handle(), call->args(), err, sizeof err);
    if (status != ESFT_OK) {
      f.status = status;
      f.op = op_in_message(err, op);  // an earlier op's fault may be noticed here
      f.message = err;
    }
  });
}

const char* op_in_message(const char* message, const char* otherwise) {
  for (const OpInfo& op : kOps) {
    const size_t n = strlen(op.name);
    if (strncmp(message, op.name, n) == 0 && message[n] == ':') return op.name;
  }
  return otherwise;
}

Napi::Array op_schema(Napi::Env env) {
  Napi::Array ops = Napi::Array::New(env, ESFT_OP_COUNT);
  for (uint32_t i = 0; i < ESFT_OP_COUNT; i++) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("name", kOps[i].name);
    Napi::Array fields = Napi::Array::New(env, kOps[i].field_count);
    for (uint32_t j = 0; j < kOps[i].field_count; j++) {
      Napi::Object f = Napi::Object::New(env);
      f.Set("name", kOps[i].fields[j].name);
      f.Set("kind", kind_name(kOps[i].fields[j].kind));
      fields.Set(j, f);
    }
    o.Set("fields", fields);
    ops.Set(i, o);
  }
  return ops;
}

}  // namespace esft
