// Reads the outputs of an edgekit bundle for DeepStream's nvinfer: detections, and instance masks.
//
// Not checked on hardware and not compiled against DeepStream's own headers: written from their public documentation
// (nvdsinfer.h, nvdsinfer_custom_impl.h) and tested against structures of the same fields.
//
//   DS=/opt/nvidia/deepstream/deepstream
//   g++ -O2 -shared -fPIC -I$DS/sources/includes -I/usr/local/cuda/include nvdsinfer_edgekit.cpp -o libnvdsinfer_edgekit.so
//
// Outputs are found by name. N are cells or candidates, C classes, M prototypes:
//   boxes [N, 4] x1 y1 x2 y2 in the network's pixels; scores [N] and labels [N], or, of a raw head, scores [C, N];
//   mask_coefficients [N, M] and mask_prototypes [M, h, w], whose positive sums are the object.
//
// EdgekitParseBoxes leaves suppression to nvinfer (cluster-mode=2). EdgekitParseMasks suppresses by itself, for a mask
// costs memory, and is used with cluster-mode=4 (none).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <vector>

#include "nvdsinfer_custom_impl.h"

namespace {

constexpr float kIou = 0.7f;        // of EdgekitParseMasks; boxes of one class that overlap more are one object
constexpr size_t kMostObjects = 300;
constexpr unsigned kMaskSide = 160;  // a mask's longer side, at most
constexpr float kAbsurd = 1e6f;      // no coordinate of a working model comes near it
constexpr float kSameBox = 0.01f;    // pixels: boxes as near as this on all sides come from one anchor
constexpr int kInt64 = 4;            // of NvDsInferDataType, in DeepStream 7 and later

struct Candidate {
  unsigned row, label;
  float score, x1, y1, x2, y2;
};

const NvDsInferLayerInfo* find(const std::vector<NvDsInferLayerInfo>& layers, const char* name) {
  for (const auto& layer : layers)
    if (layer.layerName && layer.buffer && std::strcmp(layer.layerName, name) == 0) return &layer;
  return nullptr;
}

const float* floats(const NvDsInferLayerInfo* layer, const char* name) {
  if (layer && layer->dataType == FLOAT) return static_cast<const float*>(layer->buffer);
  std::cerr << "edgekit: the engine has no output '" << name << "' of float32; use the one of this bundle\n";
  return nullptr;
}

long label_at(const NvDsInferLayerInfo& layer, unsigned row) {
  if (layer.dataType == INT32) return static_cast<const int32_t*>(layer.buffer)[row];
  if (static_cast<int>(layer.dataType) == kInt64)
    return static_cast<long>(static_cast<const int64_t*>(layer.buffer)[row]);
  if (layer.dataType == FLOAT) return std::lround(static_cast<const float*>(layer.buffer)[row]);
  return -1;
}

bool sound(const Candidate& c) {
  for (float v : {c.x1, c.y1, c.x2, c.y2})
    if (!(std::fabs(v) < kAbsurd)) return false;  // not a number, too
  return c.x2 > c.x1 && c.y2 > c.y1;
}

bool same_box(const Candidate& a, const Candidate& b) {
  return std::fabs(a.x1 - b.x1) < kSameBox && std::fabs(a.y1 - b.y1) < kSameBox &&
         std::fabs(a.x2 - b.x2) < kSameBox && std::fabs(a.y2 - b.y2) < kSameBox;
}

// Of every anchor the best class alone; `found` is sorted, the best first.
void only_best_of_each_anchor(std::vector<Candidate>& found) {
  std::vector<Candidate> first;
  for (const auto& one : found)
    if (std::none_of(first.begin(), first.end(), [&](const Candidate& k) { return same_box(k, one); }))
      first.push_back(one);
  found.swap(first);
}

// Candidates above their class's threshold, the best first, of every anchor the best class alone.
bool candidates(const std::vector<NvDsInferLayerInfo>& layers, const NvDsInferParseDetectionParams& asked,
                std::vector<Candidate>& found) {
  const auto* placed = find(layers, "boxes");
  const auto* scored = find(layers, "scores");
  const auto* labelled = find(layers, "labels");
  const float* boxes = floats(placed, "boxes");
  const float* scores = floats(scored, "scores");
  if (!boxes || !scores) return false;
  const unsigned rows = placed->inferDims.numElements / 4;
  const unsigned classes = rows && !labelled ? scored->inferDims.numElements / rows : 1;
  if (labelled && (scored->inferDims.numElements != rows || labelled->inferDims.numElements != rows)) {
    std::cerr << "edgekit: boxes, scores and labels differ in number; use the engine of this bundle\n";
    return false;
  }
  for (unsigned row = 0; row < rows; ++row) {
    long label = labelled ? label_at(*labelled, row) : 0;
    float score = scores[row];
    for (unsigned c = 1; c < classes; ++c)
      if (scores[c * rows + row] > score) score = scores[c * rows + row], label = c;
    if (label < 0 || label >= static_cast<long>(asked.numClassesConfigured)) continue;
    const auto& least = asked.perClassPreclusterThreshold;
    if (!(score > (static_cast<size_t>(label) < least.size() ? least[label] : 0.f))) continue;
    const float* box = boxes + 4 * row;
    const Candidate one{row, static_cast<unsigned>(label), score, box[0], box[1], box[2], box[3]};
    if (sound(one)) found.push_back(one);
  }
  std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
  if (labelled) only_best_of_each_anchor(found);
  return true;
}

float overlap(const Candidate& a, const Candidate& b) {
  const float w = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), h = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
  if (w <= 0 || h <= 0) return 0;
  return w * h / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - w * h);
}

