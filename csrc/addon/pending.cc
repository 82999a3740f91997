#include "pending.h"

#include "values.h"

namespace esft {

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

}  // namespace esft
