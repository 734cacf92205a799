// TensorRT 8.6, 10, 11 and TensorRT-RTX: bundles built for trt-*. The engine of this GPU's architecture, an execution
// context a session, pinned staging; images and results may stay on the GPU (bind) and run on the caller's stream.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>

#include "backend.hpp"

namespace edgekit::detail {
namespace {

void check(cudaError_t code, const std::string& what) {
  if (code != cudaSuccess) throw Error(Error::Kind::input, what + " (" + cudaGetErrorString(code) + ")");
}

// Keeps the last complaint for the sentence of an error; prints nothing.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      last_ = first_line(message);
    } catch (...) {  // no memory for it: the sentence will lack a detail
    }
  }
  std::string last() const { return last_.empty() ? "it gives no reason" : last_; }

 private:
  std::string last_;
};

struct FreeDevice {
  void operator()(void* memory) const { cudaFree(memory); }
};
struct FreeHost {
  void operator()(void* memory) const { cudaFreeHost(memory); }
};

std::string dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kINT32:
      return "int32";
    case nvinfer1::DataType::kINT8:
      return "int8";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
#if NV_TENSORRT_MAJOR >= 10
    case nvinfer1::DataType::kINT64:
      return "int64";
#endif
    default:
      return "";
  }
}

struct Place {  // of one input or output
  std::string name, role, dtype;
  std::vector<std::int64_t> shape;
  std::size_t count = 1;
  std::unique_ptr<void, FreeDevice> device;
  std::unique_ptr<void, FreeHost> host;
  void* bound = nullptr;  // the caller's
  Memory memory = Memory::host;

  std::size_t bytes() const { return count * size_of(dtype); }
  void* staging() const { return bound != nullptr && memory == Memory::host ? bound : host.get(); }
};

class TensorRtRunner : public Runner {
 public:
  TensorRtRunner(const Info& info, const std::string& path, nvinfer1::ICudaEngine& engine, const Log& log, int gpu)
      : path_(path), log_(log), gpu_(gpu), context_(engine.createExecutionContext()) {
    check(cudaSetDevice(gpu_), path_ + ": CUDA fails");
    if (context_ == nullptr)
      throw Error(Error::Kind::input, path_ + ": no memory on the GPU for it (" + log.last() + ")");
    context_->setNvtxVerbosity(nvinfer1::ProfilingVerbosity::kNONE);
    const Port& input = info.inputs[0];
    const nvinfer1::Dims4 shape(info.batch(), 3, info.height, info.width);
    if (engine.getTensorIOMode(input.name.c_str()) == nvinfer1::TensorIOMode::kNONE ||
        !context_->setInputShape(input.name.c_str(), shape))
      not_the_manifests();
    places_.push_back(place(engine, input, "images"));
    if (places_[0].dtype != "float32") not_the_manifests();
    for (const Port& port : info.outputs) places_.push_back(place(engine, port, port.role));
    check(cudaStreamCreateWithFlags(&own_, cudaStreamNonBlocking), path_ + ": CUDA fails");
    stream_ = own_;
    results_.resize(info.outputs.size());
    converted_.resize(info.outputs.size());
  }

  ~TensorRtRunner() override {
    cudaStreamSynchronize(stream_);
    if (own_ != nullptr) cudaStreamDestroy(own_);
  }

  void* input() override {
    const Place& place = places_[0];
    return place.bound != nullptr && place.memory == Memory::device ? nullptr : place.staging();
  }

  void bind(std::size_t port, void* data, Memory memory) override {
    places_[port].bound = data;
    places_[port].memory = memory;
  }

  void cuda_stream(void* stream) override { stream_ = stream == nullptr ? own_ : static_cast<cudaStream_t>(stream); }

  // Copy in, network, copies out, and a wait: unless everything stays on the caller's device memory and stream.
  void run() override {
    check(cudaSetDevice(gpu_), path_ + ": CUDA fails");
    bool on_host = stream_ == own_;
    for (std::size_t i = 0; i < places_.size(); ++i) {
      const Place& place = places_[i];
      const bool device = place.bound != nullptr && place.memory == Memory::device;
      void* address = device ? place.bound : place.device.get();
      if (i == 0 && !device)
        check(cudaMemcpyAsync(address, place.staging(), place.bytes(), cudaMemcpyHostToDevice, stream_),
              path_ + ": CUDA cannot copy the images");
      if (!context_->setTensorAddress(place.name.c_str(), address)) failed();
    }
    if (!context_->enqueueV3(stream_)) failed();
    for (std::size_t i = 1; i < places_.size(); ++i) {
      const Place& place = places_[i];
      if (place.bound != nullptr && place.memory == Memory::device) continue;
      on_host = true;
      check(cudaMemcpyAsync(place.staging(), place.device.get(), place.bytes(), cudaMemcpyDeviceToHost, stream_),
            path_ + ": CUDA cannot copy the results");
    }
    if (on_host) check(cudaStreamSynchronize(stream_), path_ + ": the run failed");
    for (std::size_t i = 1; i < places_.size(); ++i) take(i);
  }

