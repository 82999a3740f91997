// Between JavaScript values and ours: integers, shapes, errors, objects of our classes.
#pragma once
#include <napi.h>

#include <exception>
#include <new>
#include <string>

#include "../core/check.h"

namespace esft {

// Turns an Error into a JavaScript Error with {status, op, argument}; lib/tensor.ts makes it a KernelError.
Napi::Error to_js(Napi::Env env, int status, const std::string& op, const std::string& argument, const std::string& message);
template <class F>
auto translated(Napi::Env env, F f) -> decltype(f()) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& e) {
    throw to_js(env, e.status, e.op, e.argument, e.message);
  } catch (const std::bad_alloc&) {
    throw to_js(env, ESFT_NO_MEMORY, "", "", "out of memory");
  } catch (const std::exception& e) {
    throw to_js(env, ESFT_DEVICE_FAULT, "", "", e.what());
  }
}
constexpr esft_status kDisposed = ESFT_DISPOSED;

int64_t to_int(const Napi::Value& v, const char* op, const char* argument);  // a safe integer, or Error
// A contiguous tensor without data: dtype code, array of 0..4 sizes.
esft_tensor shape_of(const char* op, const Napi::Value& dtype, const Napi::Value& shape);

}  // namespace esft
