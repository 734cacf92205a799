// The C functions of edgekit.h: each a call into the C++ library behind one catch.
#include <algorithm>
#include <cstring>
#include <new>

#include "edgekit/edgekit.h"
#include "edgekit/edgekit.hpp"

struct edgekit_model {
  edgekit::Model model;
};
struct edgekit_session {
  edgekit::Session session;
};
struct edgekit_result {
  edgekit::Result result;
};

namespace {

// Records are handed out as arrays of numbers.
static_assert(sizeof(edgekit::Box) == 4 * sizeof(float) && sizeof(edgekit::RotatedBox) == 5 * sizeof(float) &&
              sizeof(edgekit::Keypoint) == 3 * sizeof(float));

constexpr int unforeseen = 6;

template <std::size_t Size>
void copy(const char* sentence, char (&out)[Size]) noexcept {
  const std::size_t length = std::min(std::strlen(sentence), Size - 1);
  std::memcpy(out, sentence, length);
  out[length] = '\0';
}

int report(edgekit_error* error, int kind, const char* sentence) noexcept {
  if (error != nullptr) {
    error->kind = kind;
    copy(sentence, error->message);
  }
  return kind;
}

template <class Work>
int guarded(edgekit_error* error, Work work) noexcept {
  try {
    work();
    return 0;
  } catch (const edgekit::Error& known) {
    return report(error, static_cast<int>(known.kind()), known.what());
  } catch (const std::exception& other) {
    return report(error, unforeseen, other.what());
  } catch (...) {
    return report(error, unforeseen, "an exception of an unknown kind");
  }
}

void need(bool given, const char* what) {
  if (!given) throw edgekit::Error(edgekit::Error::Kind::usage, std::string("edgekit: the ") + what + " is NULL");
}

edgekit::Options options_of(const edgekit_options* given) {
  edgekit::Options options;
  if (given == nullptr) return options;
  options.conf = given->conf;
  options.iou = given->iou;
  options.max_det = given->max_det;
  if (given->class_count > 0) {
    need(given->classes != nullptr, "list of classes");
    options.classes.assign(given->classes, given->classes + given->class_count);
  }
  options.agnostic = given->agnostic != 0;
  options.multi_label = given->multi_label != 0;
  options.clip = given->clip != 0;
  return options;
}

template <class Record>
const float* numbers(const std::vector<Record>& records) {
  return records.empty() ? nullptr : reinterpret_cast<const float*>(records.data());
}

}  // namespace

extern "C" {

void edgekit_default_options(edgekit_options* options) {
  const edgekit::Options defaults;
  *options = {defaults.conf, defaults.iou, defaults.max_det, nullptr, 0, 0, 0, 1};
}

void edgekit_default_settings(edgekit_settings* settings) { *settings = {nullptr, 0, 0, 1}; }

edgekit_model* edgekit_open(const char* folder, const edgekit_settings* given, edgekit_error* error) {
  edgekit_model* model = nullptr;
  guarded(error, [&] {
    need(folder != nullptr, "folder");
    edgekit::Settings settings;
    if (given != nullptr) {
      if (given->device != nullptr) settings.device = given->device;
      settings.threads = given->threads;
      settings.streams = given->streams;
      settings.verify = given->verify != 0;
    }
    model = new edgekit_model{edgekit::Model(folder, settings)};
  });
  return model;
}

void edgekit_model_free(edgekit_model* model) { delete model; }

const char* edgekit_model_task(const edgekit_model* model) { return model->model.info().task.c_str(); }

size_t edgekit_model_class_count(const edgekit_model* model) { return model->model.info().names.size(); }

const char* edgekit_model_class_name(const edgekit_model* model, size_t label) {
  const auto& names = model->model.info().names;
  return label < names.size() ? names[label].c_str() : nullptr;
}

int edgekit_model_verify(const edgekit_model* model, edgekit_verification* found, edgekit_error* error) {
  return guarded(error, [&] {
    need(model != nullptr, "model");
    need(found != nullptr, "verification");
    const edgekit::Verification said = model->model.verify();
    found->state = static_cast<int>(said.state);
    found->milliseconds = said.milliseconds;
    copy(said.message.c_str(), found->message);
  });
}

edgekit_session* edgekit_session_open(const edgekit_model* model, edgekit_error* error) {
  edgekit_session* session = nullptr;
  guarded(error, [&] {
    need(model != nullptr, "model");
    session = new edgekit_session{model->model.session()};
  });
  return session;
}

void edgekit_session_free(edgekit_session* session) { delete session; }

int edgekit_predict(edgekit_session* session, const edgekit_image* image, const edgekit_options* options,
                    edgekit_result* result, edgekit_error* error) {
  return guarded(error, [&] {
    need(session != nullptr, "session");
    need(image != nullptr, "image");
    need(result != nullptr, "result");
    const edgekit::Image view = {image->data, image->width, image->height, image->channels, image->stride};
    session->session.predict(view, options_of(options), result->result);
  });
}

edgekit_result* edgekit_result_new(void) { return new (std::nothrow) edgekit_result{}; }
void edgekit_result_free(edgekit_result* result) { delete result; }

size_t edgekit_result_count(const edgekit_result* result) { return result->result.labels.size(); }
const float* edgekit_result_boxes(const edgekit_result* result) { return numbers(result->result.boxes); }
const float* edgekit_result_rotated_boxes(const edgekit_result* result) {
  return numbers(result->result.rotated_boxes);
}
const float* edgekit_result_scores(const edgekit_result* result) { return numbers(result->result.scores); }
const int* edgekit_result_labels(const edgekit_result* result) {
  return result->result.labels.empty() ? nullptr : result->result.labels.data();
}

const float* edgekit_result_keypoints(const edgekit_result* result, size_t* points) {
  if (points != nullptr) *points = static_cast<size_t>(result->result.points);
  return numbers(result->result.keypoints);
}

int edgekit_result_truncated(const edgekit_result* result) {
  return (result->result.truncated_by_candidates ? 1 : 0) + (result->result.truncated_by_max_det ? 2 : 0);
}

size_t edgekit_result_class_count(const edgekit_result* result) { return result->result.probabilities.size(); }
const float* edgekit_result_probabilities(const edgekit_result* result) {
  return numbers(result->result.probabilities);
}

const uint8_t* edgekit_result_mask(const edgekit_result* result, size_t index, int* left, int* top, int* width,
                                   int* height) {
  if (index >= result->result.masks.size()) return nullptr;
  const edgekit::Mask& mask = result->result.masks[index];
  *left = mask.left;
  *top = mask.top;
  *width = mask.width;
  *height = mask.height;
  return mask.pixels.data();
}

}  // extern "C"
