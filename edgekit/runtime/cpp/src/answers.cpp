// What a bundle answered in its self-test, judged as edgekit/verify/selftest.py judges it, step by step and in its order.
#include "answers.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

namespace edgekit::detail {
namespace {

constexpr std::size_t kept = 36, judged = 18, samples = 512;
constexpr double seen = 0.25, per_score = 100.0, reach = 16.0, nms_iou = 0.7, border = 0.3, alike = 1.0;
constexpr double pi = 3.14159265358979323846, golden = 0.6180339887498949;
constexpr double infinite = std::numeric_limits<double>::infinity();

// ---- answers --------------------------------------------------------------------------------------------------------

std::size_t size_of_one(const Tensor& tensor) {
  std::size_t size = 1;
  for (std::size_t i = 1; i < tensor.shape.size(); ++i) size *= static_cast<std::size_t>(tensor.shape[i]);
  return size;
}

std::vector<double> sampled(const float* values, std::size_t size) {
  std::vector<double> found;
  if (size <= samples) {
    found.assign(values, values + size);
    return found;
  }
  for (std::size_t i = 1; i <= samples; ++i)
    found.push_back(values[static_cast<std::size_t>(std::fmod(static_cast<double>(i) * golden, 1.0) *
                                                    static_cast<double>(size))]);
  return found;
}

// Columns [from, to) of every `width` numbers.
Rows columns(const Rows& rows, std::size_t group, std::size_t from, std::size_t to) {
  Rows found{rows.width / group * (to - from), {}};
  for (std::size_t i = 0; i < rows.values.size(); i += group)
    for (std::size_t k = from; k < to; ++k) found.values.push_back(rows.values[i + k]);
  return found;
}

void make_finite(std::vector<double>& values) {
  for (double& value : values) value = std::isnan(value) ? huge_gap : std::clamp(value, -huge_gap, huge_gap);
}

// ---- judging --------------------------------------------------------------------------------------------------------

const Rows& places_of(const Answers& answers) {
  const auto rotated = answers.rows.find("rotated_boxes");
  return rotated != answers.rows.end() ? rotated->second : answers.rows.at("boxes");
}

using Pairs = std::vector<std::pair<std::size_t, std::size_t>>;  // rows that are one candidate: wanted, found

// Pixels, a difference in score weighed, between two candidates; infinite where labels differ or boxes are further apart
// than `most`.
double apart(const Answers& want, std::size_t i, const Answers& have, std::size_t k, double most = infinite) {
  const Rows &ours = places_of(want), &theirs = places_of(have);
  if (want.labels[i] != have.labels[k]) return infinite;
  double gap = 0;
  for (std::size_t c = 0; c < ours.width; ++c)
    gap = std::max(gap, std::abs(ours.values[i * ours.width + c] - theirs.values[k * theirs.width + c]));
  return gap > most ? infinite : gap + per_score * std::abs(want.scores[i] - have.scores[k]);
}

Pairs paired(const Answers& want, const Answers& have, double most) {
  std::vector<std::size_t> order(want.scores.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return want.scores[a] > want.scores[b]; });
  std::vector<bool> taken(have.scores.size(), false);
  Pairs found;
  for (const std::size_t i : order) {
    double least = infinite;
    std::size_t partner = taken.size();
    for (std::size_t k = 0; k < taken.size(); ++k) {
      const double gap = taken[k] ? infinite : apart(want, i, have, k, most);
      if (gap < least) {
        least = gap;
        partner = k;
      }
    }
    if (partner == taken.size()) continue;
    taken[partner] = true;
    found.emplace_back(i, partner);
  }
  return found;
}

double overlap(const double* a, const double* b) {
  const double width = std::min(a[2], b[2]) - std::max(a[0], b[0]), height = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  const double shared = std::max(width, 0.0) * std::max(height, 0.0);
  const double all = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared;
  return all > 0 ? shared / all : 0;
}

// Whether it overlaps one of `other` by about as much as suppression allows.
bool borderline(const Answers& one, std::size_t row, const Answers& other) {
  double most = 0;
  for (std::size_t k = 0; k < other.labels.size(); ++k)
    if (other.labels[k] == one.labels[row])
      most = std::max(most, overlap(&one.rows.at("boxes").values[4 * row], &other.rows.at("boxes").values[4 * k]));
  return std::abs(most - nms_iou) <= border;
}

// Of the best of `one` without a partner: by how much each is above what the other side kept at all.
void lonely(const Answers& one, const std::vector<bool>& partnered, const Answers& other, bool finished,
            std::vector<double>& gaps) {
  double floor = 0;
  if (other.scores.size() >= kept) floor = *std::min_element(other.scores.begin(), other.scores.end());
  for (std::size_t i = 0; i < std::min(judged, one.scores.size()); ++i)
    if (!partnered[i] && !(finished && borderline(one, i, other)))
      gaps.push_back(std::max(one.scores[i] - floor, 0.0));
}

// Of the candidates of `have` that place and score cannot tell from k, the one whose own values are nearest to those of
// i: neighbouring cells find the same object, and need not say the same of it.
std::size_t cell_of(const Answers& want, std::size_t i, const Answers& have, std::size_t k) {
  for (const char* role : {"mask_coefficients", "keypoints", "angles"}) {
    const auto own = want.rows.find(role);
    if (own == want.rows.end()) continue;
    const std::size_t width = own->second.width;
    const double limit = apart(want, i, have, k) + alike;
    double least = infinite;
    std::size_t chosen = k;
    for (std::size_t other = 0; other < have.scores.size(); ++other) {
      if (apart(want, i, have, other) > limit) continue;
      double sum = 0;
      for (std::size_t c = 0; c < width; ++c)
        sum += std::abs(own->second.values[i * width + c] - have.rows.at(role).values[other * width + c]);
      if (sum < least) {
        least = sum;
        chosen = other;
      }
    }
    return chosen;
  }
  return k;
}

void compare_pairs(const Answers& want, const Answers& have, const Pairs& pairs, const std::string& precision, double side,
                   Gaps& gaps) {
  double best = 0;
  for (const double score : want.scores) best = std::max(best, score);
  const double least = precision == "f32" ? 0 : seen * best;
  for (const auto& [i, k] : pairs) {
    if (i >= judged) continue;
    gaps["scores"].push_back(std::abs(want.scores[i] - have.scores[k]));
    const std::size_t cell = precision == "f32" ? k : cell_of(want, i, have, k);
    for (const auto& [role, rows] : want.rows) {
      std::vector<double>& mine = gaps[role];
      if (want.scores[i] < least) continue;
      const bool box = role == "boxes" || role == "rotated_boxes", place = box || role == "keypoints";
      for (std::size_t c = 0; c < rows.width; ++c) {
        const double expected = rows.values[i * rows.width + c];
        double gap = std::abs(expected - have.rows.at(role).values[(box ? k : cell) * rows.width + c]);
        if (role == "angles") gap = std::min(std::fmod(gap, pi), pi - std::fmod(gap, pi));
        if (place) gap /= std::max(1.0, std::abs(expected) / side);
        mine.push_back(gap);
      }
    }
  }
}

std::map<std::string, double> spread(std::vector<double> gaps) {
  if (gaps.empty()) return {{"rms", 0}, {"p99", 0}, {"max", 0}};
  double sum = 0;
  for (double& gap : gaps) {
    gap = std::isfinite(gap) ? std::min(gap, huge_gap) : huge_gap;
    sum += gap * gap;
  }
  std::sort(gaps.begin(), gaps.end());
  const std::size_t count = gaps.size();
  return {{"rms", std::sqrt(sum / static_cast<double>(count))},
          {"p99", gaps[count - 1 - count / 100]},
          {"max", gaps.back()}};
}

}  // namespace

