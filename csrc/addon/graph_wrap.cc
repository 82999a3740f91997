// Graph: ops recorded once, launched as one.
#include "pending.h"
#include "wraps.h"

namespace esft {

Napi::Function GraphWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeGraph",
                     {InstanceMethod<&GraphWrap::end>("end"), InstanceMethod<&GraphWrap::launch>("launch"),
                      InstanceMethod<&GraphWrap::dispose>("dispose")});
}

GraphWrap::GraphWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<GraphWrap>(info) {}

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
    owner_->device->require_not_recording("launch");
    owner_->device->launch(graph_);
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
