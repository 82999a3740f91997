// MappedFile: bytes of a checkpoint, read-only.
#include "wraps.h"

namespace esft {

Napi::Function MappedFileWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeMappedFile",
      {InstanceMethod<&MappedFileWrap::dispose>("dispose"), InstanceMethod<&MappedFileWrap::byte_length>("byteLength")});
}
MappedFileWrap::MappedFileWrap(const Napi::CallbackInfo& info) : ArgumentWrap<MappedFileWrap>(info) {
  translated(info.Env(), [&] {
    if (!info[0].IsString()) fail("map", "path", "a string", "something else");
    buffer = map_file(info[0].As<Napi::String>().Utf8Value());
  });
}
Napi::Value MappedFileWrap::dispose(const Napi::CallbackInfo& info) {
  buffer.reset();
  return info.Env().Undefined();
}
Napi::Value MappedFileWrap::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), buffer ? double(buffer->bytes) : 0);
}

}  // namespace esft
