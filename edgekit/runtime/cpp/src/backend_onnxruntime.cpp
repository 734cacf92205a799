// ONNX Runtime on the CPU: bundles built for ort-*. The C interface, so that a library older or newer than the headers
// works too (anything from release 1.0 on).
#include <filesystem>
#include <onnxruntime_c_api.h>

#include "backend.hpp"

namespace edgekit::detail {
namespace {

const OrtApi& api() {
  const OrtApi* found = OrtGetApiBase()->GetApi(1);  // the interface of release 1.0: all of it is in later ones
  if (found == nullptr) throw Error(Error::Kind::missing, "this ONNX Runtime does not offer the interface of 1.0");
  return *found;
}

// Frees with a function of the interface.
template <class T>
struct Release {
  void(ORT_API_CALL* free)(T*);
  void operator()(T* object) const { free(object); }
};
template <class T>
using Owned = std::unique_ptr<T, Release<T>>;

// The first line of what went wrong, empty if nothing did.
std::string message_of(OrtStatus* status) {
  if (status == nullptr) return "";
  const Owned<OrtStatus> owned(status, {api().ReleaseStatus});
  return first_line(api().GetErrorMessage(status));
}

struct Shared {  // what a model's runners use together
  const Info& info;
  std::string path;
  Owned<OrtEnv> environment;
  Owned<OrtSession> session;
  Owned<OrtMemoryInfo> memory;

  void check(OrtStatus* status, const char* what) const {
    const std::string said = message_of(status);
    if (!said.empty()) throw Error(Error::Kind::input, path + ": ONNX Runtime cannot " + what + " (" + said + ")");
  }
};

std::string dtype_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      return "float32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      return "float16";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      return "int64";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
      return "int32";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      return "uint8";
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      return "int8";
    default:
      return "";
  }
}

