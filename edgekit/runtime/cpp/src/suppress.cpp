#include "suppress.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace edgekit {
namespace {

constexpr double pi = 3.14159265358979323846;

// The boxes that stay, a column a coordinate: compilers turn the loop over them into vector instructions.
class Kept {
 public:
  bool overlaps(const Box& box, float area, int label, float iou) const {
    constexpr std::size_t block = 64;  // looked at without a branch
    for (std::size_t from = 0; from < area_.size(); from += block) {
      const std::size_t to = std::min(from + block, area_.size());
      int found = 0;
      for (std::size_t k = from; k < to; ++k) {
        const float width = std::max(std::min(x2_[k], box.x2) - std::max(x1_[k], box.x1), 0.0F);
        const float height = std::max(std::min(y2_[k], box.y2) - std::max(y1_[k], box.y1), 0.0F);
        const float intersection = width * height;
        found |= static_cast<int>(intersection > iou * (area_[k] + area - intersection)) &
                 static_cast<int>(label_[k] == label);
      }
      if (found != 0) return true;
    }
    return false;
  }

  void add(const Box& box, float area, int label) {
    x1_.push_back(box.x1);
    y1_.push_back(box.y1);
    x2_.push_back(box.x2);
    y2_.push_back(box.y2);
    area_.push_back(area);
    label_.push_back(label);
  }

 private:
  std::vector<float> x1_, y1_, x2_, y2_, area_;
  std::vector<int> label_;
};

// The Gaussian a rotated box stands for: centre, covariance and its determinant.
struct Gaussian {
  double x, y, xx, yy, xy, determinant;
};

Gaussian gaussian(const RotatedBox& box) {
  const double w = box.width, h = box.height, angle = box.angle;
  const double along = w * w / 12, across = h * h / 12, cos = std::cos(angle), sin = std::sin(angle);
  return {box.x,
          box.y,
          along * cos * cos + across * sin * sin,
          along * sin * sin + across * cos * cos,
          (along - across) * cos * sin,
          along * across};
}

// Whether the Bhattacharyya distance (equations 2 to 5 of arXiv 2106.06072) is below `nearer`.
bool near(const Gaussian& a, const Gaussian& b, double nearer) {
  const double p = a.xx + b.xx, q = a.yy + b.yy, r = a.xy + b.xy, dx = a.x - b.x, dy = a.y - b.y;
  const double determinant = p * q - r * r;
  const double separation = (p * dy * dy + q * dx * dx - 2 * r * dx * dy) / (4 * determinant);
  if (separation >= nearer) return false;  // the logarithm below is not negative: most pairs need none
  return separation + 0.5 * std::log(determinant / (4 * std::sqrt(a.determinant * b.determinant))) < nearer;
}

}  // namespace

std::vector<std::size_t> suppress(const std::vector<Box>& boxes, const std::vector<int>* labels, float iou,
                                  std::size_t limit) {
  std::vector<std::size_t> places;
  Kept kept;
  for (std::size_t i = 0; i < boxes.size() && places.size() < limit; ++i) {
    const Box& box = boxes[i];
    const float area = (box.x2 - box.x1) * (box.y2 - box.y1);
    const int label = labels == nullptr ? 0 : (*labels)[i];
    if (kept.overlaps(box, area, label, iou)) continue;
    kept.add(box, area, label);
    places.push_back(i);
  }
  return places;
}

std::vector<std::size_t> suppress(const std::vector<RotatedBox>& boxes, const std::vector<int>* labels, float iou,
                                  std::size_t limit) {
  // 1 - sqrt(1 - exp(-d)) > iou, solved for the distance d
  const double nearer = iou > 0 ? -std::log1p(-(1.0 - iou) * (1.0 - iou)) : std::numeric_limits<double>::infinity();
  std::vector<Gaussian> gaussians;
  gaussians.reserve(boxes.size());
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < boxes.size() && kept.size() < limit; ++i) {
    gaussians.push_back(gaussian(boxes[i]));
    bool alone = true;
    for (std::size_t k = 0; k < i && alone; ++k)
      alone = !((labels == nullptr || (*labels)[k] == (*labels)[i]) && near(gaussians[k], gaussians[i], nearer));
    if (alone) kept.push_back(i);
  }
  return kept;
}

RotatedBox regularise(const RotatedBox& box) {
  constexpr float most = 1.5707962F;  // the largest float below pi/2
  const bool tall = box.height > box.width;
  double angle = std::fmod(static_cast<double>(box.angle) + (tall ? pi / 2 : 0.0) + pi / 2, pi);
  if (angle < 0) angle += pi;
  return {box.x, box.y, std::max(box.width, box.height), std::min(box.width, box.height),
          std::clamp(static_cast<float>(angle - pi / 2), -most, most)};
}

}  // namespace edgekit