std::vector<Candidate> suppressed(const std::vector<Candidate>& found) {
  std::vector<Candidate> kept;
  for (const auto& one : found) {
    const auto same = [&](const Candidate& k) { return k.label == one.label && overlap(k, one) > kIou; };
    if (std::none_of(kept.begin(), kept.end(), same)) kept.push_back(one);
    if (kept.size() == kMostObjects) break;
  }
  return kept;
}

// The box, cut at the network's edges.
template <typename Object>
Object placed(const Candidate& c, const NvDsInferNetworkInfo& network) {
  const float width = static_cast<float>(network.width), height = static_cast<float>(network.height);
  Object object{};
  object.classId = c.label;
  object.detectionConfidence = c.score;
  object.left = std::min(std::max(c.x1, 0.f), width);
  object.top = std::min(std::max(c.y1, 0.f), height);
  object.width = std::min(std::max(c.x2, 0.f), width) - object.left;
  object.height = std::min(std::max(c.y2, 0.f), height) - object.top;
  return object;
}

struct Prototypes {
  const float* values;
  unsigned count, height, width;

  // The weighted sum at a place among the prototypes' pixels, bilinear, as a probability.
  float at(const float* weights, float x, float y) const {
    x = std::min(std::max(x, 0.f), width - 1.f), y = std::min(std::max(y, 0.f), height - 1.f);
    const unsigned x0 = static_cast<unsigned>(x), y0 = static_cast<unsigned>(y);
    const unsigned x1 = std::min(x0 + 1, width - 1), y1 = std::min(y0 + 1, height - 1);
    const float fx = x - x0, fy = y - y0;
    float sum = 0;
    for (unsigned m = 0; m < count; ++m) {
      const float* plane = values + static_cast<size_t>(m) * height * width;
      const float above = plane[y0 * width + x0] * (1 - fx) + plane[y0 * width + x1] * fx;
      const float below = plane[y1 * width + x0] * (1 - fx) + plane[y1 * width + x1] * fx;
      sum += weights[m] * (above * (1 - fy) + below * fy);
    }
    return 1 / (1 + std::exp(-sum));
  }
};

// The mask of the object's own box; nvinfer frees it.
void mask(NvDsInferInstanceMaskInfo& object, const Prototypes& prototypes, const float* weights,
          const NvDsInferNetworkInfo& network) {
  const float sx = static_cast<float>(prototypes.width) / network.width;
  const float sy = static_cast<float>(prototypes.height) / network.height;
  const auto side = [](float length) {
    return std::min(std::max(static_cast<unsigned>(std::ceil(length)), 1u), kMaskSide);
  };
  object.mask_width = side(object.width), object.mask_height = side(object.height);
  object.mask_size = sizeof(float) * object.mask_width * object.mask_height;
  object.mask = new float[object.mask_width * object.mask_height];
  for (unsigned j = 0; j < object.mask_height; ++j)
    for (unsigned i = 0; i < object.mask_width; ++i) {
      const float x = object.left + (i + 0.5f) * object.width / object.mask_width;
      const float y = object.top + (j + 0.5f) * object.height / object.mask_height;
      object.mask[j * object.mask_width + i] = prototypes.at(weights, x * sx - 0.5f, y * sy - 0.5f);
    }
}

}  // namespace

extern "C" bool EdgekitParseBoxes(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                  NvDsInferNetworkInfo const& networkInfo,
                                  NvDsInferParseDetectionParams const& detectionParams,
                                  std::vector<NvDsInferObjectDetectionInfo>& objectList) {
  std::vector<Candidate> found;
  if (!candidates(outputLayersInfo, detectionParams, found)) return false;
  for (const auto& one : found) {
    const auto object = placed<NvDsInferObjectDetectionInfo>(one, networkInfo);
    if (object.width > 0 && object.height > 0) objectList.push_back(object);
  }
  return true;
}

extern "C" bool EdgekitParseMasks(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                  NvDsInferNetworkInfo const& networkInfo,
                                  NvDsInferParseDetectionParams const& detectionParams,
                                  std::vector<NvDsInferInstanceMaskInfo>& objectList) {
  const auto* given = find(outputLayersInfo, "mask_prototypes");
  const float* prototypes = floats(given, "mask_prototypes");
  const float* weights = floats(find(outputLayersInfo, "mask_coefficients"), "mask_coefficients");
  std::vector<Candidate> found;
  if (!prototypes || !weights || !candidates(outputLayersInfo, detectionParams, found)) return false;
  const auto& sides = given->inferDims;
  if (sides.numDims < 3) return false;
  const unsigned* last = sides.d + sides.numDims - 3;
  const Prototypes whole{prototypes, last[0], last[1], last[2]};
  for (const auto& one : suppressed(found)) {
    auto object = placed<NvDsInferInstanceMaskInfo>(one, networkInfo);
    if (!(object.width > 0 && object.height > 0)) continue;
    mask(object, whole, weights + static_cast<size_t>(one.row) * whole.count, networkInfo);
    objectList.push_back(object);
  }
  return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(EdgekitParseBoxes);
CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(EdgekitParseMasks);
