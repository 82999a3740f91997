#include "wraps.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../cpu/backend.h"
#include "cuda_loader.h"

namespace esft {

namespace {

const napi_type_tag kDeviceTag = {0x6573667444455601ull, 0x8d1f3a5c7b9e2f01ull};
const napi_type_tag kTensorTag = {0x6573667454454e02ull, 0x8d1f3a5c7b9e2f02ull};
const napi_type_tag kListTag = {0x657366744c495303ull, 0x8d1f3a5c7b9e2f03ull};
const napi_type_tag kGraphTag = {0x6573667447525005ull, 0x8d1f3a5c7b9e2f05ull};
const napi_type_tag kMapTag = {0x657366744d415004ull, 0x8d1f3a5c7b9e2f04ull};

template <class T>
T* unwrap_tagged(const Napi::Value& v, const napi_type_tag& tag) {
  if (!v.IsObject()) return nullptr;
  Napi::Object o = v.As<Napi::Object>();
  if (!o.CheckTypeTag(&tag)) return nullptr;
  return T::Unwrap(o);
}

// shape: array of 0..4 sizes; returns a contiguous tensor without data.
esft_tensor shape_of(const char* op, const Napi::Value& dtype_value, const Napi::Value& shape_value) {
  esft_tensor t{};
  int64_t dtype = to_int(dtype_value, op, "dtype");
  if (dtype < ESFT_F32 || dtype > ESFT_U8) fail(op, "dtype", "in 0..5", std::to_string(dtype));
  if (!shape_value.IsArray()) fail(op, "shape", "an array of sizes", "something else");
  Napi::Array a = shape_value.As<Napi::Array>();
  if (a.Length() > ESFT_MAX_RANK) fail(op, "shape", "of rank 0..4", format("rank %u", a.Length()));
  t.dtype = int32_t(dtype);
  t.rank = int32_t(a.Length());
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) {
    int64_t s = to_int(a.Get(uint32_t(i)), op, "shape");
    if (s < 0) fail(op, "shape", "sizes >= 0", std::to_string(s));
    t.shape[i] = s;
    if (__builtin_mul_overflow(n, s > 0 ? s : 1, &n) || n > (int64_t(1) << 46)) fail(op, "shape", "at most 2^46 elements", "more");
  }
  t.ld = cols(t);
  return t;
}

}  // namespace

int64_t to_int(const Napi::Value& v, const char* op, const char* argument) {
  if (!v.IsNumber()) fail(op, argument, "an integer", "a value of another type");
  double x = v.As<Napi::Number>().DoubleValue();
  if (!(std::floor(x) == x) || std::fabs(x) > 9007199254740991.0) fail(op, argument, "a safe integer", format("%g", x));
  return int64_t(x);
}

Napi::Error to_js(Napi::Env env, int status, const std::string& op, const std::string& argument, const std::string& message) {
  Napi::Error e = Napi::Error::New(env, message);
  e.Set("status", Napi::Number::New(env, status));
  e.Set("op", Napi::String::New(env, op));
  e.Set("argument", Napi::String::New(env, argument));
  return e;
}

// ---- promises -------------------------------------------------------------------------------------------------------

struct Pending {
  Napi::Promise::Deferred deferred;
  Napi::ThreadSafeFunction tsfn;
  Napi::Reference<Napi::Value> result;
  std::shared_ptr<DeviceOwner> owner;  // a promise keeps its device open even when every handle was collected
  Failure failure;
  explicit Pending(Napi::Env env) : deferred(env) {}
};

Pending* make_pending(Napi::Env env, const std::shared_ptr<DeviceOwner>& owner, Napi::Promise* promise) {
  auto* p = new Pending(env);
  p->owner = owner;
  p->tsfn = Napi::ThreadSafeFunction::New(env, Napi::Function(), "esft.wait", 0, 1);
  *promise = p->deferred.Promise();
  return p;
}

