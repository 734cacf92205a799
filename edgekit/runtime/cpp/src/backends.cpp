// Which backends this library was compiled with, and what they share.
#include <cctype>
#include <cstdint>
#include <cstring>
#include <filesystem>

#include "backend.hpp"
#include "manifest.hpp"

namespace edgekit {

std::vector<std::string> backends() {
  std::vector<std::string> names;
#ifdef EDGEKIT_WITH_OPENVINO
  names.emplace_back("openvino");
#endif
#ifdef EDGEKIT_WITH_ONNXRUNTIME
  names.emplace_back("onnxruntime");
#endif
#ifdef EDGEKIT_WITH_TENSORRT
  names.emplace_back("tensorrt");
#endif
  return names;
}

namespace detail {
namespace {

constexpr const char* targets = "ort-fp32 ort-int8 ov-fp32 ov-fp16 ov-int8 trt-fp16 trt-int8 trt-rtx-fp16 trt-rtx-int8";

[[noreturn]] void not_compiled_in(const std::string& target, const char* backend, const char* option) {
  throw Error(Error::Kind::missing, target + " needs the backend '" + backend +
                                        "', which is not compiled into this library; configure it with -D" + option +
                                        "=ON");
}

// IEEE 754 half precision.
float from_half(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16U, exponent = (half >> 10U) & 31U, fraction = half & 0x3FFU;
  std::uint32_t bits = sign;
  if (exponent == 31) {
    bits |= 0x7F800000U | fraction << 13U;
  } else if (exponent > 0) {
    bits |= (exponent + 112U) << 23U | fraction << 13U;
  } else {
    const float tiny = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -tiny : tiny;
  }
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
void convert(const void* data, std::vector<float>& memory) {
  const T* values = static_cast<const T*>(data);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<float>(values[i]);
}

}  // namespace

std::unique_ptr<Backend> open_backend(const std::string& folder, const Info& info, const Settings& settings) {
  const std::string& target = info.target;
  if (target.compare(0, 5, "ncnn-") == 0)
    throw Error(Error::Kind::missing, target + " has no backend in this library; run the bundle with edgekit's Python, "
                                               "or build it for an ort-* target");
  if (!one_of(target, targets)) {
    std::string known(targets);
    for (std::size_t at = 0; (at = known.find(' ', at)) != std::string::npos; at += 2) known.replace(at, 1, ", ");
    throw Error(Error::Kind::usage, "`target` " + target + ": there is no such target; targets are " + known);
  }
  if (target.compare(0, 3, "ov-") == 0) {
#ifdef EDGEKIT_WITH_OPENVINO
    return open_openvino(folder, info, settings);
#else
    not_compiled_in(target, "openvino", "EDGEKIT_OPENVINO");
#endif
  }
  if (target.compare(0, 4, "ort-") == 0) {
#ifdef EDGEKIT_WITH_ONNXRUNTIME
    return open_onnxruntime(folder, info, settings);
#else
    not_compiled_in(target, "onnxruntime", "EDGEKIT_ONNXRUNTIME");
#endif
  }
#ifdef EDGEKIT_WITH_TENSORRT
  return open_tensorrt(folder, info, settings);
#else
  not_compiled_in(target, "tensorrt", "EDGEKIT_TENSORRT");
#endif
}

void Runner::cuda_stream(void*) {
  throw Error(Error::Kind::usage, "cuda_stream: only trt-* bundles run on CUDA streams");
}

bool is_cpu(const std::string& device) {
  std::string small = device;
  for (char& letter : small) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return small.empty() || small == "cpu" || small == "cpu:0";
}

std::size_t size_of(const std::string& dtype) {
  return dtype == "int64" ? 8 : dtype == "float32" || dtype == "int32" ? 4 : dtype == "float16" ? 2 : 1;
}

const float* as_float(const void* data, const std::string& dtype, std::size_t count, std::vector<float>& memory) {
  if (dtype == "float32") return static_cast<const float*>(data);
  memory.resize(count);
  if (dtype == "float16") {
    const auto* halves = static_cast<const std::uint16_t*>(data);
    for (std::size_t i = 0; i < count; ++i) memory[i] = from_half(halves[i]);
  } else if (dtype == "int64") {
    convert<std::int64_t>(data, memory);
  } else if (dtype == "int32") {
    convert<std::int32_t>(data, memory);
  } else if (dtype == "uint8") {
    convert<std::uint8_t>(data, memory);
  } else {
    convert<std::int8_t>(data, memory);
  }
  return memory.data();
}

std::string first_line(const std::string& message) { return message.substr(0, message.find('\n')); }

std::string join(const std::string& folder, const std::string& file) {
  return (std::filesystem::path(folder) / file).string();
}

}  // namespace detail
}  // namespace edgekit
