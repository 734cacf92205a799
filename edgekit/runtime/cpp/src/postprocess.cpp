// From outputs to a Result by their roles alone: edgekit/runtime/postprocess.py step by step. Its rules: a score must
// be above `conf`; equal scores keep the order anchor, then class; candidates with a value that is not finite or beyond
// a million, or with a side that is not positive, are dropped, and so are boxes of which nothing lies inside the image.
#include "postprocess.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>
#include <string>

#include "masks.hpp"
#include "suppress.hpp"

namespace edgekit {
namespace {

constexpr std::size_t most_candidates = 30000;  // the best so many go into suppression
constexpr float absurd = 1e6F;
constexpr float same_box = 0.01F;  // pixels
constexpr long long an_object = 5;  // candidates that an object answers with, about
constexpr float nms_iou = 0.7F;     // of the suppression inside an nms head's graph

struct Candidate {
  std::size_t row;
  float score;
  int label;
};

// One image's part of an output.
struct Part {
  const float* data = nullptr;
  std::vector<std::size_t> sides;
  std::size_t width = 0;  // values a row
  const float* row(std::size_t i) const { return data + i * width; }
  explicit operator bool() const { return data != nullptr; }
};

class Roles {
 public:
  Roles(const std::vector<Tensor>& outputs, const Info& info, int place) : raw_(info.head == "raw") {
    for (const Tensor& tensor : outputs) {
      Part* part = named(tensor.role);
      if (part == nullptr) fail(tensor);
      if (*part)
        throw Error(Error::Kind::input, "the model has two outputs '" + tensor.role + "'; build the bundle again");
      if (tensor.data == nullptr)
        throw Error(Error::Kind::usage, "the output '" + tensor.role + "' is not on the host; copy it there first");
      if (tensor.shape.size() < 2 || tensor.shape.size() > 5 || place < 0 || tensor.shape[0] <= place) fail(tensor);
      part->width = 1;
      std::size_t all = 1;
      for (std::size_t i = 1; i < tensor.shape.size(); ++i) {
        if (tensor.shape[i] < 0 || tensor.shape[i] > (1 << 24)) fail(tensor);
        const auto side = static_cast<std::size_t>(tensor.shape[i]);
        if (side > 0 && all > most_values / side) fail(tensor);
        all *= side;
        part->sides.push_back(side);
        if (i > 1) part->width *= side;
      }
      part->data = tensor.data + static_cast<std::size_t>(place) * all;
    }
    if (!probabilities)
      agree();
    else if (probabilities.sides.size() != 1 || probabilities.sides[0] == 0)
      wrong("class_probabilities");
  }

  Part boxes, rotated_boxes, scores, labels, mask_coefficients, mask_prototypes, keypoints, probabilities;
  std::size_t candidates = 0, classes = 0;

  const Part& shapes() const { return rotated_boxes ? rotated_boxes : boxes; }

 private:
  static constexpr std::size_t most_values = 1U << 31U;

  Part* named(const std::string& role) {
    const std::pair<const char*, Part*> all[] = {
        {"boxes", &boxes},         {"rotated_boxes", &rotated_boxes},         {"scores", &scores},
        {"labels", &labels},       {"mask_coefficients", &mask_coefficients}, {"mask_prototypes", &mask_prototypes},
        {"keypoints", &keypoints}, {"class_probabilities", &probabilities}};
    for (const auto& [name, part] : all)
      if (role == name) return part;
    return nullptr;
  }

  [[noreturn]] static void fail(const Tensor& tensor) {
    std::ostringstream shape;
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) shape << (i > 0 ? ", " : "") << tensor.shape[i];
    throw Error(Error::Kind::input,
                "the model's output '" + tensor.role + "' has the shape [" + shape.str() + "]; build the bundle again");
  }

  [[noreturn]] static void wrong(const char* role) {
    throw Error(Error::Kind::input,
                std::string("the model's output '") + role + "' does not fit the others; build the bundle again");
  }