void pending_keep(Pending* p, Napi::Value result) { p->result = Napi::Reference<Napi::Value>::New(result, 1); }

void pending_done(Pending* p, const Failure& failure) {
  p->failure = failure;
  Napi::ThreadSafeFunction tsfn = p->tsfn;
  // If the environment is closing the callback never runs; the little that Pending holds goes with the process.
  tsfn.NonBlockingCall(p, [](Napi::Env env, Napi::Function, Pending* q) {
    if (env == nullptr) return;
    Napi::HandleScope scope(env);
    std::unique_ptr<Pending> own(q);
    if (own->failure.status != ESFT_OK) {
      own->owner->device->acknowledge();
      own->deferred.Reject(to_js(env, own->failure.status, own->failure.op, "", own->failure.message).Value());
    } else {
      own->deferred.Resolve(own->result.IsEmpty() ? env.Undefined() : own->result.Value());
    }
  });
  tsfn.Release();
}

// ---- Tensor ---------------------------------------------------------------------------------------------------------

Napi::Function TensorWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTensor",
                     {InstanceMethod<&TensorWrap::view>("view"), InstanceMethod<&TensorWrap::read>("read"),
                      InstanceMethod<&TensorWrap::write>("write"), InstanceMethod<&TensorWrap::copy_from_map>("copyFromMap"),
                      InstanceMethod<&TensorWrap::dispose>("dispose"), InstanceMethod<&TensorWrap::is_disposed>("isDisposed")});
}

TensorWrap* TensorWrap::unwrap(const Napi::Value& v) { return unwrap_tagged<TensorWrap>(v, kTensorTag); }

TensorWrap::TensorWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TensorWrap>(info) {
  tensor.rank = -1;
  info.This().As<Napi::Object>().TypeTag(&kTensorTag);
}

Napi::Object TensorWrap::make(Napi::Env env, std::shared_ptr<DeviceOwner> owner, std::shared_ptr<Buffer> buffer,
                              const esft_tensor& t, bool root) {
  Napi::Object o = env.GetInstanceData<AddonData>()->tensor.New({});
  TensorWrap* w = Unwrap(o);
  w->owner = std::move(owner);
  w->buffer = std::move(buffer);
  w->tensor = t;
  w->root_ = root;
  if (root && w->owner->device->info().host_memory) {  // what the garbage collector can relieve
    w->accounted_ = int64_t(w->buffer->bytes);
    Napi::MemoryManagement::AdjustExternalMemory(env, w->accounted_);
  }
  return o;
}

void TensorWrap::Finalize(Napi::BasicEnv env) {
  if (accounted_) Napi::MemoryManagement::AdjustExternalMemory(env, -accounted_);
}

Napi::Value TensorWrap::dispose(const Napi::CallbackInfo& info) {
  if (accounted_) Napi::MemoryManagement::AdjustExternalMemory(info.Env(), -accounted_);
  accounted_ = 0;
  buffer.reset();
  owner.reset();
  return info.Env().Undefined();
}

Napi::Value TensorWrap::is_disposed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), disposed()); }