Answers answers_of(const std::vector<Tensor>& outputs, const std::string& head, std::size_t place) {
  Answers found;
  std::map<std::string, const float*> one;
  std::map<std::string, std::size_t> sizes;
  const Tensor* scores = nullptr;
  for (const Tensor& tensor : outputs) {
    sizes[tensor.role] = size_of_one(tensor);
    one[tensor.role] = tensor.data + place * sizes[tensor.role];
    if (tensor.role == "scores") scores = &tensor;
  }
  for (const auto& [role, data] : one) {
    if (role == "class_probabilities") found.all[role].assign(data, data + sizes[role]);
    if (role == "mask_prototypes") found.all[role] = sampled(data, sizes[role]);
  }
  if (scores == nullptr) return found;
  const bool raw = head == "raw";
  const std::size_t classes = raw ? static_cast<std::size_t>(scores->shape[1]) : 1;
  const std::size_t anchors = sizes["scores"] / std::max<std::size_t>(classes, 1);
  std::vector<std::size_t> best(sizes["scores"]);
  for (std::size_t i = 0; i < best.size(); ++i) best[i] = i;
  const float* values = one["scores"];
  const auto score = [&](std::size_t i) { return static_cast<double>(values[i % classes * anchors + i / classes]); };
  const auto key = [&](std::size_t i) { return std::isnan(score(i)) ? -infinite : score(i); };
  const std::size_t count = std::min(kept, best.size());
  std::partial_sort(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(count), best.end(),
                    [&](std::size_t a, std::size_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; });
  best.resize(count);
  for (const std::size_t i : best) {
    found.scores.push_back(score(i));
    found.labels.push_back(static_cast<std::int64_t>(raw ? static_cast<double>(i % classes) : one["labels"][i]));
  }
  for (const char* role : {"boxes", "rotated_boxes", "keypoints", "mask_coefficients"}) {
    if (one.count(role) == 0 || anchors == 0) continue;
    const std::size_t width = sizes[role] / anchors;
    Rows& rows = found.rows[role];
    rows.width = width;
    for (const std::size_t i : best)
      rows.values.insert(rows.values.end(), one[role] + i / classes * width, one[role] + (i / classes + 1) * width);
  }
  if (found.rows.count("rotated_boxes") > 0) {
    const Rows whole = found.rows["rotated_boxes"];
    found.rows["angles"] = columns(whole, 5, 4, 5);
    found.rows["rotated_boxes"] = columns(whole, 5, 0, 4);
  }
  if (found.rows.count("keypoints") > 0) {
    const Rows whole = found.rows["keypoints"];
    found.rows["visibility"] = columns(whole, 3, 2, 3);
    found.rows["keypoints"] = columns(whole, 3, 0, 2);
  }
  make_finite(found.scores);
  for (auto& each : found.rows) make_finite(each.second.values);
  return found;
}

