// Calls the parser of a DeepStream layout as nvinfer would, for tests/test_deepstream.py.
#include <algorithm>

#include "nvdsinfer_custom_impl.h"

extern "C" bool EdgekitParseBoxes(Layers, NvDsInferNetworkInfo const&, NvDsInferParseDetectionParams const&,
                                  std::vector<NvDsInferObjectDetectionInfo>&);
extern "C" bool EdgekitParseMasks(Layers, NvDsInferNetworkInfo const&, NvDsInferParseDetectionParams const&,
                                  std::vector<NvDsInferInstanceMaskInfo>&);

struct Given {
  const char* name;
  int type;
  unsigned dims, side[8];
  void* values;
};

namespace {

template <typename Object>
void tell(const Object& one, float* row) {
  const float values[] = {one.left,  one.top, one.left + one.width, one.top + one.height, one.detectionConfidence,
                          static_cast<float>(one.classId)};
  std::copy(values, values + 6, row);
}

}  // namespace

// `rows` gets six values an object; `masks`, unless null, its mask as nvinfer would scale it: 64 x 64 of the box, nearest.
// Returns the number of objects, or -1.
extern "C" int call(const Given* given, int count, unsigned width, unsigned height, unsigned classes, float conf,
                    float* rows, float* masks, int most) {
  std::vector<NvDsInferLayerInfo> layers;
  for (int i = 0; i < count; ++i) {
    NvDsInferLayerInfo layer{};
    layer.dataType = static_cast<NvDsInferDataType>(given[i].type);
    layer.inferDims.numDims = given[i].dims;
    layer.inferDims.numElements = 1;
    for (unsigned d = 0; d < given[i].dims; ++d) layer.inferDims.numElements *= layer.inferDims.d[d] = given[i].side[d];
    layer.layerName = given[i].name, layer.buffer = given[i].values;
    layers.push_back(layer);
  }
  const NvDsInferNetworkInfo network{width, height, 3};
  NvDsInferParseDetectionParams asked{classes, std::vector<float>(classes, conf), {}};
  if (!masks) {
    std::vector<NvDsInferObjectDetectionInfo> found;
    if (!EdgekitParseBoxes(layers, network, asked, found)) return -1;
    for (size_t i = 0; i < found.size() && static_cast<int>(i) < most; ++i) tell(found[i], rows + 6 * i);
    return static_cast<int>(found.size());
  }
  std::vector<NvDsInferInstanceMaskInfo> found;
  if (!EdgekitParseMasks(layers, network, asked, found)) return -1;
  for (size_t n = 0; n < found.size(); ++n) {
    const auto& one = found[n];
    if (one.mask_size != sizeof(float) * one.mask_width * one.mask_height) return -2;
    if (static_cast<int>(n) < most) {
      tell(one, rows + 6 * n);
      for (unsigned j = 0; j < 64; ++j)
        for (unsigned i = 0; i < 64; ++i)
          masks[(n * 64 + j) * 64 + i] =
              one.mask[(2 * j + 1) * one.mask_height / 128 * one.mask_width + (2 * i + 1) * one.mask_width / 128];
    }
    delete[] one.mask;
  }
  return static_cast<int>(found.size());
}
