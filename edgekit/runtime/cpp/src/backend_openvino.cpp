// OpenVINO: bundles built for ov-*. The settings are those of edgekit/targets/openvino.py.
#include <algorithm>
#include <mutex>
#include <openvino/openvino.hpp>
#include <thread>

#include "backend.hpp"

namespace edgekit::detail {
namespace {

std::string upper(std::string text) {
  for (char& c : text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return text;
}

// The device's name, if OpenVINO has it.
std::string device_of(ov::Core& core, const std::string& wanted) {
  const std::string name = is_cpu(wanted) ? "CPU" : upper(wanted), family = name.substr(0, name.find_first_of(".:"));
  const std::vector<std::string> devices = core.get_available_devices();
  const auto known = [&family](const std::string& device) { return device.substr(0, device.find('.')) == family; };
  const bool several = name.find(':') != std::string::npos;  // only of those two
  if (family == "AUTO" || family == "HETERO") return name;
  if (!several && std::any_of(devices.begin(), devices.end(), known)) return name;
  std::string seen;
  for (const std::string& device : devices) seen += (seen.empty() ? "" : ", ") + device;
  throw Error(Error::Kind::usage, "`device` " + wanted + ": OpenVINO sees " + seen + " here");
}

ov::AnyMap properties_of(const Info& info, const Settings& settings, const std::string& device) {
  ov::AnyMap properties = {ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
  if (settings.streams > 0)
    properties = {ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT),
                  ov::num_streams(ov::streams::Num(settings.streams))};
  // Without this OpenVINO computes bf16 where the processor has it.
  if (info.target == "ov-fp32") properties.insert(ov::hint::inference_precision(ov::element::f32));
  if (settings.threads > 0 && device == "CPU") {
    properties.insert(ov::inference_num_threads(settings.threads));
    if (static_cast<unsigned>(settings.threads) < std::thread::hardware_concurrency())
      properties.insert(ov::hint::enable_cpu_pinning(false));
  }
  return properties;
}

class OpenVinoRunner : public Runner {
 public:
  OpenVinoRunner(const Info& info, const ov::CompiledModel& model, ov::InferRequest request)
      : info_(info), request_(std::move(request)), results_(info.outputs.size()), converted_(info.outputs.size()) {
    input_port_ = model.input();
    for (const Port& port : info.outputs) ports_.push_back(model.output(port.name));
    const auto batch = static_cast<std::size_t>(info.batch()), height = static_cast<std::size_t>(info.height),
               width = static_cast<std::size_t>(info.width);
    input_ = info.takes_pixels() ? ov::Tensor(ov::element::u8, {batch, height, width, 3})
                                 : ov::Tensor(ov::element::f32, {batch, 3, height, width});
    request_.set_tensor(input_port_, input_);
  }

  void* input() override { return input_.data(); }

  void bind(std::size_t port, void* data, Memory memory) override {
    if (memory != Memory::host) throw Error(Error::Kind::usage, "bind: OpenVINO bundles take host memory only");
    try {
      if (port == 0) {
        input_ = ov::Tensor(input_.get_element_type(), input_.get_shape(), data);
        request_.set_tensor(input_port_, input_);
        return;
      }
      const auto& output = ports_[port - 1];
      request_.set_tensor(output, ov::Tensor(output.get_element_type(), output.get_shape(), data));
    } catch (const std::exception& error) {
      throw Error(Error::Kind::usage, std::string("bind: ") + first_line(error.what()));
    }
  }

  void run() override {
    try {
      request_.infer();
      for (std::size_t i = 0; i < ports_.size(); ++i) take(i);
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      throw Error(Error::Kind::input, std::string("OpenVINO cannot run the model (") + first_line(error.what()) + ")");
    }
  }

  const std::vector<Tensor>& outputs() const override { return results_; }

 private:
  void take(std::size_t i) {
    const ov::Tensor tensor = request_.get_tensor(ports_[i]);
    const ov::element::Type type = tensor.get_element_type();
    const std::string dtype = type == ov::element::f32   ? "float32"
                              : type == ov::element::f16 ? "float16"
                              : type == ov::element::i64 ? "int64"
                              : type == ov::element::i32 ? "int32"
                              : type == ov::element::u8  ? "uint8"
                              : type == ov::element::i8  ? "int8"
                                                         : "";
    if (dtype.empty())
      throw Error(Error::Kind::input, "the model's output '" + info_.outputs[i].role + "' has the type " +
                                          type.get_type_name() + "; build the bundle again");
    results_[i].role = info_.outputs[i].role;
    results_[i].data = as_float(tensor.data(), dtype, tensor.get_size(), converted_[i]);
    results_[i].shape.assign(tensor.get_shape().begin(), tensor.get_shape().end());
  }

  const Info& info_;
  ov::InferRequest request_;
  ov::Tensor input_;
  ov::Output<const ov::Node> input_port_;
  std::vector<ov::Output<const ov::Node>> ports_;
  std::vector<Tensor> results_;
  std::vector<std::vector<float>> converted_;
};

class OpenVino : public Backend {
 public:
  OpenVino(const std::string& folder, const Info& info, const Settings& settings)
      : info_(info), path_(join(folder, info.file.empty() ? "model.xml" : info.file)) {
    const std::string device = device_of(core_, settings.device);
    try {
      const ov::AnyMap properties = properties_of(info, settings, device);
      if (info.file.empty()) {
        model_ = core_.compile_model(path_, device, properties);
      } else {  // whose weights are those of the bundle
        model_ = core_.compile_model(core_.read_model(path_, join(folder, "model.bin")), device, properties);
      }
    } catch (const std::exception& error) {  // also what its plugins throw
      throw Error(Error::Kind::input, path_ + ": OpenVINO cannot compile it (" + first_line(error.what()) + ")");
    }
    OpenVino::runner();  // a model that does not fit its manifest is found now
  }

  std::unique_ptr<Runner> runner() const override {
    const std::lock_guard<std::mutex> alone(mutex_);
    try {
      return std::make_unique<OpenVinoRunner>(info_, model_, model_.create_infer_request());
    } catch (const std::exception&) {
      throw Error(Error::Kind::input,
                  path_ + ": its inputs and outputs are not those of the manifest; rebuild the bundle");
    }
  }

 private:
  ov::Core core_;
  const Info& info_;
  std::string path_;
  mutable ov::CompiledModel model_;  // making a request changes nothing of it
  mutable std::mutex mutex_;
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const std::string& folder, const Info& info, const Settings& settings) {
  try {
    return std::make_unique<OpenVino>(folder, info, settings);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(Error::Kind::missing, folder + ": OpenVINO does not start (" + first_line(error.what()) + ")");
  }
}

}  // namespace edgekit::detail
