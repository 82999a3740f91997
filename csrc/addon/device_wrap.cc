// Device: opens a backend by its kind, makes tensors, submits ops; and the list of devices that are open.
#include <algorithm>

#include "../cpu/device/backend.h"
#include "cuda_loader.h"
#include "pending.h"
#include "wraps.h"

namespace esft {

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
       napi_property_descriptor{"run", nullptr, &DeviceWrap::run, nullptr, nullptr, nullptr, napi_default_method, nullptr},
       InstanceMethod<&DeviceWrap::synchronize>("synchronize"), InstanceMethod<&DeviceWrap::dispose>("dispose"),
       InstanceMethod<&DeviceWrap::info_object>("info"), InstanceMethod<&DeviceWrap::memory_free>("memoryFree"),
       InstanceMethod<&DeviceWrap::capture_begin>("captureBegin"), InstanceMethod<&DeviceWrap::stream>("stream"),
       InstanceMethod<&DeviceWrap::order>("order")});
}
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
    const esft_device_info& device = owner->device->info();
    if (!device.host_memory)
      fail(op, "device", "one that computes in host memory",
           std::string(device.name) + " (copyFromMap brings a file's bytes there)");
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

napi_value DeviceWrap::run(napi_env raw, napi_callback_info info) {
  const Napi::Env env(raw);
  napi_value self, values[1 + kMaxFields];
  size_t count = std::size(values);  // then as many as were given
  napi_get_cb_info(raw, info, &count, values, &self, nullptr);
  try {
    translated(env, [&] {
      const std::shared_ptr<DeviceOwner> owner =
          Unwrap(Napi::Object(env, self))->owner;  // an array's getter may dispose this device
      require_open(owner, "run");
      run_op(env, owner, to_int(Napi::Value(env, values[0]), "run", "op"), values + 1, count > 0 ? count - 1 : 0);
    });
  } catch (const Napi::Error& e) {
    e.ThrowAsJavaScriptException();
  }
  return nullptr;
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

namespace {
// A call of the table that says where what follows goes; ops and their streams reach the device in one order.
template <class F>
void submit_stream(const std::shared_ptr<DeviceOwner>& owner, F call) {
  require_open(owner, "stream");
  Device* raw = owner->device.get();
  if (!raw->backend()->stream_use)
    throw Error(ESFT_UNSUPPORTED, "stream", "device",
                std::string("stream: the ") + raw->backend()->name + " backend has one queue");
  raw->submit([raw, call](Failure& f) {
    char err[512] = "";
    const int status = call(raw, err, sizeof err);
    if (status != ESFT_OK) f = {status, "stream", err};
  });
}
int32_t stream_number(const Napi::Value& v, const char* name) {
  const int64_t n = to_int(v, "stream", name);
  if (n < 0 || n > 1023) fail("stream", name, "in 0..1023", std::to_string(n));
  return int32_t(n);
}
}  // namespace

Napi::Value DeviceWrap::stream(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    const int32_t index = stream_number(info[0], "index");
    submit_stream(owner, [=](Device* d, char* err, size_t n) { return d->backend()->stream_use(d->handle(), index, err, n); });
    return info.Env().Undefined();
  });
}

Napi::Value DeviceWrap::order(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    const int32_t before = stream_number(info[0], "before"), after = stream_number(info[1], "after");
    submit_stream(owner,
                  [=](Device* d, char* err, size_t n) { return d->backend()->stream_order(d->handle(), before, after, err, n); });
    return info.Env().Undefined();
  });
}

}  // namespace esft
