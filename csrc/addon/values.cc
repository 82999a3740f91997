#include "values.h"

#include <cmath>

namespace esft {

int64_t to_int(const Napi::Value& v, const char* op, const char* argument) {
  if (!v.IsNumber()) fail(op, argument, "an integer", "a value of another type");
  double x = v.As<Napi::Number>().DoubleValue();
  if (!(std::floor(x) == x) || std::fabs(x) > 9007199254740991.0) fail(op, argument, "a safe integer", format("%g", x));
  return int64_t(x);
}

Napi::Error to_js(Napi::Env env, int status, const std::string& op, const std::string& argument, const std::string& message) {
  Napi::Error e = Napi::Error::New(env, message);
  e.Set("status", Napi::Number::New(env, status));
  e.Set("op", Napi::String::New(env, op));
  e.Set("argument", Napi::String::New(env, argument));
  return e;
}

esft_tensor shape_of(const char* op, const Napi::Value& dtype_value, const Napi::Value& shape_value) {
  esft_tensor t{};
  int64_t dtype = to_int(dtype_value, op, "dtype");
  if (dtype < ESFT_F32 || dtype > ESFT_U8) fail(op, "dtype", "in 0..5", std::to_string(dtype));
  if (!shape_value.IsArray()) fail(op, "shape", "an array of sizes", "something else");
  Napi::Array a = shape_value.As<Napi::Array>();
  if (a.Length() > ESFT_MAX_RANK) fail(op, "shape", "of rank 0..4", format("rank %u", a.Length()));
  t.dtype = int32_t(dtype);
  t.rank = int32_t(a.Length());
  int64_t n = 1;
  for (int i = 0; i < t.rank; i++) {
    int64_t s = to_int(a.Get(uint32_t(i)), op, "shape");
    if (s < 0) fail(op, "shape", "sizes >= 0", std::to_string(s));
    t.shape[i] = s;
    if (__builtin_mul_overflow(n, s > 0 ? s : 1, &n) || n > (int64_t(1) << 46)) fail(op, "shape", "at most 2^46 elements", "more");
  }
  t.ld = cols(t);
  return t;
}

}  // namespace esft