  // What belongs together has as many rows; nothing beyond these sizes is read afterwards.
  void agree() {
    const auto needs = [](const Part& part, const char* role) {
      if (!part)
        throw Error(Error::Kind::input, std::string("the model's outputs lack the role '") + role +
                                            "' that the others need; export it again");
    };
    needs(shapes(), "boxes");
    needs(scores, "scores");
    if (!raw_) needs(labels, "labels");
    if (mask_coefficients) needs(mask_prototypes, "mask_prototypes");
    candidates = shapes().sides[0];
    const auto sides = [](const Part& part, std::size_t count) { return part.sides.size() == count; };
    if (!sides(shapes(), 2) || shapes().sides[1] != (rotated_boxes ? 5U : 4U))
      wrong(rotated_boxes ? "rotated_boxes" : "boxes");
    if (boxes && (!sides(boxes, 2) || boxes.sides[0] != candidates || boxes.sides[1] != 4)) wrong("boxes");
    if (!sides(scores, raw_ ? 2 : 1) || scores.sides.back() != candidates || (raw_ && scores.sides[0] == 0))
      wrong("scores");
    classes = raw_ ? scores.sides[0] : 0;
    if (!raw_ && (!sides(labels, 1) || labels.sides[0] != candidates)) wrong("labels");
    if (keypoints && (!sides(keypoints, 3) || keypoints.sides[0] != candidates || keypoints.sides[2] != 3 ||
                      keypoints.sides[1] == 0))
      wrong("keypoints");
    if (!mask_coefficients) return;
    if (!sides(mask_coefficients, 2) || mask_coefficients.sides[0] != candidates || mask_coefficients.sides[1] == 0)
      wrong("mask_coefficients");
    if (!sides(mask_prototypes, 3) || mask_prototypes.sides[0] != mask_coefficients.sides[1] ||
        mask_prototypes.width == 0)
      wrong("mask_prototypes");
  }

  bool raw_;
};

// ---- candidates -----------------------------------------------------------------------------------------------------

bool sensible(const Part& part, std::size_t row) {
  if (!part) return true;
  const float* values = part.row(row);
  return std::all_of(values, values + part.width, [](float v) { return std::fabs(v) < absurd; });  // false for NaN
}

bool sound(const Roles& roles, std::size_t row) {
  const float* box = roles.shapes().row(row);
  const bool positive = roles.rotated_boxes ? box[2] > 0 && box[3] > 0 : box[2] > box[0] && box[3] > box[1];
  return positive && sensible(roles.shapes(), row) && sensible(roles.keypoints, row) &&
         sensible(roles.mask_coefficients, row);
}

std::vector<Candidate> pick_raw(const Roles& roles, const Options& options) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::size_t count = roles.candidates, classes = roles.classes;
  const float* scores = roles.scores.data;
  // One pass over contiguous memory leaves the few anchors that matter; what is no number is found among those.
  std::vector<float> best(count, 0.0F);
  for (std::size_t c = 0; c < classes; ++c) {
    const float* row = scores + c * count;
    for (std::size_t i = 0; i < count; ++i) best[i] = row[i] > best[i] ? row[i] : best[i];
  }
  const auto has_nan = [=](std::size_t i) {
    for (std::size_t c = 0; c < classes; ++c)
      if (std::isnan(scores[c * count + i])) return true;
    return false;
  };
  std::vector<Candidate> found;
  for (std::size_t i = 0; i < count; ++i) {
    if (!(best[i] > options.conf) || best[i] == infinity || has_nan(i) || !sound(roles, i)) continue;
    for (std::size_t c = 0; c < classes; ++c) {
      const float score = scores[c * count + i];
      if (options.multi_label ? score > options.conf : score == best[i]) {
        found.push_back({i, score, static_cast<int>(c)});
        if (!options.multi_label) break;
      }
    }
  }
  return found;
}

std::vector<Candidate> pick_decoded(const Roles& roles, const Options& options) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  std::vector<Candidate> found;
  for (std::size_t i = 0; i < roles.candidates; ++i) {
    const float score = roles.scores.data[i], label = roles.labels.data[i];
    if (!(score > options.conf) || score == infinity || !(std::fabs(label) < absurd) || !sound(roles, i)) continue;
    found.push_back({i, score, static_cast<int>(label)});
  }
  return found;
}

