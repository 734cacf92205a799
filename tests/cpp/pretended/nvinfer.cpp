// libnvinfer of a rehearsal: an engine is a header of two lines and an ONNX graph, which OpenVINO computes in float32.
#include <NvInferRuntime.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <map>
#include <openvino/openvino.hpp>
#include <string>

namespace nvinfer1 {
namespace {

DataType type_of(const ov::element::Type& type) {
  if (type == ov::element::f16) return DataType::kHALF;
  if (type == ov::element::i64) return DataType::kINT64;
  if (type == ov::element::i32) return DataType::kINT32;
  return DataType::kFLOAT;
}

class Context : public IExecutionContext {
 public:
  explicit Context(ov::CompiledModel model) : model_(model), request_(model.create_infer_request()) {}
  bool setNvtxVerbosity(ProfilingVerbosity) noexcept override { return true; }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    const Dims own = getTensorShape(name);
    return own.nbDims == dims.nbDims && std::memcmp(own.d, dims.d, sizeof(own.d)) == 0;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    Dims found;
    for (const std::size_t side : request_.get_tensor(name).get_shape())
      found.d[found.nbDims++] = static_cast<std::int64_t>(side);
    return found;
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    addresses_[name] = data;
    return true;
  }
  bool enqueueV3(cudaStream_t) noexcept override {  // at once: the pretended runtime has no queues
    for (const auto& port : model_.inputs()) {
      ov::Tensor tensor = request_.get_tensor(port);
      std::memcpy(tensor.data(), addresses_.at(port.get_any_name()), tensor.get_byte_size());
    }
    request_.infer();
    for (const auto& port : model_.outputs()) {
      const ov::Tensor tensor = request_.get_tensor(port);
      std::memcpy(addresses_.at(port.get_any_name()), tensor.data(), tensor.get_byte_size());
    }
    return true;
  }

 private:
  ov::CompiledModel model_;
  mutable ov::InferRequest request_;
  std::map<std::string, void*> addresses_;
};

class Engine : public ICudaEngine {
 public:
  explicit Engine(ov::CompiledModel model) : model_(std::move(model)) {}
  IExecutionContext* createExecutionContext() noexcept override { return new Context(model_); }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    for (const auto& port : model_.inputs())
      if (port.get_names().count(name) != 0) return TensorIOMode::kINPUT;
    for (const auto& port : model_.outputs())
      if (port.get_names().count(name) != 0) return TensorIOMode::kOUTPUT;
    return TensorIOMode::kNONE;
  }
  DataType getTensorDataType(const char* name) const noexcept override {
    for (const auto& port : model_.outputs())
      if (port.get_names().count(name) != 0) return type_of(port.get_element_type());
    return type_of(model_.input(name).get_element_type());
  }

 private:
  ov::CompiledModel model_;
};

class Runtime : public IRuntime {
 public:
  explicit Runtime(ILogger& log) : log_(log) {}
  ICudaEngine* deserializeCudaEngine(const void* data, std::size_t size) noexcept override {
    std::string graph(static_cast<const char*>(data), size);
    for (int line = 0; line < 2; ++line) graph.erase(0, graph.find('\n') + 1);
    const std::string path = "/tmp/rehearsed-" + std::to_string(getpid()) + ".onnx";
    ICudaEngine* made = nullptr;
    try {
      std::ofstream(path, std::ios::binary) << graph;
      made = new Engine(ov::Core().compile_model(path, "CPU", ov::hint::inference_precision(ov::element::f32)));
    } catch (const std::exception& error) {
      log_.log(ILogger::Severity::kERROR, error.what());
    }
    std::remove(path.c_str());
    return made;
  }

 private:
  ILogger& log_;
};

}  // namespace

IRuntime* createInferRuntime(ILogger& logger) noexcept { return new Runtime(logger); }

}  // namespace nvinfer1
