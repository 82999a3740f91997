#include "pending.h"

#include <mutex>
#include <vector>

#include "values.h"
#include "wraps.h"

namespace esft {

struct Pending {
  Napi::Promise::Deferred deferred;
  Napi::Reference<Napi::Value> result;
  std::shared_ptr<DeviceOwner> owner;  // a promise keeps its device open even when every handle was collected
  std::shared_ptr<Wakeups> wakeups;
  Failure failure;
  explicit Pending(Napi::Env env) : deferred(env) {}
};

// Two thread-safe functions serve all promises of an environment: making one takes longer than a small op. They take turns: one that is
// called while its callback runs calls back at once, up to a thousand times, so that whoever awaits many short waits in a row would keep
// timers, requests and signals out. They keep the event loop alive while there is something to wait for.
class Wakeups : public std::enable_shared_from_this<Wakeups> {
 public:
  explicit Wakeups(Napi::Env env) {
    for (Napi::ThreadSafeFunction& f : wake_) {
      f = Napi::ThreadSafeFunction::New(env, Napi::Function(), "esft.wait", 0, 1);
      f.Unref(env);
    }
  }

  void began(Napi::Env env) {
    if (waiting_++ == 0) wake_[0].Ref(env);
  }

  // From any thread.
  void finished(Pending* p) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;  // the callback would never run; the little that Pending holds goes with the process
    finished_.push_back(p);
    if (finished_.size() > 1) return;  // it is on its way
    wake_[turn_].NonBlockingCall(this, [](Napi::Env env, Napi::Function, Wakeups* self) {
      if (env != nullptr) self->settle(env);
    });
  }

  void close() {
    std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }

 private:
  void settle(Napi::Env env) {
    const std::shared_ptr<Wakeups> alive = shared_from_this();
    Napi::HandleScope scope(env);
    std::vector<Pending*> finished;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      finished.swap(finished_);
      turn_ = 1 - turn_;
    }
    waiting_ -= finished.size();
    if (waiting_ == 0) wake_[0].Unref(env);
    for (Pending* p : finished) {
      std::unique_ptr<Pending> own(p);
      if (own->failure.status != ESFT_OK) {
        own->owner->device->acknowledge();
        own->deferred.Reject(to_js(env, own->failure.status, own->failure.op, "", own->failure.message).Value());
      } else {
        own->deferred.Resolve(own->result.IsEmpty() ? env.Undefined() : own->result.Value());
      }
    }
  }

  Napi::ThreadSafeFunction wake_[2];
  size_t turn_ = 0;  // under mutex_
  size_t waiting_ = 0;  // of the environment's thread
  std::mutex mutex_;
  std::vector<Pending*> finished_;
  bool closed_ = false;
};

std::shared_ptr<Wakeups> make_wakeups(Napi::Env env) { return std::make_shared<Wakeups>(env); }
void close_wakeups(Wakeups& wakeups) { wakeups.close(); }

Pending* make_pending(Napi::Env env, const std::shared_ptr<DeviceOwner>& owner, Napi::Promise* promise) {
  auto* p = new Pending(env);
  p->owner = owner;
  p->wakeups = env.GetInstanceData<AddonData>()->wakeups;
  p->wakeups->began(env);
  *promise = p->deferred.Promise();
  return p;
}

void pending_keep(Pending* p, Napi::Value result) { p->result = Napi::Reference<Napi::Value>::New(result, 1); }

void pending_done(Pending* p, const Failure& failure) {
  p->failure = failure;
  const std::shared_ptr<Wakeups> wakeups = p->wakeups;  // p may be gone before the call is over
  wakeups->finished(p);
}

}  // namespace esft
