// Registration only.
#include "../cpu/device/backend.h"
#include "cuda_loader.h"
#include "pending.h"
#include "wraps.h"

namespace esft {

namespace {
Napi::Object init(Napi::Env env, Napi::Object exports) {
  auto* data = new AddonData();
  Napi::Function device = DeviceWrap::define(env), tensor = TensorWrap::define(env), list = TensorListWrap::define(env),
                 mapped = MappedFileWrap::define(env), graph = GraphWrap::define(env);
  data->device = Napi::Persistent(device);
  data->tensor = Napi::Persistent(tensor);
  data->tensor_list = Napi::Persistent(list);
  data->mapped_file = Napi::Persistent(mapped);
  data->graph = Napi::Persistent(graph);
  data->array_buffer = Napi::Persistent(env.Global().Get("ArrayBuffer").As<Napi::Function>());
  env.SetInstanceData(data);
  data->wakeups = make_wakeups(env);
  env.AddCleanupHook([devices = data->open_devices, wakeups = data->wakeups] {
    devices->close_all();
    close_wakeups(*wakeups);
  });
  exports.Set("Device", device);
  exports.Set("TensorList", list);
  exports.Set("MappedFile", mapped);
  exports.Set("ops", op_schema(env));
  const char* names[16];
  int n = available_isas(names, 16);
  Napi::Array isas = Napi::Array::New(env, n);
  for (int i = 0; i < n; i++) isas.Set(uint32_t(i), names[i]);
  exports.Set("instructionSets", isas);
  exports.Set("abi", ESFT_ABI);
  exports.Set("cudaLibraryPath", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::String::New(info.Env(), cuda_library_path());
              }));
  exports.Set("externalMemory", Napi::Function::New(env, [](const Napi::CallbackInfo& info) -> Napi::Value {
                return Napi::Number::New(info.Env(), double(Napi::MemoryManagement::AdjustExternalMemory(info.Env(), 0)));
              }));
  return exports;
}
}  // namespace

}  // namespace esft

static Napi::Object Init(Napi::Env env, Napi::Object exports) { return esft::init(env, exports); }
NODE_API_MODULE(NODE_GYP_MODULE_NAME, Init)
