// Tensor: a view of a buffer, and the copies between it, JavaScript and mapped files.
#include <algorithm>
#include <cstring>

#include "pending.h"
#include "wraps.h"

namespace esft {

Napi::Function TensorWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeTensor",
                     {InstanceMethod<&TensorWrap::view>("view"), InstanceMethod<&TensorWrap::read>("read"),
                      InstanceMethod<&TensorWrap::write>("write"), InstanceMethod<&TensorWrap::copy_from_map>("copyFromMap"),
                      InstanceMethod<&TensorWrap::decode>("decode"), InstanceMethod<&TensorWrap::dispose>("dispose"),
                      InstanceMethod<&TensorWrap::is_disposed>("isDisposed")});
}

TensorWrap::TensorWrap(const Napi::CallbackInfo& info) : ArgumentWrap<TensorWrap>(info) { tensor.rank = -1; }

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

}  // namespace esft