Napi::Value TensorWrap::view(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const char* op = "view";
    // Arguments: byte offset from this tensor's first element, dtype, shape, row stride in elements (optional).
    int64_t offset = to_int(info[0], op, "byteOffset");
    esft_tensor t = shape_of(op, info[1], info[2]);
    if (!info[3].IsUndefined()) t.ld = to_int(info[3], op, "ld");
    if (disposed()) throw Error(kDisposed, op, "tensor", "view: the tensor was disposed");
    if (t.ld < cols(t) || t.ld > (int64_t(1) << 46)) fail(op, "ld", ">= " + std::to_string(cols(t)), std::to_string(t.ld));
    int64_t size = dtype_size(t.dtype), r = rows(t), span = 0;
    if (offset < 0 || offset % size)
      fail(op, "byteOffset", "a multiple of " + std::to_string(size) + ", not negative", std::to_string(offset));
    if (r > 0 && cols(t) > 0) {
      if (__builtin_mul_overflow(r - 1, t.ld, &span) || span > (int64_t(1) << 46))
        fail(op, "ld", "inside the tensor", std::to_string(t.ld));
      span = (span + cols(t)) * size;
    }
    int64_t own = numel(tensor) == 0 ? 0 : ((rows(tensor) - 1) * tensor.ld + cols(tensor)) * dtype_size(tensor.dtype);
    if (offset > own || span > own - offset)
      fail(op, "shape", "inside the " + std::to_string(own) + " bytes of the tensor",
           format("bytes %lld..%lld", (long long)offset, (long long)(offset + span)));
    t.data = static_cast<char*>(tensor.data) + offset;
    if (reinterpret_cast<uintptr_t>(t.data) % size) fail(op, "byteOffset", "aligned to the dtype", std::to_string(offset));
    return make(env, owner, buffer, t, false);
  });
}

namespace {
// napi_create_arraybuffer ends the process when there is no memory; the constructor throws.
Napi::ArrayBuffer new_array_buffer(Napi::Env env, int64_t bytes) {
  Napi::Value v;
  try {
    v = env.GetInstanceData<AddonData>()->array_buffer.New({Napi::Number::New(env, double(bytes))});
  } catch (const Napi::Error& e) {
    fail_status(ESFT_NO_MEMORY, "read", "bytes", format("an array of %lld bytes: ", (long long)bytes) + e.Message());
  }
  if (!v.IsArrayBuffer() || v.As<Napi::ArrayBuffer>().ByteLength() != size_t(bytes))
    fail_status(ESFT_NO_MEMORY, "read", "bytes", "the ArrayBuffer constructor was replaced");
  return v.As<Napi::ArrayBuffer>();
}

// The bytes of any typed array, shared and resizable ones included; null when `v` is none.
const char* array_bytes(Napi::Env env, const Napi::Value& v, int64_t* bytes) {
  if (!v.IsTypedArray()) return nullptr;
  napi_typedarray_type type = napi_typedarray_type(-1);
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, v, &type, &length, &data, nullptr, nullptr) != napi_ok) return nullptr;
  static const int8_t kBytes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};  // in the order of napi_typedarray_type
  if (int(type) < 0 || int(type) >= int(sizeof kBytes)) return nullptr;
  *bytes = int64_t(length) * kBytes[type];
  return data ? static_cast<const char*>(data) : "";
}
}  // namespace

Napi::Value TensorWrap::read(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    if (disposed()) throw Error(kDisposed, "read", "tensor", "read: the tensor was disposed");
    owner->device->require_not_recording("read");
    int64_t es = dtype_size(tensor.dtype), bytes = numel(tensor) * es;
    Napi::ArrayBuffer out = new_array_buffer(env, bytes);
    char* dst = static_cast<char*>(out.Data());  // owned by V8, out of JavaScript's reach until the promise resolves
    Napi::Promise promise(env, nullptr);
    std::shared_ptr<Device> d = owner->device;
    Pending* p = make_pending(env, owner, &promise);
    pending_keep(p, out);
    esft_tensor t = tensor;
    std::shared_ptr<Buffer> keep = buffer;
    Device* raw = d.get();
    d->submit_wait(
        [raw, t, keep, dst, es](Failure& f) {
          char err[512] = "";
          int status = ESFT_OK;
          if (numel(t) == 0 || !keep->still_whole("read", f)) return;
          const int64_t n = contiguous(t) ? 1 : rows(t), row_bytes = (contiguous(t) ? numel(t) : cols(t)) * es;
          for (int64_t r = 0; r < n && status == ESFT_OK; r++) {
            const char* src = static_cast<char*>(t.data) + r * t.ld * es;
            if (keep->mapped)
              memcpy(dst + r * row_bytes, src, size_t(row_bytes));
            else
              status = raw->backend()->download(raw->handle(), dst + r * row_bytes, src, size_t(row_bytes), err, sizeof err);
          }
          if (status == ESFT_OK) status = raw->backend()->synchronize(raw->handle(), err, sizeof err);
          if (status != ESFT_OK) f = {status, op_in_message(err, "read"), err};
        },
        [p](const Failure& f) { pending_done(p, f); });
    return promise;
  });
}

