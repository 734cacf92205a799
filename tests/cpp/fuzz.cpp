// Bytes into the manifest reader and, as raw output tensors, into postprocess(). libFuzzer's with clang and
// -DEDGEKIT_LIBFUZZER=ON (CMakeLists.txt); otherwise main() below mutates the seeds it is given for so many seconds (no coverage guidance).
//
//   fuzz SECONDS SEED FILE...           the input at work when it dies is left in ./fuzz-last
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "edgekit/edgekit.hpp"
#include "json.hpp"

namespace {

// Takes numbers off the front of the input.
class Bytes {
 public:
  Bytes(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}
  unsigned next() {
    if (left_ == 0) return 0;
    --left_;
    return *data_++;
  }
  std::vector<float> floats(std::size_t count) {
    std::vector<float> values(count, 0.5F);
    const std::size_t size = std::min(left_, 4 * count);
    if (size > 0) std::memcpy(values.data(), data_, size);
    data_ += size;
    left_ -= size;
    return values;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

void manifest(const std::uint8_t* data, std::size_t size) {
  static const std::string folder = [] {
    const char* given = std::getenv("EDGEKIT_FUZZ_FOLDER");
    return std::string(given == nullptr ? "." : given);
  }();
  std::ofstream(folder + "/manifest.json", std::ios::binary)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  edgekit::read_bundle(folder);
}

void tensors(Bytes bytes) {
  const char* const roles[] = {"boxes",     "rotated_boxes",       "scores",
                               "labels",    "mask_coefficients",   "mask_prototypes",
                               "keypoints", "class_probabilities", "wishes"};
  edgekit::Info info;
  const char* const heads[] = {"raw", "topk", "nms"};
  info.head = heads[bytes.next() % 3];
  info.names.resize(1 + bytes.next() % 5);
  info.height = info.width = 64;
  edgekit::Options options;
  options.conf = static_cast<float>(bytes.next()) / 255;
  options.iou = static_cast<float>(bytes.next()) / 255;
  options.max_det = static_cast<int>(bytes.next()) - 1;
  options.agnostic = bytes.next() % 2 != 0;
  options.multi_label = bytes.next() % 2 != 0;
  if (info.head == "nms") {  // others are refused
    options.iou = 0.7F;
    options.agnostic = false;
  }
  edgekit::Geometry geometry = {50, 80, 0.8, 0.8, 0, 12};
  std::vector<std::vector<float>> memory;
  std::vector<edgekit::Tensor> outputs;
  const unsigned count = bytes.next() % 9;
  for (unsigned i = 0; i < count; ++i) {
    edgekit::Tensor tensor;
    tensor.role = roles[bytes.next() % 9];
    std::size_t all = 1;
    const unsigned rank = bytes.next() % 6;
    for (unsigned d = 0; d < rank; ++d) {
      tensor.shape.push_back(static_cast<std::int64_t>(bytes.next() % 9) - (bytes.next() == 255 ? 10 : 0));
      all *= tensor.shape.back() < 0 ? 1 : static_cast<std::size_t>(tensor.shape.back());
    }
    memory.push_back(bytes.floats(all));
    outputs.push_back(tensor);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) outputs[i].data = memory[i].data();
  const edgekit::Result result = edgekit::postprocess(outputs, info, geometry, options);
  if (result.labels.size() != result.scores.size() || result.labels.size() > 255) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  try {
    if (data[0] == '{' || data[0] == '[')
      manifest(data, size);
    else
      tensors(Bytes(data, size));
  } catch (const edgekit::Error& error) {
    if (std::strchr(error.what(), '\0') == error.what()) std::abort();  // an empty sentence helps nobody
  }
  return 0;
}

#ifndef EDGEKIT_LIBFUZZER
namespace {

using Random = std::mt19937_64;
using Input = std::vector<std::uint8_t>;

void mutate(Input& input, Random& random) {
  static const char* const words[] = {"null", "-1",      "1e999",    "NaN",  "[]", "{}", "\"\"", "99999999999999999999",
                                      "../",  "\\u0000", "[[[[[[[[", "true", ",",  ":",  "\xff", "16777217",
                                      "0.5"};
  const auto below = [&random](std::size_t most) { return most == 0 ? 0 : random() % most; };
  for (std::size_t times = 1 + below(4); times > 0; --times) {
    const std::size_t at = below(input.size() + 1);
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0:
        if (at < input.size()) input[at] = static_cast<std::uint8_t>(random());
        break;
      case 1:
        if (at < input.size()) input[at] ^= static_cast<std::uint8_t>(1U << below(8));
        break;
      case 2:
        input.erase(place,
                    place + static_cast<std::ptrdiff_t>(below(std::min<std::size_t>(input.size() - at, 40) + 1)));
        break;
      case 3: {
        const std::string word = words[below(std::size(words))];
        input.insert(place, word.begin(), word.end());
        break;
      }
      case 4:  // one of the odd floats
        for (const std::uint32_t odd : {0x7FC00000U, 0x7F800000U, 0xFF800000U, 0xBF800000U, 0x7F7FFFFFU, 1U})
          if (below(6) == 0 && at + 4 <= input.size()) std::memcpy(&input[at], &odd, 4);
        break;
      default: {  // a piece of itself again
        const std::size_t from = below(input.size()), length = std::min<std::size_t>(below(60), input.size() - from);
        const Input piece(input.begin() + static_cast<std::ptrdiff_t>(from),
                          input.begin() + static_cast<std::ptrdiff_t>(from + length));
        input.insert(place, piece.begin(), piece.end());
      }
    }
  }
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) return 2;
  Random random(static_cast<std::uint64_t>(std::atoll(words[2])));
  std::vector<Input> seeds;
  for (int i = 3; i < count; ++i) {
    std::ifstream file(words[i], std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    LLVMFuzzerTestOneInput(seeds.back().data(), seeds.back().size());
  }
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(words[1]));
  long runs = 0;
  for (; std::chrono::steady_clock::now() < end; ++runs) {
    Input input = seeds[random() % seeds.size()];
    mutate(input, random);
    std::ofstream("fuzz-last", std::ios::binary)
        .write(reinterpret_cast<const char*>(input.data()), static_cast<std::streamsize>(input.size()));
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::remove("fuzz-last");
  std::printf("%ld inputs\n", runs);
  return 0;
}
#endif
