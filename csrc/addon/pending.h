// Promises that the device thread resolves.
#pragma once
#include <napi.h>

#include <memory>

#include "device.h"

namespace esft {

// Resolves a promise from the device thread: `done` must be called exactly once, from any thread.
struct Pending;
Pending* make_pending(Napi::Env env, const std::shared_ptr<DeviceOwner>& owner, Napi::Promise* promise);
void pending_keep(Pending* p, Napi::Value result);  // value to resolve with (kept alive)
void pending_done(Pending* p, const Failure& failure);

}  // namespace esft
