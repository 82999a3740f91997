// Promises that the device thread resolves.
#pragma once
#include <napi.h>

#include <memory>

#include "device.h"

namespace esft {

// What wakes an environment's thread; made before the hook that closes the devices is added, so that it outlives their threads.
class Wakeups;
std::shared_ptr<Wakeups> make_wakeups(Napi::Env env);
void close_wakeups(Wakeups& wakeups);  // nothing resolves from here on

// Resolves a promise from the device thread: `done` must be called exactly once, from any thread.
struct Pending;
Pending* make_pending(Napi::Env env, const std::shared_ptr<DeviceOwner>& owner, Napi::Promise* promise);
void pending_keep(Pending* p, Napi::Value result);  // value to resolve with (kept alive)
void pending_done(Pending* p, const Failure& failure);

}  // namespace esft
