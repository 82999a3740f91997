// MappedFile: bytes of a checkpoint, read-only.
#include "wraps.h"

namespace esft {

namespace {
const napi_type_tag kMapTag = {0x657366744d415004ull, 0x8d1f3a5c7b9e2f04ull};
}  // namespace

Napi::Function MappedFileWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeMappedFile",
      {InstanceMethod<&MappedFileWrap::dispose>("dispose"), InstanceMethod<&MappedFileWrap::byte_length>("byteLength")});
}
MappedFileWrap* MappedFileWrap::unwrap(const Napi::Value& v) { return unwrap_tagged<MappedFileWrap>(v, kMapTag); }

MappedFileWrap::MappedFileWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<MappedFileWrap>(info) {
  translated(info.Env(), [&] {
    if (!info[0].IsString()) fail("map", "path", "a string", "something else");
    buffer = map_file(info[0].As<Napi::String>().Utf8Value());
  });
  info.This().As<Napi::Object>().TypeTag(&kMapTag);
}
Napi::Value MappedFileWrap::dispose(const Napi::CallbackInfo& info) {
  buffer.reset();
  return info.Env().Undefined();
}
Napi::Value MappedFileWrap::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), buffer ? double(buffer->bytes) : 0);
}

}  // namespace esft
