#include "masks.hpp"

#include <algorithm>
#include <cmath>

namespace edgekit {
namespace {

// Prototype pixels that bilinear reads between two positions need: [begin, end), never empty.
struct Span {
  int begin, end;
};

Span span(double first, double last, int size) {
  const int begin = static_cast<int>(std::min(std::max(std::floor(first), 0.0), size - 1.0));
  const int end = static_cast<int>(std::min(std::floor(last) + 2, static_cast<double>(size)));
  return {begin, std::max(end, begin + 1)};
}

// Where pixel i of a line reads: place, next place and the weight of the next.
struct Step {
  int at, next;
  float part;
};

std::vector<Step> steps(double start, double scale, int count, const Span& inside) {
  std::vector<Step> made;
  made.reserve(static_cast<std::size_t>(count));
  const int last = inside.end - inside.begin - 1;
  for (int i = 0; i < count; ++i) {
    const double position = start - inside.begin + i * scale, whole = std::floor(position);
    const int at = static_cast<int>(whole);
    made.push_back({std::clamp(at, 0, last), std::clamp(at + 1, 0, last), static_cast<float>(position - whole)});
  }
  return made;
}

}  // namespace

Mask assemble_mask(const float* coefficients, const Prototypes& prototypes, const Box& box, const Info& info,
                   const Geometry& geometry) {
  const double fx = static_cast<double>(prototypes.width) / info.width;
  const double fy = static_cast<double>(prototypes.height) / info.height;
  const double scale_x = geometry.scale_x * fx, scale_y = geometry.scale_y * fy;
  const auto first = [](float edge) { return static_cast<int>(std::ceil(static_cast<double>(edge) - 0.5)); };
  Mask mask;  // of the pixels whose centre is in the box
  mask.left = first(box.x1);
  mask.top = first(box.y1);
  mask.width = std::max(first(box.x2) - mask.left, 0);
  mask.height = std::max(first(box.y2) - mask.top, 0);
  if (mask.width == 0 || mask.height == 0) return mask;
  const double start_x = (mask.left + 0.5) * scale_x + geometry.left * fx - 0.5;
  const double start_y = (mask.top + 0.5) * scale_y + geometry.top * fy - 0.5;
  const Span across = span(start_x, start_x + (mask.width - 1) * scale_x, prototypes.width);
  const Span down = span(start_y, start_y + (mask.height - 1) * scale_y, prototypes.height);

  const auto width = static_cast<std::size_t>(across.end - across.begin);
  const auto height = static_cast<std::size_t>(down.end - down.begin);
  const auto plane = static_cast<std::size_t>(prototypes.width) * static_cast<std::size_t>(prototypes.height);
  std::vector<float> logits(width * height, 0.0F);
  for (std::size_t m = 0; m < static_cast<std::size_t>(prototypes.count); ++m)
    for (std::size_t y = 0; y < height; ++y) {
      const float* row = prototypes.data + m * plane +
                         (static_cast<std::size_t>(down.begin) + y) * static_cast<std::size_t>(prototypes.width) +
                         static_cast<std::size_t>(across.begin);
      float* out = logits.data() + y * width;
      for (std::size_t x = 0; x < width; ++x) out[x] += coefficients[m] * row[x];
    }

  const auto columns = steps(start_x, scale_x, mask.width, across), rows = steps(start_y, scale_y, mask.height, down);
  mask.pixels.resize(static_cast<std::size_t>(mask.width) * static_cast<std::size_t>(mask.height));
  std::vector<float> line(width);
  std::uint8_t* pixel = mask.pixels.data();
  for (const Step& row : rows) {
    const float* above = logits.data() + static_cast<std::size_t>(row.at) * width;
    const float* below = logits.data() + static_cast<std::size_t>(row.next) * width;
    for (std::size_t x = 0; x < width; ++x) line[x] = above[x] + row.part * (below[x] - above[x]);
    for (const Step& column : columns) {
      const float a = line[static_cast<std::size_t>(column.at)], b = line[static_cast<std::size_t>(column.next)];
      *pixel++ = a + column.part * (b - a) > 0 ? 1 : 0;  // false for NaN
    }
  }
  return mask;
}

}  // namespace edgekit