Napi::Value TensorWrap::write(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    const char* op = "write";
    if (disposed()) throw Error(kDisposed, op, "tensor", "write: the tensor was disposed");
    if (buffer->read_only) fail(op, "tensor", "writable", "a read-only mapped tensor");
    owner->device->require_not_recording(op);
    int64_t es = dtype_size(tensor.dtype), bytes = numel(tensor) * es, given = 0;
    const char* src = array_bytes(env, info[0], &given);
    if (!src) fail(op, "data", "a typed array", "something else");
    if (given != bytes)
      fail(op, "data", std::to_string(bytes) + " bytes for " + describe(tensor), std::to_string(given) + " bytes");
    if (bytes == 0) return env.Undefined();
    auto copy = std::make_shared<std::vector<char>>(src, src + bytes);  // the caller's array may change or move meanwhile
    esft_tensor t = tensor;
    std::shared_ptr<Buffer> keep = buffer;
    Device* raw = owner->device.get();
    raw->submit([raw, t, keep, copy, es](Failure& f) {
      char err[512] = "";
      int status = ESFT_OK;
      int64_t n = contiguous(t) ? 1 : rows(t), row_bytes = contiguous(t) ? int64_t(copy->size()) : cols(t) * es;
      for (int64_t r = 0; r < n && status == ESFT_OK; r++)
        status = raw->backend()->upload(raw->handle(), static_cast<char*>(t.data) + r * t.ld * es, copy->data() + r * row_bytes,
                                        size_t(row_bytes), err, sizeof err);
      if (status != ESFT_OK) f = {status, "write", err};
    });
    return env.Undefined();
  });
}

// From the file's pages straight to the tensor, on the device thread: no byte passes through JavaScript.
Napi::Value TensorWrap::copy_from_map(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    const char* op = "copyFromMap";
    MappedFileWrap* m = MappedFileWrap::unwrap(info[0]);
    if (!m) fail(op, "file", "a MappedFile", "something else");
    const int64_t offset = to_int(info[1], op, "byteOffset");
    if (disposed()) throw Error(kDisposed, op, "tensor", "copyFromMap: the tensor was disposed");
    if (!m->buffer) throw Error(kDisposed, op, "file", "copyFromMap: the file was disposed");
    if (buffer->read_only) fail(op, "tensor", "writable", "a read-only mapped tensor");
    owner->device->require_not_recording(op);
    const int64_t es = dtype_size(tensor.dtype), bytes = numel(tensor) * es, size = int64_t(m->buffer->bytes);
    if (offset < 0 || offset > size || bytes > size - offset)
      fail(op, "byteOffset", format("inside the file's %lld bytes", (long long)size),
           format("%lld bytes from %lld", (long long)bytes, (long long)offset));
    if (bytes == 0) return info.Env().Undefined();
    esft_tensor t = tensor;
    Device* raw = owner->device.get();
    raw->submit([raw, t, keep = buffer, file = m->buffer, offset, es](Failure& f) {
      char err[512] = "";
      const int64_t kPiece = int64_t(64) << 20;  // the file is asked for its size before each
      const int64_t n = contiguous(t) ? 1 : rows(t), row_bytes = (contiguous(t) ? numel(t) : cols(t)) * es;
      for (int64_t r = 0; r < n; r++)
        for (int64_t at = 0; at < row_bytes; at += kPiece) {
          if ((at == 0 ? r % 1024 == 0 : true) && !file->still_whole("copyFromMap", f)) return;
          const int status = raw->backend()->upload(raw->handle(), static_cast<char*>(t.data) + r * t.ld * es + at,
                                                    static_cast<const char*>(file->data) + offset + r * row_bytes + at,
                                                    size_t(std::min(kPiece, row_bytes - at)), err, sizeof err);
          if (status != ESFT_OK) {
            f = {status, "copyFromMap", err};
            return;
          }
        }
    });
    return info.Env().Undefined();
  });
}

