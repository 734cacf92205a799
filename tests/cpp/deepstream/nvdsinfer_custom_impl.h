// Stands in for DeepStream's header of this name: the structures and types that the parser uses, with the fields that
// NVIDIA's API reference gives them (DeepStream 7: nvdsinfer.h, nvdsinfer_custom_impl.h), in our own words.
#pragma once
#include <string>
#include <vector>

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 };

struct NvDsInferDims {
  unsigned int numDims;
  unsigned int d[8];
  unsigned int numElements;
};

struct NvDsInferLayerInfo {
  NvDsInferDataType dataType;
  union {
    NvDsInferDims inferDims;
    NvDsInferDims dims;
  };
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
};

struct NvDsInferNetworkInfo {
  unsigned int width, height, channels;
};

struct NvDsInferObjectDetectionInfo {
  unsigned int classId;
  float left, top, width, height, detectionConfidence;
  float rotation_angle;  // from DeepStream 9
};

struct NvDsInferInstanceMaskInfo {
  unsigned int classId;
  float left, top, width, height, detectionConfidence;
  float* mask;
  unsigned int mask_width, mask_height, mask_size;
};

struct NvDsInferParseDetectionParams {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold, perClassPostclusterThreshold;
  std::vector<float>& perClassThreshold = perClassPreclusterThreshold;
};

using Layers = std::vector<NvDsInferLayerInfo> const&;
typedef bool (*NvDsInferParseCustomFunc)(Layers, NvDsInferNetworkInfo const&, NvDsInferParseDetectionParams const&,
                                         std::vector<NvDsInferObjectDetectionInfo>&);
typedef bool (*NvDsInferInstanceMaskParseCustomFunc)(Layers, NvDsInferNetworkInfo const&,
                                                     NvDsInferParseDetectionParams const&,
                                                     std::vector<NvDsInferInstanceMaskInfo>&);
#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) static NvDsInferParseCustomFunc checked_##function = function
#define CHECK_CUSTOM_INSTANCE_MASK_PARSE_FUNC_PROTOTYPE(function) \
  static NvDsInferInstanceMaskParseCustomFunc checked_##function = function