  const std::vector<Tensor>& outputs() const override { return results_; }

 private:
  [[noreturn]] void not_the_manifests() const {
    throw Error(Error::Kind::gate,
                path_ + ": its inputs and outputs are not those of the manifest; rebuild the bundle");
  }

  [[noreturn]] void failed() const {
    throw Error(Error::Kind::input, path_ + ": the run failed (" + log_.last() + ")");
  }

  Place place(const nvinfer1::ICudaEngine& engine, const Port& port, const std::string& role) const {
    if (engine.getTensorIOMode(port.name.c_str()) == nvinfer1::TensorIOMode::kNONE) not_the_manifests();
    Place made;
    made.name = port.name;
    made.role = role;
    made.dtype = dtype_of(engine.getTensorDataType(port.name.c_str()));
    const nvinfer1::Dims dims = context_->getTensorShape(port.name.c_str());
    if (made.dtype.empty() || dims.nbDims < 1) not_the_manifests();
    for (int i = 0; i < dims.nbDims; ++i) {
      if (dims.d[i] < 0) not_the_manifests();
      made.shape.push_back(dims.d[i]);
      made.count *= static_cast<std::size_t>(dims.d[i]);
    }
    void* memory = nullptr;
    check(cudaMalloc(&memory, made.bytes()), path_ + ": no memory on the GPU for it");
    made.device.reset(memory);
    check(cudaMallocHost(&memory, made.bytes()), path_ + ": no pinned memory for it");
    made.host.reset(memory);
    return made;
  }

  void take(std::size_t i) {
    const Place& place = places_[i];
    Tensor& tensor = results_[i - 1];
    tensor.role = place.role;
    tensor.shape = place.shape;
    const bool device = place.bound != nullptr && place.memory == Memory::device;
    tensor.data = device ? nullptr : as_float(place.staging(), place.dtype, place.count, converted_[i - 1]);
  }

  const std::string path_;
  const Log& log_;
  int gpu_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<Place> places_;
  cudaStream_t own_ = nullptr, stream_ = nullptr;
  std::vector<Tensor> results_;
  std::vector<std::vector<float>> converted_;
};

class TensorRt : public Backend {
 public:
  TensorRt(const std::string& folder, const Info& info, const Settings& settings)
      : info_(info), gpu_(device_of(settings.device)) {
    cudaDeviceProp properties{};
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpu_ >= gpus ||
        cudaGetDeviceProperties(&properties, gpu_) != cudaSuccess)
      throw Error(Error::Kind::usage, "`device` " + (settings.device.empty() ? "cuda:0" : settings.device) +
                                          ": there is no such GPU here, or no driver for it");
    const int sm = 10 * properties.major + properties.minor;
    path_ = join(folder, "model.sm" + std::to_string(sm) + ".engine");
    std::ifstream file(path_, std::ios::binary);
    if (!file)
      throw Error(Error::Kind::input, folder + ": holds no engine for this GPU (" + properties.name + ", SM " +
                                          std::to_string(sm) +
                                          "); build one for it with: edgekit build MODEL --target " + info.target);
    const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    check(cudaSetDevice(gpu_), path_ + ": CUDA fails");
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_ != nullptr) engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (engine_ == nullptr)
      throw Error(Error::Kind::gate,
                  path_ + ": cannot be loaded (" + log_.last() +
                      "); engines belong to the version that built them: build the bundle again here");
    TensorRt::runner();  // an engine that does not fit its manifest is found now
  }

  std::unique_ptr<Runner> runner() const override {
    const std::lock_guard<std::mutex> alone(mutex_);
    return std::make_unique<TensorRtRunner>(info_, path_, *engine_, log_, gpu_);
  }

 private:
  static int device_of(const std::string& device) {
    if (device.empty() || device == "cuda" || device == "gpu") return 0;
    const bool known = device.size() == 6 && device.compare(0, 5, "cuda:") == 0 && device[5] >= '0' && device[5] <= '9';
    if (!known) throw Error(Error::Kind::usage, "`device` " + device + ": trt-* bundles run on cuda:0, cuda:1 ...");
    return device[5] - '0';
  }

  const Info& info_;
  int gpu_;
  std::string path_;
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  mutable std::mutex mutex_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const std::string& folder, const Info& info, const Settings& settings) {
  return std::make_unique<TensorRt>(folder, info, settings);
}

}  // namespace edgekit::detail