// ---- TensorList -----------------------------------------------------------------------------------------------------

Napi::Function TensorListWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTensorList", {InstanceMethod<&TensorListWrap::dispose>("dispose")});
}
TensorListWrap* TensorListWrap::unwrap(const Napi::Value& v) { return unwrap_tagged<TensorListWrap>(v, kListTag); }

TensorListWrap::TensorListWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TensorListWrap>(info) {
  translated(info.Env(), [&] {
    const char* op = "TensorList";
    if (!info[0].IsArray()) fail(op, "tensors", "an array of Tensor", "something else");
    Napi::Array a = info[0].As<Napi::Array>();
    const uint32_t n = a.Length();
    if (n > (1u << 24)) fail(op, "tensors", "at most 2^24", std::to_string(n));
    auto list = std::make_shared<Items>();
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
  info.This().As<Napi::Object>().TypeTag(&kListTag);
}

Napi::Value TensorListWrap::dispose(const Napi::CallbackInfo& info) {
  items.reset();
  owner.reset();
  return info.Env().Undefined();
}

// ---- MappedFile -----------------------------------------------------------------------------------------------------

Napi::Function MappedFileWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeMappedFile",
      {InstanceMethod<&MappedFileWrap::dispose>("dispose"), InstanceMethod<&MappedFileWrap::byte_length>("byteLength")});
}
MappedFileWrap* MappedFileWrap::unwrap(const Napi::Value& v) { return unwrap_tagged<MappedFileWrap>(v, kMapTag); }

MappedFileWrap::MappedFileWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappedFileWrap>(info) {
  translated(info.Env(), [&] {
    if (!info[0].IsString()) fail("map", "path", "a string", "something else");
    buffer = map_file(info[0].As<Napi::String>().Utf8Value());
  });
  info.This().As<Napi::Object>().TypeTag(&kMapTag);
}
Napi::Value MappedFileWrap::dispose(const Napi::CallbackInfo& info) {
  buffer.reset();
  return info.Env().Undefined();
}
Napi::Value MappedFileWrap::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), buffer ? double(buffer->bytes) : 0);
}

// ---- Device ---------------------------------------------------------------------------------------------------------

void OpenDevices::add(const std::shared_ptr<Device>& device) {
  devices_.erase(std::remove_if(devices_.begin(), devices_.end(), [](auto& d) { return d.expired(); }), devices_.end());
  devices_.push_back(device);
}

void OpenDevices::close_all() {
  for (auto& d : devices_)
    if (std::shared_ptr<Device> device = d.lock()) device->close();
}

Napi::Function DeviceWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeDevice",
      {InstanceMethod<&DeviceWrap::alloc>("alloc"), InstanceMethod<&DeviceWrap::from_map>("fromMap"),
       InstanceMethod<&DeviceWrap::run>("run"), InstanceMethod<&DeviceWrap::synchronize>("synchronize"),
       InstanceMethod<&DeviceWrap::dispose>("dispose"), InstanceMethod<&DeviceWrap::info_object>("info"),
       InstanceMethod<&DeviceWrap::memory_free>("memoryFree"), InstanceMethod<&DeviceWrap::capture_begin>("captureBegin")});
}
DeviceWrap* DeviceWrap::unwrap(const Napi::Value& v) { return unwrap_tagged<DeviceWrap>(v, kDeviceTag); }

