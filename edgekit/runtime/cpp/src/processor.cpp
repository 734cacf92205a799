// Asked of the processor itself (CPUID): /proc/cpuinfo is another's under an emulator.
#include "processor.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#elif defined(_M_X64) || defined(_M_IX86)
#include <intrin.h>
#endif

namespace edgekit::detail {
namespace {

// Whether sums of eight-bit products are exact: VNNI, which AVX-512 and AVX have each of their own.
#if defined(__x86_64__) || defined(__i386__)
bool adds_exactly() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  const unsigned leaves = eax;
  if ((ecx & (1U << 11U)) != 0 && __builtin_cpu_supports("avx512f") != 0) return true;
  if (leaves < 1 || __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0) return false;
  return (eax & (1U << 4U)) != 0 && __builtin_cpu_supports("avx2") != 0;
}
#elif defined(_M_X64) || defined(_M_IX86)
bool adds_exactly() {
  int words[4];
  __cpuid(words, 0);
  if (words[0] < 7) return false;
  __cpuidex(words, 7, 0);
  if ((static_cast<unsigned>(words[2]) & (1U << 11U)) != 0) return true;
  if (words[0] < 1) return false;
  __cpuidex(words, 7, 1);
  return (static_cast<unsigned>(words[0]) & (1U << 4U)) != 0;
}
#else
bool adds_exactly() { return true; }  // not told: nothing is claimed
#endif

bool on_cpu(std::string device) {
  std::transform(device.begin(), device.end(), device.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return device.empty() || device == "cpu" || device == "cpu:0";
}

// The variable and its value that keep oneDNN, with which OpenVINO computes, from VNNI.
std::string onednn_limit() {
  for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {
    const char* set_to = std::getenv(name);
    if (set_to == nullptr) continue;
    std::string value = set_to;
    std::transform(value.begin(), value.end(), value.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    for (const char* without : {"SSE41", "AVX", "AVX2", "AVX512_CORE"})
      if (value == without) return std::string(name) + "=" + value;
  }
  return {};
}

}  // namespace

std::string remark(const Info& info, const std::string& device) {
  if (info.target.compare(0, 3, "trt") == 0 || !on_cpu(device)) return {};
#if defined(__aarch64__) || defined(__arm__) || defined(_M_ARM64)
  if (info.target == "ov-int8")
    return "OpenVINO has no INT8 on ARM and computes it in FP16: it is no faster than ov-fp16 and its accuracy is "
           "another than the manifest's; build for ort-int8 or ov-fp16";
#endif
  if (info.weight_bits != 8) return {};
  if (info.target.compare(0, 3, "ov-") == 0) {
    const std::string limit = onednn_limit();
    if (!limit.empty())
      return "its weights take eight bits, and " + limit +
             " leaves OpenVINO without VNNI: sums of their products saturate, and accuracy is lower than the manifest "
             "says; unset it, or build with `weight_bits` 7";
  }
  if (adds_exactly()) return {};
  return "its weights take eight bits, and this processor (without VNNI) adds their products in sixteen, which "
         "saturate: accuracy is lower than the manifest says; build it with `weight_bits` 7";
}

}  // namespace edgekit::detail
