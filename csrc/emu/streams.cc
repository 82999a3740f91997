// The runtime API: streams, events, graphs. Each stream has a queue of its own; an event holds a stream back until the one that recorded
// it is past that point. What nothing orders runs in an order of the schedule's choosing (emu.h), so that a missing event shows.
#include <chrono>
#include <cstdlib>
#include <memory>

#include "machine.h"

using Work = std::function<void()>;

namespace {

// One recording of an event.
struct Record {
  CUstream_st* stream = nullptr;  // whose queue it waits in
  bool done = false;
  std::chrono::steady_clock::time_point time;
};
struct Item {
  Work work;
  std::shared_ptr<const Record> after;  // or none
};
struct Node {
  Work work;
  std::vector<size_t> after;
};
// What is being captured, by the stream that began and those that joined it through events.
struct Capture {
  std::vector<Node> nodes;
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  std::vector<CUstream_st*> streams;
};

}  // namespace

struct CUgraph_st {
  std::vector<Node> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Node>> nodes;
};
struct CUstream_st {
  std::string schedule = "eager";  // of the environment when the stream was created
  std::deque<Item> queue;
  std::shared_ptr<Capture> capture;
  std::vector<size_t> frontier;  // nodes that what is captured next comes after
};
struct CUevent_st {
  bool timed = true;
  std::shared_ptr<Record> last;  // null: never recorded
  std::weak_ptr<Capture> capture;  // it was recorded into, with the frontier of then
  std::vector<size_t> frontier;
};

namespace esft::emu {

static CUstream_st null_stream;
static std::vector<CUstream_st*> streams{&null_stream};  // in the order of their making
static int global_captures = 0;

static CUstream_st* of(cudaStream_t stream) { return stream != nullptr ? stream : &null_stream; }
bool any_capture() { return global_captures > 0; }
bool capturing(cudaStream_t stream) { return of(stream)->capture != nullptr; }

// ---- what runs next -------------------------------------------------------------------------------------------------------

static bool ready(const CUstream_st* s) { return !s->queue.empty() && (!s->queue.front().after || s->queue.front().after->done); }

static void run_head(CUstream_st* s) {
  DeviceMemoryOpen open;
  const Work work = std::move(s->queue.front().work);
  s->queue.pop_front();
  if (work) work();
}

// The first thing of s, and of other streams only what that waits for.
static void advance(CUstream_st* s) {
  while (!ready(s)) advance(s->queue.front().after->stream);
  run_head(s);
}

// One thing of some stream: eager the one made first, late the one made last, random any.
static bool step() {
  std::vector<CUstream_st*> able;
  for (CUstream_st* s : streams)
    if (ready(s)) able.push_back(s);
  if (able.empty()) return false;
  run_head(mode == Mode::kEager ? able.front() : mode == Mode::kLate ? able.back() : able[random_bits() % able.size()]);
  return true;
}

void run_all() {
  bool any = false;
  for (const CUstream_st* s : streams) any = any || !s->queue.empty();
  if (!any) return;
  DeviceMemoryOpen open;
  while (step()) {
  }
}

// Until this stream is done. The others get as far as it needs, at random further.
static void run_stream(CUstream_st* s) {
  if (s->queue.empty()) return;
  DeviceMemoryOpen open;
  while (!s->queue.empty()) {
    if (mode == Mode::kRandom)
      step();
    else
      advance(s);
  }
}

void enqueue(cudaStream_t stream, Work work) {
  std::lock_guard<std::recursive_mutex> lock(machine_mutex());
  CUstream_st* const s = of(stream);
  if (s->capture) {
    s->capture->nodes.push_back({std::move(work), s->frontier});
    s->frontier = {s->capture->nodes.size() - 1};
    return;
  }
  if (stream != nullptr) use_schedule(s->schedule);
  s->queue.push_back({std::move(work), nullptr});
  if (mode == Mode::kEager || s->queue.size() > 4096) return run_all();
  if (mode != Mode::kRandom) return;
  if (streams.size() <= 2) {
    if (chance(50)) run_all();
  } else {
    for (int i = 0; i < 4 && chance(25); i++) step();  // fewer than come, so that streams fall behind one another
  }
}

cudaError_t wait_for(cudaStream_t stream) {
  if (capturing(stream) || any_capture()) return note(cudaErrorStreamCaptureUnsupported);
  run_stream(of(stream));
  return machine.trapped ? note(cudaErrorLaunchFailure) : cudaSuccess;
}
cudaError_t wait_for_all() {
  if (any_capture()) return note(cudaErrorStreamCaptureUnsupported);
  run_all();
  return machine.trapped ? note(cudaErrorLaunchFailure) : cudaSuccess;
}

// The nodes in an order that their edges allow.
static void run_nodes(const std::vector<Node>& nodes) {
  std::vector<char> done(nodes.size(), 0);
  const auto free = [&](size_t i) {
    for (size_t before : nodes[i].after)
      if (!done[before]) return false;
    return !done[i];
  };
  size_t first = 0;
  for (size_t left = nodes.size(); left > 0; left--) {
    while (done[first]) first++;
    size_t next = first;
    if (mode != Mode::kEager) {
      std::vector<size_t> able;
      for (size_t i = first; i < nodes.size() && able.size() < 8 && i < first + 256; i++)
        if (free(i)) able.push_back(i);
      next = mode == Mode::kLate ? able.back() : able[random_bits() % able.size()];
    }
    nodes[next].work();
    done[next] = 1;
  }
}

static void leave_capture(Capture& capture) {
  if (capture.mode != cudaStreamCaptureModeRelaxed) global_captures--;
  for (CUstream_st* s : std::vector<CUstream_st*>(std::move(capture.streams))) {
    s->capture.reset();
    s->frontier.clear();
  }
}

}  // namespace esft::emu