DeviceWrap::DeviceWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeviceWrap>(info) {
  translated(info.Env(), [&] {
    std::string kind = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
    int64_t threads = to_int(info[1], "open", "threads");
    if (threads < 0 || threads > 1024) fail("open", "threads", "in 1..1024, or 0 for one per processor", std::to_string(threads));
    int64_t index = info[2].IsUndefined() ? 0 : to_int(info[2], "open", "index");
    if (index < 0 || index > 1023) fail("open", "index", "in 0..1023", std::to_string(index));
    const esft_backend* backend = kind == "cpu"    ? cpu_backend()
                                  : kind == "ref"  ? ref_backend()
                                  : kind == "cuda" ? cuda_backend()
                                                   : nullptr;
    if (!backend) fail("open", "device", "\"cpu\", \"cuda\" or \"ref\"", "\"" + kind + "\"");
    std::shared_ptr<Device> opened = Device::open(backend, int(index), int(threads));
    info.Env().GetInstanceData<AddonData>()->open_devices->add(opened);
    owner = std::make_shared<DeviceOwner>(std::move(opened));
  });
  info.This().As<Napi::Object>().TypeTag(&kDeviceTag);
}

namespace {
void require_open(const std::shared_ptr<DeviceOwner>& owner, const char* op) {
  if (!owner) throw Error(kDisposed, op, "device", std::string(op) + ": the device was disposed");
}
}  // namespace

Napi::Value DeviceWrap::alloc(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    esft_tensor t = shape_of("alloc", info[0], info[1]);
    require_open(owner, "alloc");
    auto buffer = allocate_buffer(owner->device, size_t(numel(t) * dtype_size(t.dtype)));
    t.data = buffer->data;
    return TensorWrap::make(info.Env(), owner, buffer, t, true);
  });
}

Napi::Value DeviceWrap::from_map(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    const char* op = "map";
    MappedFileWrap* m = MappedFileWrap::unwrap(info[0]);
    if (!m) fail(op, "file", "a MappedFile", "something else");
    int64_t offset = to_int(info[1], op, "byteOffset");
    esft_tensor t = shape_of(op, info[2], info[3]);
    require_open(owner, op);
    if (!m->buffer) throw Error(kDisposed, op, "file", "map: the file was disposed");
    int64_t bytes = numel(t) * dtype_size(t.dtype), size = int64_t(m->buffer->bytes);
    if (offset < 0 || offset > size || bytes > size - offset)
      fail(op, "byteOffset", format("inside the file's %lld bytes", (long long)size),
           format("%lld bytes from %lld", (long long)bytes, (long long)offset));
    if (offset % dtype_size(t.dtype)) fail(op, "byteOffset", "aligned to the dtype", std::to_string(offset));
    t.data = static_cast<char*>(m->buffer->data) + offset;
    if (bytes == 0) t.data = const_cast<char*>("");
    return TensorWrap::make(info.Env(), owner, m->buffer, t, false);
  });
}

Napi::Value DeviceWrap::run(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    require_open(owner, "run");
    if (!info[1].IsObject()) fail("run", "args", "an object", "something else");
    const std::shared_ptr<DeviceOwner> keep = owner;  // a getter of the arguments may dispose this device
    run_op(keep, to_int(info[0], "run", "op"), info[1].As<Napi::Object>());
    return info.Env().Undefined();
  });
}

Napi::Value DeviceWrap::synchronize(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    require_open(owner, "synchronize");
    owner->device->require_not_recording("synchronize");
    Napi::Promise promise(env, nullptr);
    Device* raw = owner->device.get();
    Pending* p = make_pending(env, owner, &promise);
    raw->submit_wait(
        [raw](Failure& f) {
          char err[512] = "";
          int status = raw->backend()->synchronize(raw->handle(), err, sizeof err);
          if (status != ESFT_OK) f = {status, op_in_message(err, "synchronize"), err};
        },
        [p](const Failure& f) { pending_done(p, f); });
    return promise;
  });
}