// Keeps those of which no earlier one has the same box. Same boxes are neighbours by their first side, so only those few
// are compared, not all with all.
void first_of_each_box(const Roles& roles, std::vector<Candidate>& found) {
  const Part& shapes = roles.shapes();
  const auto side = [&](std::size_t i, std::size_t v) { return shapes.row(found[i].row)[v]; };
  std::vector<std::size_t> order(found.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return side(a, 0) < side(b, 0); });
  std::vector<char> again(found.size(), 0);
  for (std::size_t i = 0; i < order.size(); ++i)
    for (std::size_t k = i + 1; k < order.size() && side(order[k], 0) - side(order[i], 0) < same_box; ++k) {
      bool same = true;
      for (std::size_t v = 1; v < shapes.width && same; ++v)
        same = std::fabs(side(order[k], v) - side(order[i], v)) < same_box;
      if (same) again[std::max(order[i], order[k])] = 1;
    }
  std::size_t kept = 0;
  for (std::size_t i = 0; i < found.size(); ++i)
    if (again[i] == 0) found[kept++] = found[i];
  found.resize(kept);
}

// Whether the head keeps fewer candidates than the network has, so that a crowded image may lose objects.
bool cuts(const Info& info) {
  if (info.head == "raw") return false;
  long long all = 0;
  for (const int stride : {8, 16, 32}) all += static_cast<long long>(info.height / stride) * (info.width / stride);
  if (info.head == "topk") all *= static_cast<long long>(info.names.size());
  return info.candidates == 0 || info.candidates < all;
}

// Candidates below the confidence end the list of a head that cuts; of finished detections those of no object do.
bool all_above(const Roles& roles, const Options& options) {
  const float* scores = roles.scores.data;
  const auto above = [&options](float v) { return v > options.conf && v < std::numeric_limits<float>::infinity(); };
  return roles.candidates > 0 && std::all_of(scores, scores + roles.candidates, above);
}