ONNXTensorElementDataType type_of(const std::string& dtype) {
  for (const auto type :
       {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8})
    if (dtype == dtype_of(type)) return type;
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

class OnnxRuntimeRunner : public Runner {
 public:
  explicit OnnxRuntimeRunner(const Shared& shared)
      : shared_(shared),
        results_(shared.info.outputs.size()),
        bound_(results_.size(), nullptr),
        converted_(results_.size()) {
    const Info& info = shared_.info;
    shape_ = {info.batch(), 3, info.height, info.width};
    memory_.resize(static_cast<std::size_t>(shape_[0] * 3 * shape_[2] * shape_[3]));
    input_ = memory_.data();
  }

  void* input() override { return input_; }

  void bind(std::size_t port, void* data, Memory memory) override {
    if (memory != Memory::host) throw Error(Error::Kind::usage, "bind: ONNX Runtime bundles take host memory only");
    if (port == 0)
      input_ = static_cast<float*>(data);
    else
      bound_[port - 1] = data;
  }

  void run() override {
    const Info& info = shared_.info;
    std::vector<const char*> names;
    std::vector<OrtValue*> values;
    std::vector<Owned<OrtValue>> owned;  // of the caller's memory, or made by the runtime: freed with the next run
    for (std::size_t i = 0; i < info.outputs.size(); ++i) {
      const Port& port = info.outputs[i];
      names.push_back(port.name.c_str());
      values.push_back(bound_[i] == nullptr ? nullptr : around(bound_[i], port.dtype, port.shape));
      owned.emplace_back(values.back(), Release<OrtValue>{api().ReleaseValue});
    }
    const Owned<OrtValue> input(around(input_, "float32", shape_), {api().ReleaseValue});
    const OrtValue* inputs[] = {input.get()};
    const char* input_name = info.inputs[0].name.c_str();
    OrtStatus* status =
        api().Run(shared_.session.get(), nullptr, &input_name, inputs, 1, names.data(), names.size(), values.data());
    for (std::size_t i = 0; i < values.size(); ++i)
      if (owned[i].get() != values[i]) owned[i].reset(values[i]);
    shared_.check(status, "run it");
    values_.swap(owned);
    for (std::size_t i = 0; i < values_.size(); ++i) take(i);
  }

  const std::vector<Tensor>& outputs() const override { return results_; }

 private:
  OrtValue* around(void* data, const std::string& dtype, const std::vector<std::int64_t>& shape) const {
    std::size_t bytes = size_of(dtype);
    for (const std::int64_t side : shape) {
      if (side < 0) throw Error(Error::Kind::usage, "bind: the port's shape is dynamic, so its size is not known");
      bytes *= static_cast<std::size_t>(side);
    }
    OrtValue* value = nullptr;
    shared_.check(api().CreateTensorWithDataAsOrtValue(shared_.memory.get(), data, bytes, shape.data(), shape.size(),
                                                       type_of(dtype), &value),
                  "run it");
    return value;
  }

  void take(std::size_t i) {
    OrtTensorTypeAndShapeInfo* made = nullptr;
    shared_.check(api().GetTensorTypeAndShape(values_[i].get(), &made), "run it");
    const Owned<OrtTensorTypeAndShapeInfo> info(made, {api().ReleaseTensorTypeAndShapeInfo});
    ONNXTensorElementDataType type{};
    std::size_t rank = 0, count = 0;
    void* data = nullptr;
    shared_.check(api().GetTensorElementType(made, &type), "run it");
    shared_.check(api().GetDimensionsCount(made, &rank), "run it");
    results_[i].shape.resize(rank);
    shared_.check(api().GetDimensions(made, results_[i].shape.data(), rank), "run it");
    shared_.check(api().GetTensorShapeElementCount(made, &count), "run it");
    shared_.check(api().GetTensorMutableData(values_[i].get(), &data), "run it");
    const std::string dtype = dtype_of(type);
    if (dtype.empty())
      throw Error(Error::Kind::input, "the model's output '" + shared_.info.outputs[i].role +
                                          "' has a type edgekit does not know; build the bundle again");
    results_[i].role = shared_.info.outputs[i].role;
    results_[i].data = as_float(data, dtype, count, converted_[i]);
  }

  const Shared& shared_;
  std::vector<std::int64_t> shape_;
  std::vector<float> memory_;
  float* input_ = nullptr;
  std::vector<Tensor> results_;
  std::vector<void*> bound_;
  std::vector<std::vector<float>> converted_;
  std::vector<Owned<OrtValue>> values_;
};

class OnnxRuntime : public Backend {
 public:
  OnnxRuntime(const std::string& folder, const Info& info, const Settings& settings)
      : shared_{info,
                join(folder, info.file.empty() ? "model.onnx" : info.file),
                {nullptr, {api().ReleaseEnv}},
                {nullptr, {api().ReleaseSession}},
                {nullptr, {api().ReleaseMemoryInfo}}} {
    if (!is_cpu(settings.device))
      throw Error(Error::Kind::usage, "`device` " + settings.device + ": " + info.target +
                                          " runs on cpu; use a trt-* target for NVIDIA GPUs");
    OrtEnv* environment = nullptr;
    shared_.check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "edgekit", &environment), "start");
    shared_.environment.reset(environment);
    OrtSessionOptions* made = nullptr;
    shared_.check(api().CreateSessionOptions(&made), "start");
    const Owned<OrtSessionOptions> options(made, {api().ReleaseSessionOptions});
    if (settings.threads > 0) shared_.check(api().SetIntraOpNumThreads(made, settings.threads), "start");
    const std::filesystem::path path(shared_.path);
    OrtSession* session = nullptr;
    shared_.check(api().CreateSession(environment, path.c_str(), made, &session), "load it");
    shared_.session.reset(session);
    OrtMemoryInfo* memory = nullptr;
    shared_.check(api().CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeCPU, &memory), "start");
    shared_.memory.reset(memory);
  }

  std::unique_ptr<Runner> runner() const override { return std::make_unique<OnnxRuntimeRunner>(shared_); }

 private:
  Shared shared_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const std::string& folder, const Info& info, const Settings& settings) {
  return std::make_unique<OnnxRuntime>(folder, info, settings);
}

}  // namespace edgekit::detail