Napi::Value DeviceWrap::dispose(const Napi::CallbackInfo& info) {
  if (owner) owner->device->close();
  owner.reset();
  return info.Env().Undefined();
}

Napi::Value DeviceWrap::info_object(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    require_open(owner, "info");
    const esft_device_info& d = owner->device->info();
    Napi::Object o = Napi::Object::New(info.Env());
    o.Set("backend", owner->device->backend()->name);
    o.Set("name", d.name);
    o.Set("instructionSet", d.instruction_set);
    o.Set("threads", d.threads);
    o.Set("hostMemory", bool(d.host_memory));
    o.Set("memoryBytes", double(d.memory_bytes));
    o.Set("memoryFree", double(d.memory_free));
    o.Set("bf16Compute", bool(d.supports_bf16_compute));
    o.Set("activationDtype", d.activation_dtype == ESFT_BF16 ? "bf16" : "f32");
    o.Set("emulated", bool(d.emulated));
    o.Set("graphs", owner->device->backend()->capture_begin != nullptr);
    return o;
  });
}

Napi::Value DeviceWrap::memory_free(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    require_open(owner, "memoryFree");
    return Napi::Number::New(info.Env(), double(owner->device->memory_free()));
  });
}

Napi::Value DeviceWrap::capture_begin(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    require_open(owner, "capture");
    return GraphWrap::make(info.Env(), owner, owner->device->begin_recording());
  });
}

// ---- Graph ----------------------------------------------------------------------------------------------------------

Napi::Function GraphWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeGraph",
                     {InstanceMethod<&GraphWrap::end>("end"), InstanceMethod<&GraphWrap::launch>("launch"),
                      InstanceMethod<&GraphWrap::dispose>("dispose")});
}

GraphWrap::GraphWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<GraphWrap>(info) {
  info.This().As<Napi::Object>().TypeTag(&kGraphTag);
}

Napi::Object GraphWrap::make(Napi::Env env, std::shared_ptr<DeviceOwner> owner, std::shared_ptr<Graph> graph) {
  Napi::Object o = env.GetInstanceData<AddonData>()->graph.New({});
  GraphWrap* w = Unwrap(o);
  w->owner_ = std::move(owner);
  w->graph_ = std::move(graph);
  return o;
}

Napi::Value GraphWrap::end(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  return translated(env, [&]() -> Napi::Value {
    if (!graph_) throw Error(kDisposed, "capture", "graph", "capture: the graph was disposed");
    if (owner_->device->recording() != graph_)
      throw Error(ESFT_BAD_ARGUMENT, "capture", "graph", "capture: the graph is not being recorded");
    Napi::Promise promise(env, nullptr);
    Pending* p = make_pending(env, owner_, &promise);
    owner_->device->end_recording([p](const Failure& f) { pending_done(p, f); });
    return promise;
  });
}

Napi::Value GraphWrap::launch(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    if (!graph_) throw Error(kDisposed, "launch", "graph", "launch: the graph was disposed");
    Device* raw = owner_->device.get();
    raw->require_not_recording("launch");
    raw->submit([raw, graph = graph_](Failure& f) {
      char err[512] = "";
      if (!graph->handle) {
        f = {ESFT_BAD_ARGUMENT, "launch", "launch: the graph was not recorded"};
        return;
      }
      const int status = raw->backend()->graph_launch(raw->handle(), graph->handle, err, sizeof err);
      if (status != ESFT_OK) f = {status, "launch", err};
    });
    return info.Env().Undefined();
  });
}

Napi::Value GraphWrap::dispose(const Napi::CallbackInfo& info) {
  if (graph_ && owner_->device->recording() == graph_) owner_->device->end_recording([](const Failure&) {});
  graph_.reset();
  owner_.reset();
  return info.Env().Undefined();
}

}  // namespace esft
