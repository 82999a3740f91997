// The JavaScript objects: Device, Tensor, TensorList, MappedFile, Graph.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "buffer.h"
#include "call.h"
#include "device.h"
#include "living.h"
#include "values.h"

namespace esft {

class Wakeups;

// The devices of one environment (main thread or worker). Closed by a cleanup hook: the promises' thread-safe functions die
// before any object's finalizer runs, so a device thread must be joined before that.
class OpenDevices {
 public:
  void add(const std::shared_ptr<Device>& device);
  void close_all();

 private:
  std::vector<std::weak_ptr<Device>> devices_;
};

struct AddonData {
  // Shared with the objects in it: at the end of an environment they may go after this.
  std::shared_ptr<Living> living = std::make_shared<Living>();
  std::shared_ptr<OpenDevices> open_devices = std::make_shared<OpenDevices>();
  std::shared_ptr<Wakeups> wakeups;  // pending.h
  Napi::FunctionReference device, tensor, tensor_list, mapped_file, graph;
  Napi::FunctionReference array_buffer;  // the constructor as it was when the addon was loaded
};

// User code (getters, proxies) runs whenever a property of an argument is read and may dispose anything. So every method reads
// all its arguments first, then checks what they stand for, then acts. Methods, unlike accessors, are bound to their class by
// V8: that is why there is no accessor here.

// The base of classes whose objects are taken as arguments.
template <class T>
class ArgumentWrap : public Napi::ObjectWrap<T> {
 public:
  // Null when v is no object of this class.
  static T* unwrap(const Napi::Value& v) {
    void* p = nullptr;
    if (napi_unwrap(v.Env(), v, &p) != napi_ok) return nullptr;
    return v.Env().template GetInstanceData<AddonData>()->living->type_of(p) == &kClass ? static_cast<T*>(p) : nullptr;
  }

 protected:
  explicit ArgumentWrap(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<T>(info), living_(info.Env().GetInstanceData<AddonData>()->living) {
    living_->add(this, &kClass);  // a T begins with its only base: its address is this one
  }
  ~ArgumentWrap() override { living_->remove(this); }

 private:
  static const char kClass;
  std::shared_ptr<Living> living_;
};
template <class T>
const char ArgumentWrap<T>::kClass = 0;

class TensorWrap : public ArgumentWrap<TensorWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object make(Napi::Env env, std::shared_ptr<DeviceOwner> owner, std::shared_ptr<Buffer> buffer, const esft_tensor& t,
                           bool root);
  explicit TensorWrap(const Napi::CallbackInfo& info);
  void Finalize(Napi::BasicEnv env) override;

  bool disposed() const { return !buffer; }
  std::shared_ptr<DeviceOwner> owner;
  std::shared_ptr<Buffer> buffer;
  esft_tensor tensor{};

 private:
  Napi::Value view(const Napi::CallbackInfo& info);     // (byteOffset, dtype, shape, ld?)
  Napi::Value read(const Napi::CallbackInfo& info);     // () → Promise<ArrayBuffer>
  Napi::Value write(const Napi::CallbackInfo& info);    // (typed array)
  Napi::Value copy_from_map(const Napi::CallbackInfo& info);  // (MappedFile, byteOffset)
  // (label, [codes, scale, rounding, zeros], [matrices … firstRow], part names, MappedFile for each, [begin, end] for each): tensor_decode.cc
  Napi::Value decode(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value is_disposed(const Napi::CallbackInfo& info);
  bool root_ = false;
  int64_t accounted_ = 0;
};

class TensorListWrap : public ArgumentWrap<TensorListWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit TensorListWrap(const Napi::CallbackInfo& info);  // (Tensor[])
  std::shared_ptr<ListItems> items;  // null after dispose
  std::shared_ptr<DeviceOwner> owner;

 private:
  Napi::Value dispose(const Napi::CallbackInfo& info);
};

class MappedFileWrap : public ArgumentWrap<MappedFileWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit MappedFileWrap(const Napi::CallbackInfo& info);  // (path)
  std::shared_ptr<Buffer> buffer;

 private:
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value byte_length(const Napi::CallbackInfo& info);
};

// A graph being recorded, then recorded.
class GraphWrap : public Napi::ObjectWrap<GraphWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object make(Napi::Env env, std::shared_ptr<DeviceOwner> owner, std::shared_ptr<Graph> graph);
  explicit GraphWrap(const Napi::CallbackInfo& info);

 private:
  Napi::Value end(const Napi::CallbackInfo& info);  // () → Promise<void>: recorded, or why not
  Napi::Value launch(const Napi::CallbackInfo& info);  // ()
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<DeviceOwner> owner_;
  std::shared_ptr<Graph> graph_;  // null after dispose
};

class DeviceWrap : public Napi::ObjectWrap<DeviceWrap> {
 public:
  static Napi::Function define(Napi::Env env);
  explicit DeviceWrap(const Napi::CallbackInfo& info);  // (kind, threads, index?)
  std::shared_ptr<DeviceOwner> owner;

 private:
  Napi::Value alloc(const Napi::CallbackInfo& info);  // (dtype, shape) → Tensor
  Napi::Value from_map(const Napi::CallbackInfo& info);  // (MappedFile, byteOffset, dtype, shape) → Tensor (host-memory devices)
  // (op number, a value for each of its arguments in their order); without a CallbackInfo, which would be made for every op
  static napi_value run(napi_env env, napi_callback_info info);
  Napi::Value synchronize(const Napi::CallbackInfo& info);  // → Promise<void>
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value info_object(const Napi::CallbackInfo& info);
  Napi::Value memory_free(const Napi::CallbackInfo& info);  // () → bytes, 0 = not known
  Napi::Value capture_begin(const Napi::CallbackInfo& info);  // () → Graph
  Napi::Value stream(const Napi::CallbackInfo& info);  // (index): what is submitted next goes to that stream
  Napi::Value order(const Napi::CallbackInfo& info);  // (before, after): the one stream waits for the other
};

// bind_ops.cc: fills the argument struct of op `index` from JavaScript values, checks it and submits it.
void run_op(Napi::Env env, const std::shared_ptr<DeviceOwner>& device, int64_t index, const napi_value* values, size_t count);
Napi::Array op_schema(Napi::Env env);

}  // namespace esft