using namespace esft::emu;
using Lock = std::lock_guard<std::recursive_mutex>;

// ---- streams --------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const char* const schedule = getenv("ESFT_EMU_SCHEDULE");
  *stream = new CUstream_st;
  if (schedule != nullptr && *schedule != 0) (*stream)->schedule = schedule;
  Lock lock(machine_mutex());
  use_schedule((*stream)->schedule);
  streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (stream == nullptr) return note(cudaErrorInvalidResourceHandle);
  run_stream(stream);
  if (stream->capture) leave_capture(*stream->capture);
  for (size_t i = 0; i < streams.size(); i++)
    if (streams[i] == stream) streams.erase(streams.begin() + ptrdiff_t(i--));
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(machine_mutex());
  return wait_for(stream);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (capturing(stream)) return note(cudaErrorStreamCaptureUnsupported);
  if (of(stream)->queue.empty()) return cudaSuccess;
  run_stream(of(stream));
  return cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  CUstream_st* const s = of(stream);
  if (const std::shared_ptr<Capture> capture = event->capture.lock()) {
    if (s->capture && s->capture != capture) return note(cudaErrorStreamCaptureMerge);
    if (!s->capture) {
      if (capture->streams.empty()) return note(cudaErrorInvalidValue);  // ended
      s->capture = capture;
      capture->streams.push_back(s);
    }
    s->frontier.insert(s->frontier.end(), event->frontier.begin(), event->frontier.end());
    return cudaSuccess;
  }
  if (s->capture) return note(cudaErrorStreamCaptureIsolation);
  if (event->last && !event->last->done) s->queue.push_back({nullptr, event->last});
  return cudaSuccess;
}

// ---- events ---------------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st;
  (*event)->timed = (flags & cudaEventDisableTiming) == 0;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  CUstream_st* const s = of(stream);
  event->capture = s->capture;
  event->frontier = s->frontier;
  if (s->capture) return cudaSuccess;
  auto record = std::make_shared<Record>();
  record->stream = s;
  event->last = record;
  enqueue(stream, [record] {
    record->done = true;
    record->time = std::chrono::steady_clock::now();
  });
  return cudaSuccess;
}

// Of a recording that lies in a queue.
static cudaError_t wait_for_record(const Record& record) {
  if (any_capture()) return note(cudaErrorStreamCaptureUnsupported);
  DeviceMemoryOpen open;
  while (!record.done) {
    if (mode == Mode::kRandom)
      step();
    else
      advance(record.stream);
  }
  return machine.trapped ? note(cudaErrorLaunchFailure) : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  return !event->last || event->last->done ? cudaSuccess : wait_for_record(*event->last);
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  Lock lock(machine_mutex());
  if (event == nullptr) return note(cudaErrorInvalidResourceHandle);
  if (!event->last || event->last->done) return cudaSuccess;
  if (const cudaError_t status = wait_for_record(*event->last)) return status;
  return cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Lock lock(machine_mutex());
  if (start == nullptr || end == nullptr || !start->timed || !end->timed || !start->last || !end->last) {
    return note(cudaErrorInvalidResourceHandle);
  }
  if (!start->last->done || !end->last->done) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->last->time - start->last->time).count();
  return cudaSuccess;
}

// ---- graphs ---------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(machine_mutex());
  if (stream == nullptr) return note(cudaErrorStreamCaptureUnsupported);
  if (stream->capture) return note(cudaErrorIllegalState);
  stream->capture = std::make_shared<Capture>(Capture{{}, stream, mode, {stream}});
  stream->frontier.clear();
  if (mode != cudaStreamCaptureModeRelaxed) global_captures++;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(machine_mutex());
  *graph = nullptr;
  if (stream == nullptr || !stream->capture || stream->capture->origin != stream) return note(cudaErrorIllegalState);
  const std::shared_ptr<Capture> capture = stream->capture;
  // Every node comes before the end of the stream that began, or a stream was not joined again.
  std::vector<char> reached(capture->nodes.size(), 0);
  std::vector<size_t> left = stream->frontier;
  while (!left.empty()) {
    const size_t i = left.back();
    left.pop_back();
    if (reached[i]) continue;
    reached[i] = 1;
    left.insert(left.end(), capture->nodes[i].after.begin(), capture->nodes[i].after.end());
  }
  leave_capture(*capture);
  for (char r : reached)
    if (!r) return note(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->nodes)};
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(machine_mutex());
  *status = capturing(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (graph == nullptr) return note(cudaErrorInvalidValue);
  *exec = new CUgraphExec_st{std::make_shared<const std::vector<Node>>(graph->nodes)};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t) {
  return exec != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (exec == nullptr) return note(cudaErrorInvalidValue);
  enqueue(stream, [nodes = exec->nodes] { run_nodes(*nodes); });
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (graph == nullptr || nodes != nullptr) return note(cudaErrorInvalidValue);
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return graph != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return exec != nullptr ? cudaSuccess : note(cudaErrorInvalidValue);
}
