// What a backend is: something that opens a bundle's files and makes runners. One file each: backend_<name>.cpp.
//
// Adding one: a file with an open_<name>() below, a line in backends.cpp and an option in CMakeLists.txt.
#ifndef EDGEKIT_BACKEND_HPP
#define EDGEKIT_BACKEND_HPP

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "edgekit/edgekit.hpp"

namespace edgekit::detail {

// One request with its buffers; used from one thread at a time.
class Runner {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  virtual ~Runner() = default;
  virtual void* input() = 0;  // a batch as the manifest says, on the host; null where it is bound to a device
  virtual void bind(std::size_t port, void* data, Memory memory) = 0;  // port 0 is the input, 1... the outputs
  virtual void cuda_stream(void* stream);                              // refused unless a backend has them
  virtual void run() = 0;
  virtual const std::vector<Tensor>& outputs() const = 0;  // of the last run
};

// A compiled model; runner() may be called from many threads.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;
  virtual std::unique_ptr<Runner> runner() const = 0;
};

struct ModelParts {
  std::string folder;
  Info info;
  std::string why;  // of an index: which bundle this is, and what became of those before it
  bool forkable = true;  // whether a process forked afterwards may run it
  long process = 0;      // that opened it
  std::unique_ptr<Backend> backend;
  std::vector<std::shared_ptr<const ModelParts>> shapes;  // further input sizes
  std::function<void(const std::string&)> warn;
  mutable std::atomic_bool warned_of_candidates{false}, warned_of_max_det{false};
};

std::unique_ptr<Backend> open_openvino(const std::string& folder, const Info& info, const Settings& settings);
std::unique_ptr<Backend> open_onnxruntime(const std::string& folder, const Info& info, const Settings& settings);
std::unique_ptr<Backend> open_tensorrt(const std::string& folder, const Info& info, const Settings& settings);

// The backend of info.target; throws Error where it is unknown or not compiled in.
std::unique_ptr<Backend> open_backend(const std::string& folder, const Info& info, const Settings& settings);

// ---- for backends ---------------------------------------------------------------------------------------------------

// Whether a device is the processor: none given, cpu, CPU, cpu:0.
bool is_cpu(const std::string& device);

// Bytes of a value of this type.
std::size_t size_of(const std::string& dtype);

// Values of any of the manifest's types as float32: `data` itself, or converted in `memory`.
const float* as_float(const void* data, const std::string& dtype, std::size_t count, std::vector<float>& memory);

// The first line of somebody else's message.
std::string first_line(const std::string& message);

std::string join(const std::string& folder, const std::string& file);

}  // namespace edgekit::detail

#endif
