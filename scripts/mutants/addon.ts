// Planted bugs between JavaScript and the ops: handles and their lifetimes, what V8 is told of memory, views, copies, the queue, threads.

import { of } from "./mutant.ts";

const handles = ["test/addon/memory.test.ts"];
const hostile = ["test/addon/hostile.test.ts"];
const garbage = ["test/ops/fuzz.test.ts"];
const queue = ["test/addon/queue.test.ts"];
const recordings = ["test/addon/recordings.test.ts"];
const devices = ["test/package/devices.test.ts", "test/package/lifetime.test.ts"];

export const addon = [
  ...of(
    "addon/bind_ops.cc",
    ["test/ops/memory.test.ts"],
    ["if («f.kind.written && w->buffer->read_only») fail", "false"],
    ["if («f.kind.written && w->items->any_read_only») fail", "false"],
  ),
  ...of("addon/bind_ops.cc", ["test/ops/gemm.test.ts"], ["if («owner && owner != device») fail", "false"]),
  ...of(
    "addon/bind_ops.cc",
    [...garbage, ...hostile],
    ["if («x < INT32_MIN || x > INT32_MAX») fail", "false"],
    ["if («std::isnan(x)») fail", "false"],
    ["if («count != op.field_count») fail", "count < op.field_count"],
    ["if («n > (1u << 24)») fail(op, f.name", "false"],
  ),
  ...of(
    "addon/bind_ops.cc",
    ["test/ops/elementwise.test.ts", ...garbage],
    ["«std::copy_n(a.Data(), n, items.get());»", "std::fill_n(items.get(), n, 0);"],
  ),

  ...of("addon/call.cc", [...handles, ...hostile], ["«buffers_[buffer_count_++] = buffer;»", ""]),
  ...of("addon/call.h", handles, ["{ «lists_[list_count_++] = list;» }", ""]),
  ...of(
    "addon/call.cc",
    [...handles, "test/package/lifetime.test.ts"],
    ["i++) «buffers_[i].reset();»", ""],
    ["i++) «lists_[i].reset();»", ""],
  ),
  ...of(
    "addon/call.cc",
    hostile,
    ["if («buffers_[i]->mapped && !buffers_[i]->still_whole(name, f)») return;", "false"],
    ["if («!b->still_whole(name, f)») return;", "false"],
  ),
  ...of(
    "addon/buffer.cc",
    [...handles, "test/package/lifetime.test.ts"],
    ["if (file >= 0) «::close(file);»", ""],
    ["«munmap(data, bytes);»\n", ""],
    ["«device->release(data, bytes);»\n", ""],
  ),
  ...of(
    "addon/buffer.cc",
    hostile,
    ["|| «size_t(st.st_size) >= bytes») return true;", "true"],
    ["if («!S_ISREG(st.st_mode)») fail", "false"],
  ),

  ...of(
    "addon/tensor_wrap.cc",
    handles,
    ["if («root && w->owner->device->info().host_memory») {", "w->owner->device->info().host_memory"],
    ["dispose(const Napi::CallbackInfo& info) {\n  if («accounted_») Napi", "false"],
    ["«accounted_ = 0;»\n", ""],
    ["Finalize(Napi::BasicEnv env) {\n  if («accounted_») Napi", "false"],
    ["if («offset < 0 || offset % size»)\n", "offset < 0"],
    ["if («offset > own || span > own - offset»)\n", "offset > own"],
    ["if («reinterpret_cast<uintptr_t>(t.data) % size») fail", "0"],
    ["if («t.ld < cols(t)» || t.ld", "false"],
    ["numel(tensor) == 0 ? 0 : («(rows(tensor) - 1) * tensor.ld + cols(tensor)») * dtype_size", "rows(tensor) * tensor.ld"],
    ["const char* src = static_cast<char*>(t.data) + «r * t.ld * es»;", "r * row_bytes"],
    ["static_cast<char*>(t.data) + «r * t.ld * es», copy->data()", "r * row_bytes"],
    ["static_cast<const char*>(file->data) + offset + «r * row_bytes» + at,", "0"],
    ["if (offset < 0 || offset > size || «bytes > size - offset»)\n", "bytes > size"],
  ),
  ...of(
    "addon/tensor_wrap.cc",
    hostile,
    [
      'if («buffer->read_only») fail(op, "tensor", "writable", "a read-only mapped tensor");\n    owner->device->require_not_recording(op);\n    int64_t es',
      "false",
    ],
    ["if («given != bytes»)\n", "given < bytes"],
    ['if («!m») fail(op, "file", "a MappedFile", "something else");\n    const int64_t offset', "false"],
  ),
  ...of(
    "addon/tensor_list_wrap.cc",
    ["test/ops/memory.test.ts", ...handles, ...hostile],
    ["list->any_read_only = «list->any_read_only || w->buffer->read_only»;", "w->buffer->read_only"],
    ["«list->buffers.push_back(w->buffer);»", ""],
    ["if («w->disposed()») throw", "false"],
  ),
  ...of("addon/tensor_list_wrap.cc", queue, ["if («owner && owner != w->owner») fail", "false"]),
  ...of(
    "addon/device_wrap.cc",
    [...hostile, "test/cuda/mapped.test.ts"],
    ["if («!device.host_memory»)\n", "false"],
    ["if («offset % dtype_size(t.dtype)») fail", "0"],
    ["|| offset > size || «bytes > size - offset»)\n", "bytes > size"],
  ),
  ...of(
    "addon/values.cc",
    [...hostile, ...garbage],
    ["if (!(«std::floor(x) == x») || std::fabs(x)", "true"],
    ["if («s < 0») fail", "false"],
    ["if («a.Length() > ESFT_MAX_RANK») fail", "false"],
    ["|| «n > (int64_t(1) << 46)») fail", "false"],
  ),
  ...of("addon/wraps.h", hostile, [
    "living->type_of(p) == «&kClass» ?",
    "v.Env().template GetInstanceData<AddonData>()->living->type_of(p)",
  ]),
  ...of(
    "addon/living.h",
    hostile,
    ["if («from_home < from_hole») continue;", "false"],
    ["if («slots_[i].object == object») return slots_[i].type;", "true"],
  ),

  ...of(
    "addon/device.cc",
    [...queue, "test/package/lifetime.test.ts"],
    ["if («failure_.status != ESFT_OK && generation_ == failed_generation_») generation_++;", "false"],
    ["if («failure_.status != ESFT_OK && job.generation > failed_generation_») {", "failure_.status != ESFT_OK"],
    ["«failed_generation_ = job.generation;»", ""],
    ["if («failure_.status == ESFT_OK») {\n    Failure f;", "true"],
    ["if («job.work && job.work->done») job.work->done(failure_);", "job.work && job.work->done && failure_.status == ESFT_OK"],
    ["if («stop_.load(std::memory_order_relaxed)») {\n", "false"],
    ["«job.generation = generation_;»", ""],
  ),
  ...of("addon/bind_ops.cc", recordings, ["«graph->calls.push_back(call);»", ""], ["if («!graph->on_device») return;", "false"]),
  ...of("addon/device.cc", recordings, ["if («f.status != ESFT_OK») return;", "false"]),
  ...of("addon/pending.cc", [...queue, "test/package/lifetime.test.ts"], ["«finished.swap(finished_);»", "finished = finished_;"]),
  ...of("addon/device.cc", ["test/cuda/graph.test.ts"], ["if (job.call && «job.call.use_count() == 1» && done.size()", "true"]),
  ...of("core/thread_pool.cc", ["test/ops/attention.test.ts", ...devices], ["if («i >= n_») return;", "i > n_"]),
  ...of("core/thread_pool.cc", devices, ["for (auto& t : workers_) «t.join();»", ""]),
  ...of(
    "cpu/device/memory.cc",
    handles,
    ["if (p) «memset(p, 0, rounded);»", ""],
    ["if («bytes >= kMapThreshold»)\n    munmap", "bytes > kMapThreshold"],
  ),
];