// Best first; `cut`: whether there may be more of them.
std::vector<Candidate> candidates(const Roles& roles, const Info& info, const Options& options, bool& cut) {
  auto found = info.head == "raw" ? pick_raw(roles, options) : pick_decoded(roles, options);
  const int classes = static_cast<int>(info.names.size());
  const auto unwanted = [&](const Candidate& c) {
    const auto& wanted = options.classes;
    return c.label < 0 || c.label >= classes ||
           (!wanted.empty() && std::find(wanted.begin(), wanted.end(), c.label) == wanted.end());
  };
  found.erase(std::remove_if(found.begin(), found.end(), unwanted), found.end());
  cut = found.size() > most_candidates || (cuts(info) && all_above(roles, options));
  // Sorting by score, then place, is stable, and so is the cut.
  std::vector<std::size_t> order(found.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto better = [&found](std::size_t a, std::size_t b) {
    return found[a].score > found[b].score || (found[a].score == found[b].score && a < b);
  };
  const std::size_t most = std::min(order.size(), most_candidates);
  const auto last = order.begin() + static_cast<std::ptrdiff_t>(most);
  if (last != order.end()) std::nth_element(order.begin(), last, order.end(), better);
  std::sort(order.begin(), last, better);
  std::vector<Candidate> sorted;
  sorted.reserve(most);
  for (std::size_t i = 0; i < most; ++i) sorted.push_back(found[order[i]]);
  if (info.head == "topk" && !options.multi_label) first_of_each_box(roles, sorted);
  return sorted;
}

// ---- back to the image ----------------------------------------------------------------------------------------------

float to_image(float v, double offset, double scale) { return static_cast<float>((v - offset) / scale); }

Box to_image(const Box& box, const Geometry& g) {
  return {to_image(box.x1, g.left, g.scale_x), to_image(box.y1, g.top, g.scale_y), to_image(box.x2, g.left, g.scale_x),
          to_image(box.y2, g.top, g.scale_y)};
}

// Each side follows its own direction, exact where both scales are equal.
RotatedBox to_image(const RotatedBox& box, const Geometry& g) {
  const double cos = std::cos(static_cast<double>(box.angle)), sin = std::sin(static_cast<double>(box.angle));
  const double x = 1 / g.scale_x, y = 1 / g.scale_y;
  return {to_image(box.x, g.left, g.scale_x), to_image(box.y, g.top, g.scale_y),
          static_cast<float>(box.width * std::hypot(cos * x, sin * y)),
          static_cast<float>(box.height * std::hypot(sin * x, cos * y)),
          static_cast<float>(std::atan2(sin * y, cos * x))};
}

Box clipped(const Box& box, const Geometry& g) {
  const auto w = static_cast<float>(g.width), h = static_cast<float>(g.height);
  return {std::clamp(box.x1, 0.0F, w), std::clamp(box.y1, 0.0F, h), std::clamp(box.x2, 0.0F, w),
          std::clamp(box.y2, 0.0F, h)};
}

template <class Shape>
std::vector<Shape> shapes_of(const Roles& roles, const std::vector<Candidate>& found) {
  std::vector<Shape> shapes;
  shapes.reserve(found.size());
  for (const Candidate& c : found) {
    const float* v = roles.shapes().row(c.row);
    if constexpr (std::is_same_v<Shape, Box>)
      shapes.push_back({v[0], v[1], v[2], v[3]});
    else
      shapes.push_back({v[0], v[1], v[2], v[3], v[4]});
  }
  return shapes;
}

template <class Shape>
std::vector<std::size_t> survivors(const std::vector<Shape>& shapes, const std::vector<Candidate>& found,
                                   const Info& info, const Options& options, Result& result) {
  std::vector<std::size_t> kept;
  if (info.head == "nms") {
    kept.resize(found.size());
    std::iota(kept.begin(), kept.end(), std::size_t{0});
  } else {
    std::vector<int> labels;
    for (const Candidate& c : found) labels.push_back(c.label);
    const std::size_t one_more = static_cast<std::size_t>(options.max_det) + 1;  // shows that there are more
    kept = suppress(shapes, options.agnostic ? nullptr : &labels, options.iou, one_more);
  }
  const auto limit = static_cast<std::size_t>(options.max_det);
  result.truncated_by_max_det = kept.size() > limit;
  kept.resize(std::min(kept.size(), limit));
  return kept;
}

void add_keypoints(const Part& part, std::size_t row, const Geometry& g, Result& result) {
  const float* v = part.row(row);
  for (int p = 0; p < result.points; ++p, v += 3)
    result.keypoints.push_back({to_image(v[0], g.left, g.scale_x), to_image(v[1], g.top, g.scale_y), v[2]});
}

void add(const Roles& roles, const Candidate& c, const Box* visible, const Info& info, const Geometry& g,
         Result& result) {
  result.scores.push_back(c.score);
  result.labels.push_back(c.label);
  if (roles.keypoints) add_keypoints(roles.keypoints, c.row, g, result);
  if (roles.mask_coefficients && visible != nullptr) {
    const auto& sides = roles.mask_prototypes.sides;
    const Prototypes prototypes = {roles.mask_prototypes.data, static_cast<int>(sides[0]), static_cast<int>(sides[1]),
                                   static_cast<int>(sides[2])};
    result.masks.push_back(assemble_mask(roles.mask_coefficients.row(c.row), prototypes, *visible, info, g));
  }
}

void clear(Result& result, const Geometry& geometry) {
  result.height = geometry.height;
  result.width = geometry.width;
  result.points = 0;
  result.boxes.clear();
  result.rotated_boxes.clear();
  result.scores.clear();
  result.labels.clear();
  result.keypoints.clear();
  result.masks.clear();
  result.probabilities.clear();
  result.truncated_by_candidates = result.truncated_by_max_det = false;
}

std::string shown(float value) {
  std::ostringstream out;
  out << value;
  return out.str();
}

std::string rebuild(long long candidates) {
  return "build it with more: edgekit build MODEL --target T --candidates " + std::to_string(candidates) + " --out DIR";
}

}  // namespace

