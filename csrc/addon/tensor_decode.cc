// Tensor.decode: values of a packed weight (csrc/quant), from the pages of mapped files straight to the tensor, on the device thread
// and the threads of the device's pool. Where device memory is not the host's, piece by piece through host memory.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../quant/packed_weight.h"
#include "wraps.h"

namespace esft {

namespace {
const char* const kOp = "decode";
constexpr int64_t kPieceValues = int64_t(1) << 23;  // the files are asked for their sizes before each

#define ESFT_NAME(e, name) name,
const char* const kCodesNames[] = {ESFT_CODES(ESFT_NAME)};
const char* const kScaleNames[] = {ESFT_SCALES(ESFT_NAME)};
const char* const kRoundingNames[] = {ESFT_ROUNDINGS(ESFT_NAME)};
const char* const kZeroNames[] = {ESFT_ZEROS(ESFT_NAME)};
const char* const kPartNames[] = {ESFT_PARTS(ESFT_NAME)};
#undef ESFT_NAME

std::string text(const Napi::Value& v, const char* argument) {
  if (!v.IsString()) fail(kOp, argument, "a string", "something else");
  return v.As<Napi::String>().Utf8Value();
}

template <size_t N>
int one_of(const char* const (&names)[N], const std::string& name, const char* argument) {
  for (size_t i = 0; i < N; i++)
    if (name == names[i]) return int(i);
  fail(kOp, argument, "a word that the addon knows", "\"" + name + "\"");
}

// The items of an array, each read once. At most `most`.
std::vector<Napi::Value> items(const Napi::Value& v, const char* argument, uint32_t most) {
  if (!v.IsArray()) fail(kOp, argument, "an array", "something else");
  Napi::Array a = v.As<Napi::Array>();
  const uint32_t n = a.Length();
  if (n > most) fail(kOp, argument, format("at most %u items", most), format("%u", n));
  std::vector<Napi::Value> out;
  for (uint32_t i = 0; i < n; i++) out.push_back(a.Get(i));
  return out;
}

float number(const Napi::Value& v, const char* argument) {
  if (!v.IsNumber()) fail(kOp, argument, "a number", "something else");
  return float(v.As<Napi::Number>().DoubleValue());
}

// What the job needs: the weight, whose parts lie in the files, and which rows go where.
struct Job {
  PackedWeight weight;
  std::vector<std::shared_ptr<Buffer>> files;
  std::shared_ptr<Buffer> into;
  esft_tensor tensor;
  int64_t first_row;
};

template <class T>
void decode_piece(const PackedReader& reader, const Job& job, Device& device, int64_t row, int64_t rows, std::vector<T>& host,
                  Failure& f) {
  const int64_t width = job.weight.value_cols();
  T* to = static_cast<T*>(job.tensor.data) + row * width;
  if (device.info().host_memory) return reader.read(job.first_row + row, rows, to, device.pool());
  host.resize(size_t(rows * width));
  reader.read(job.first_row + row, rows, host.data(), device.pool());
  char err[512] = "";
  const int status = device.backend()->upload(device.handle(), to, host.data(), host.size() * sizeof(T), err, sizeof err);
  if (status != ESFT_OK) f = {status, kOp, err};
}

void run(const Job& job, Device& device, Failure& f) {
  const int64_t width = job.weight.value_cols(), rows = numel(job.tensor) / width;
  const int64_t step = std::max<int64_t>(1, kPieceValues / width);
  auto whole = [&] {
    for (const auto& file : job.files)
      if (!file->still_whole(kOp, f)) return false;
    return true;
  };
  if (!whole()) return;
  const PackedReader reader(job.weight);
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  for (int64_t row = 0; row < rows && f.status == ESFT_OK; row += step) {
    if (row > 0 && !whole()) return;
    const int64_t n = std::min(step, rows - row);
    if (job.tensor.dtype == ESFT_F32)
      decode_piece(reader, job, device, row, n, f32, f);
    else
      decode_piece(reader, job, device, row, n, bf16, f);
  }
}
}  // namespace

Napi::Value TensorWrap::decode(const Napi::CallbackInfo& info) {
  return translated(info.Env(), [&]() -> Napi::Value {
    auto job = std::make_shared<Job>();
    PackedWeight& w = job->weight;
    w.label = text(info[0], "label");
    const auto words = items(info[1], "words", 4), numbers = items(info[2], "numbers", 10),
               names = items(info[3], "parts", kPartCount);
    const auto files = items(info[4], "files", kPartCount), ranges = items(info[5], "ranges", 2 * kPartCount);
    if (words.size() != 4) fail(kOp, "words", "4 words", std::to_string(words.size()));
    if (numbers.size() != 10) fail(kOp, "numbers", "10 numbers", std::to_string(numbers.size()));
    if (files.size() != names.size() || ranges.size() != 2 * names.size())
      fail(kOp, "files", "a file, a begin and an end for each part", format("%zu files, %zu ranges", files.size(), ranges.size()));
    w.codes = Codes(one_of(kCodesNames, text(words[0], "words"), "words"));
    w.scale = ScaleKind(one_of(kScaleNames, text(words[1], "words"), "words"));
    w.rounding = Rounding(one_of(kRoundingNames, text(words[2], "words"), "words"));
    w.zeros = ZeroKind(one_of(kZeroNames, text(words[3], "words"), "words"));
    w.matrices = to_int(numbers[0], kOp, "matrices");
    w.rows = to_int(numbers[1], kOp, "rows");
    w.cols = to_int(numbers[2], kOp, "cols");
    w.transposed = to_int(numbers[3], kOp, "transposed") != 0;
    w.block_rows = to_int(numbers[4], kOp, "blockRows");
    w.block_cols = to_int(numbers[5], kOp, "blockCols");
    w.nested_block = to_int(numbers[6], kOp, "nestedBlock");
    w.nested_offset = number(numbers[7], "nestedOffset");
    w.factor = number(numbers[8], "factor");
    job->first_row = to_int(numbers[9], kOp, "firstRow");
    for (size_t i = 0; i < names.size(); i++) {
      const int part = one_of(kPartNames, text(names[i], "parts"), "parts");
      const int64_t begin = to_int(ranges[2 * i], kOp, "ranges"), end = to_int(ranges[2 * i + 1], kOp, "ranges");
      MappedFileWrap* m = MappedFileWrap::unwrap(files[i]);
      if (!m) fail(kOp, "files", "MappedFiles", "something else");
      if (!m->buffer) throw Error(kDisposed, kOp, "files", "decode: a file was disposed");
      if (begin < 0 || end < begin || end > int64_t(m->buffer->bytes))
        fail(kOp, "ranges", format("inside the file's %zu bytes", m->buffer->bytes),
             format("%lld..%lld", (long long)begin, (long long)end));
      w.parts[part] = {static_cast<const uint8_t*>(m->buffer->data) + begin, end - begin};
      job->files.push_back(m->buffer);
    }
    if (disposed()) throw Error(kDisposed, kOp, "tensor", "decode: the tensor was disposed");
    if (buffer->read_only) fail(kOp, "tensor", "writable", "a read-only mapped tensor");
    owner->device->require_not_recording(kOp);
    w.check();
    if (tensor.dtype != ESFT_F32 && tensor.dtype != ESFT_BF16) fail(kOp, "tensor", "f32 or bf16", dtype_name(tensor.dtype));
    const int64_t width = w.value_cols(), rows = numel(tensor) / width, all = w.value_rows();
    if (!contiguous(tensor) || rows * width != numel(tensor) || job->first_row < 0 || job->first_row > all ||
        rows > all - job->first_row)
      fail(kOp, "tensor", format("whole rows of %lld, of %lld in all", (long long)width, (long long)all),
           describe(tensor) + format(" from row %lld", (long long)job->first_row));
    if (numel(tensor) == 0) return info.Env().Undefined();
    job->into = buffer;
    job->tensor = tensor;
    Device* device = owner->device.get();
    device->submit([job, device](Failure& f) {
      try {
        run(*job, *device, f);
      } catch (const Error& e) {
        f = {e.status, kOp, e.message};
      } catch (const std::bad_alloc&) {
        f = {ESFT_NO_MEMORY, kOp, "decode: out of host memory"};
      } catch (const std::exception& e) {
        f = {ESFT_DEVICE_FAULT, kOp, std::string("decode: ") + e.what()};
      }
    });
    return info.Env().Undefined();
  });
}

}  // namespace esft