void compare(const Answers& want, const Answers& have, const Info& info, const std::string& precision, Gaps& gaps) {
  for (const auto& [role, values] : want.all) {
    const auto found = have.all.find(role);
    const bool same = found != have.all.end() && found->second.size() == values.size();
    for (std::size_t i = 0; i < values.size(); ++i)
      gaps[role].push_back(same ? std::abs(values[i] - found->second[i]) : infinite);
  }
  if (want.scores.empty() && have.scores.empty()) return;
  Pairs pairs = paired(want, have, reach);
  const auto near = std::count_if(pairs.begin(), pairs.end(), [](const auto& pair) { return pair.first < judged; });
  if (2 * static_cast<std::size_t>(near) < std::min(judged, want.scores.size())) pairs = paired(want, have, infinite);
  std::vector<bool> ours(want.scores.size(), false), theirs(have.scores.size(), false);
  for (const auto& [i, k] : pairs) ours[i] = theirs[k] = true;
  compare_pairs(want, have, pairs, precision, std::max(info.height, info.width), gaps);
  lonely(want, ours, have, info.head == "nms", gaps["scores"]);
  lonely(have, theirs, want, info.head == "nms", gaps["scores"]);
}

std::string worst(const Gaps& gaps, const Bounds& bounds, std::string& sentence) {
  std::string role;
  double most = 1;
  for (const auto& [name, values] : gaps) {
    const auto found = spread(values);
    const auto allowed = bounds.find(name);
    if (allowed == bounds.end()) throw Invalid("no bounds for " + name);
    for (const auto& [key, bound] : allowed->second) {
      const double value = found.at(key), excess = value >= huge_gap ? infinite : value / bound;
      if (!(excess > most)) continue;
      most = excess;
      role = name;
      std::ostringstream said;
      said.precision(3);
      said << name << " differ by " << value << (key == "rms" ? " in the root mean square, " : " at most, ") << bound
           << " is allowed";
      sentence = said.str();
    }
  }
  return role;
}

}  // namespace edgekit::detail