void check_options(const Options& options, const Info& info) {
  const auto fail = [](const std::string& sentence) { throw Error(Error::Kind::usage, sentence); };
  if (!(options.conf >= 0 && options.conf <= 1))
    fail("`conf` " + shown(options.conf) + ": must be a number between 0 and 1");
  if (!(options.iou >= 0 && options.iou <= 1))
    fail("`iou` " + shown(options.iou) + ": must be a number between 0 and 1");
  if (options.max_det < 1)
    fail("`max_det` " + std::to_string(options.max_det) + ": must be a whole number of at least 1");
  for (const int label : options.classes) {
    if (label < 0) fail("`classes` " + std::to_string(label) + ": must be a whole number of at least 0");
    if (label >= static_cast<int>(info.names.size()))
      fail("`classes` " + std::to_string(label) + ": the model has the classes 0 to " +
           std::to_string(info.names.size() - 1));
  }
  if (info.candidates > 0 && cuts(info) && options.max_det > info.candidates && options.max_det != Options().max_det)
    fail("`max_det` " + std::to_string(options.max_det) + ": the model's head keeps " +
         std::to_string(info.candidates) + " candidates an image, which is the most objects it can give; " +
         rebuild(an_object * options.max_det));
  if (info.head == "nms" && (options.agnostic || std::fabs(options.iou - nms_iou) > 1e-6F))
    fail((options.agnostic ? std::string("`agnostic`") : "`iou` " + shown(options.iou)) +
         ": the model's graph has suppressed duplicates already, as it was made to; build it with `head` topk, or "
         "export it without nms, to choose");
}

std::vector<std::string> truncation(const Result& result, const Info& info, const Options& options) {
  std::vector<std::string> sentences;
  if (result.truncated_by_candidates && info.head == "raw") {
    sentences.push_back("the " + std::to_string(most_candidates) + " best candidates alone were looked at; raise `conf` " +
                        shown(options.conf));
  } else if (result.truncated_by_candidates) {
    const bool said = info.candidates > 0;
    sentences.push_back("all " + (said ? std::to_string(info.candidates) + " " : "") +
                        "candidates that the model's head keeps lie above `conf` " + shown(options.conf) +
                        ", so there may be more objects; raise `conf`, or " +
                        (said ? rebuild(4LL * info.candidates) : "build it with more `candidates`"));
  }
  if (result.truncated_by_max_det)
    sentences.push_back("more objects were found than `max_det` " + std::to_string(options.max_det) +
                        ", which keeps the best; give more to see all");
  return sentences;
}

void postprocess_into(const std::vector<Tensor>& outputs, const Info& info, const Geometry& geometry,
                      const Options& options, int place, Result& result) {
  check_options(options, info);
  if (geometry.width < 1 || geometry.height < 1 || !(geometry.scale_x > 0) || !(geometry.scale_y > 0) ||
      info.width < 1 || info.height < 1)
    throw Error(Error::Kind::input, "postprocess: the geometry is that of no image");
  clear(result, geometry);
  const Roles roles(outputs, info, place);
  if (roles.probabilities) {
    const float* from = roles.probabilities.data;
    result.probabilities.assign(from, from + roles.probabilities.sides[0]);
    return;
  }
  if (roles.keypoints) result.points = static_cast<int>(roles.keypoints.sides[1]);
  const auto found = candidates(roles, info, options, result.truncated_by_candidates);
  if (roles.rotated_boxes) {
    const auto shapes = shapes_of<RotatedBox>(roles, found);
    for (const std::size_t i : survivors(shapes, found, info, options, result)) {
      result.rotated_boxes.push_back(regularise(to_image(shapes[i], geometry)));
      add(roles, found[i], nullptr, info, geometry, result);
    }
    return;
  }
  const auto shapes = shapes_of<Box>(roles, found);
  for (const std::size_t i : survivors(shapes, found, info, options, result)) {
    const Box whole = to_image(shapes[i], geometry), visible = clipped(whole, geometry);
    if (!(visible.x1 < visible.x2 && visible.y1 < visible.y2)) continue;
    result.boxes.push_back(options.clip ? visible : whole);
    add(roles, found[i], &visible, info, geometry, result);
  }
}

Result postprocess(const std::vector<Tensor>& outputs, const Info& info, const Geometry& geometry,
                   const Options& options, int place) {
  Result result;
  postprocess_into(outputs, info, geometry, options, place, result);
  return result;
}

}  // namespace edgekit
