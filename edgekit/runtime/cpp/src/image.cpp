// From 8-bit pixels to the network's input: letterbox and centre crop, as edgekit/runtime/image.py does them.
//
// Resizing follows cv2's INTER_LINEAR for 8-bit images to the last bit: weights are rounded to 11 bits, a horizontal
// sum keeps 15 of its bits, and the vertical sum is rounded to 8. tests/test_cpp.py compares pixel by pixel with cv2.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "edgekit/edgekit.hpp"

namespace edgekit {
namespace {

constexpr int smallest = 2;      // pixels a side
constexpr double longest = 1e8;  // of a side brought to scale: beyond it a strip, not a picture

// Offsets inside a source pixel of what becomes red, green and blue.
std::array<int, 3> planes_of(int channels) {
  return channels == 1 ? std::array<int, 3>{0, 0, 0} : std::array<int, 3>{2, 1, 0};
}

// The two forms of an input. Values of a row are `step` apart and lie in `runs` runs: run(y, x, 0...) is where one goes
// on from column x. at(y, x, c) is a value's place, c being 0 for red, 1 for green, 2 for blue.
struct Planes {  // float32 [3, height, width], RGB, scaled
  using Value = float;
  static constexpr std::size_t step = 1;
  static constexpr int runs = 3;
  float* data;
  int height, width;
  float scale;
  static std::size_t first(std::size_t c, std::size_t count) { return c * count; }  // of color c in a row of its own
  float* at(int y, int x, int c) const {
    return data + (static_cast<std::ptrdiff_t>(c) * height + y) * width + x;
  }
  float* run(int y, int x, int c) const { return at(y, x, c); }
  template <class Number>
  float value(Number grey) const {
    return static_cast<float>(grey) * scale;
  }
};

struct Pixels {  // uint8 [height, width, 3], BGR
  using Value = std::uint8_t;
  static constexpr std::size_t step = 3;
  static constexpr int runs = 1;
  std::uint8_t* data;
  int width;
  static std::size_t first(std::size_t c, std::size_t) { return 2 - c; }
  std::uint8_t* at(int y, int x, int c) const { return run(y, x, 0) + 2 - c; }
  std::uint8_t* run(int y, int x, int) const { return data + 3 * (static_cast<std::ptrdiff_t>(y) * width + x); }
  template <class Number>
  std::uint8_t value(Number grey) const {
    return static_cast<std::uint8_t>(grey);
  }
};

Image checked(Image image) {
  const auto fail = [](const std::string& what) { throw Error(Error::Kind::input, "image: " + what); };
  const std::string shape = "(" + std::to_string(image.height) + ", " + std::to_string(image.width) + ", " +
                            std::to_string(image.channels) + ")";
  if (image.channels != 1 && image.channels != 3 && image.channels != 4)
    fail("shape " + shape + " is no image; give [H, W], [H, W, 3] BGR or [H, W, 4] BGRA");
  if (image.width < smallest || image.height < smallest)
    fail(std::to_string(image.width) + " x " + std::to_string(image.height) +
         " pixels is too small; an image has at least 2 pixels a side");
  if (image.data == nullptr) fail("there are no pixels behind it");
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(image.width) * image.channels;
  if (image.stride == 0) image.stride = row;
  if (image.stride < row) fail("rows of shape " + shape + " do not fit a stride of " + std::to_string(image.stride));
  return image;
}

// ---- letterbox ------------------------------------------------------------------------------------------------------

constexpr float one = 2048;  // weights have 11 bits

// Where each target pixel reads, and the weights of that source pixel and the next.
struct Axis {
  std::vector<int> at;
  std::vector<std::int16_t> first, second;
};

Axis axis(int source, int target, bool stay_inside) {
  Axis made;
  const auto count = static_cast<std::size_t>(target);
  made.at.resize(count);
  made.first.resize(count);
  made.second.resize(count);
  const double step = 1.0 / (static_cast<double>(target) / source);
  for (std::size_t i = 0; i < count; ++i) {
    auto part = static_cast<float>((static_cast<double>(i) + 0.5) * step - 0.5);
    auto at = static_cast<int>(std::floor(part));
    part -= static_cast<float>(at);
    if (stay_inside && (at < 0 || at >= source - 1)) {
      at = at < 0 ? 0 : source - 1;
      part = 0;
    }
    made.at[i] = at;
    made.first[i] = static_cast<std::int16_t>(std::nearbyint((1.0F - part) * one));
    made.second[i] = static_cast<std::int16_t>(std::nearbyint(part * one));
  }
  return made;
}

// One source row resized: sums of 15 bits, in the order of the target.
template <class Target>
void resize_row(const Image& image, int row, const Axis& x, std::int16_t* out) {
  const std::uint8_t* pixels = image.data + row * image.stride;
  const auto planes = planes_of(image.channels);
  const std::size_t width = x.at.size();
  constexpr std::size_t step = Target::step;
  std::int16_t *red = out + Target::first(0, width), *green = out + Target::first(1, width),
               *blue = out + Target::first(2, width);
  for (std::size_t i = 0; i < width; ++i) {
    const std::uint8_t* a = pixels + static_cast<std::ptrdiff_t>(x.at[i]) * image.channels;
    const std::uint8_t* b = x.second[i] == 0 ? a : a + image.channels;  // the last pixel has no next
    const int left = x.first[i], right = x.second[i];
    red[i * step] = static_cast<std::int16_t>((a[planes[0]] * left + b[planes[0]] * right) >> 4);
    green[i * step] = static_cast<std::int16_t>((a[planes[1]] * left + b[planes[1]] * right) >> 4);
    blue[i * step] = static_cast<std::int16_t>((a[planes[2]] * left + b[planes[2]] * right) >> 4);
  }
}

template <class Target>
void mix_rows(const Target& to, const std::int16_t* above, const std::int16_t* below, int first, int second,
              std::size_t count, typename Target::Value* out) {
  for (std::size_t i = 0; i < count; ++i) {
    const int sum = ((above[i] * first) >> 16) + ((below[i] * second) >> 16);
    out[i] = to.value((sum + 2) >> 2);
  }
}

struct Place {
  int left, top, width, height;
};

// Columns `begin` to `end` of a row in grey.
template <class Target>
void fill_row(const Target& to, int y, int begin, int end, typename Target::Value grey) {
  const std::size_t count = static_cast<std::size_t>(end - begin) * Target::step;
  for (int c = 0; c < Target::runs; ++c) std::fill_n(to.run(y, begin, c), count, grey);
}

template <class Target>
void fill_around(const Target& to, const Info& info, const Place& place) {
  const auto grey = to.value(info.fill);
  for (int y = 0; y < info.height; ++y) {
    const bool beside = y >= place.top && y < place.top + place.height;
    fill_row(to, y, 0, beside ? place.left : info.width, grey);
    if (beside) fill_row(to, y, place.left + place.width, info.width, grey);
  }
}

template <class Target>
void copy_into(const Target& to, const Image& image, const Place& place) {
  const auto planes = planes_of(image.channels);
  for (int y = 0; y < place.height; ++y) {
    const std::uint8_t* row = image.data + y * image.stride;
    if (Target::step == 3 && image.channels == 3) {
      auto* out = to.run(place.top + y, place.left, 0);
      for (int i = 0; i < 3 * place.width; ++i) out[i] = to.value(row[i]);
      continue;
    }
    for (int c = 0; c < 3; ++c) {
      auto* out = to.at(place.top + y, place.left, c);
      const std::uint8_t* in = row + planes[static_cast<std::size_t>(c)];
      for (int x = 0; x < place.width; ++x) {
        *out = to.value(in[x * image.channels]);
        out += Target::step;
      }
    }
  }
}

template <class Target>
void resize_into(const Target& to, const Image& image, const Place& place) {
  const Axis x = axis(image.width, place.width, true), y = axis(image.height, place.height, false);
  const auto width = static_cast<std::size_t>(place.width), count = width * Target::step;
  std::vector<std::int16_t> memory(6 * width);
  std::array<std::int16_t*, 2> rows = {memory.data(), memory.data() + 3 * width};
  std::array<int, 2> held = {-1, -1};  // which source rows they are
  for (int line = 0; line < place.height; ++line) {
    const auto i = static_cast<std::size_t>(line);
    const int wanted[2] = {std::clamp(y.at[i], 0, image.height - 1), std::clamp(y.at[i] + 1, 0, image.height - 1)};
    if (held[1] == wanted[0]) {  // going down, the lower row becomes the upper one
      std::swap(rows[0], rows[1]);
      std::swap(held[0], held[1]);
    }
    for (std::size_t k = 0; k < 2; ++k)
      if (held[k] != wanted[k]) {
        resize_row<Target>(image, wanted[k], x, rows[k]);
        held[k] = wanted[k];
      }
    for (int c = 0; c < Target::runs; ++c) {
      const std::size_t from = static_cast<std::size_t>(c) * width;
      mix_rows(to, rows[0] + from, rows[1] + from, y.first[i], y.second[i], count,
               to.run(place.top + line, place.left, c));
    }
  }
}

template <class Target>
Geometry letterbox(const Image& image, const Info& info, const Target& to) {
  const double ratio =
      std::min(static_cast<double>(info.height) / image.height, static_cast<double>(info.width) / image.width);
  const auto side = [ratio](int length) { return std::max(static_cast<int>(std::nearbyint(length * ratio)), 1); };
  const auto gap = [](int whole, int part) {
    return std::max(static_cast<int>(std::nearbyint((whole - part) / 2.0 - 0.1)), 0);
  };
  const int width = side(image.width), height = side(image.height);
  const Place place = {gap(info.width, width), gap(info.height, height), width, height};
  fill_around(to, info, place);
  if (width == image.width && height == image.height)
    copy_into(to, image, place);
  else
    resize_into(to, image, place);
  return {image.height,
          image.width,
          static_cast<double>(width) / image.width,
          static_cast<double>(height) / image.height,
          static_cast<double>(place.left),
          static_cast<double>(place.top)};
}

// ---- centre crop ----------------------------------------------------------------------------------------------------

// Means of near x near pixels.
std::vector<std::uint8_t> shrink(const Image& image, int near, int columns, int rows) {
  std::vector<std::uint8_t> small(static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows) *
                                  static_cast<std::size_t>(image.channels));
  const float share = 1.0F / static_cast<float>(near * near);
  std::size_t at = 0;
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x)
      for (int c = 0; c < image.channels; ++c) {
        int sum = 0;
        for (int v = 0; v < near; ++v) {
          const std::uint8_t* row = image.data + (y * near + v) * image.stride;
          for (int u = 0; u < near; ++u) sum += row[(x * near + u) * image.channels + c];
        }
        small[at++] = static_cast<std::uint8_t>(
            near == 2 ? (sum + 2) >> 2 : static_cast<int>(std::nearbyint(static_cast<float>(sum) * share)));
      }
  return small;
}

// Whole numbers: float holds every sum of their products exactly, so the order of adding does not matter.
constexpr double weight_one = 8192;
constexpr double tie = 0.5 + 1e-6;  // rounding that does not depend on the last bit of a weight that is half way

// A sum of weighted values, in whole numbers of `unit`.
float rounded(float sum, float unit) { return std::floor((sum + unit / 2) / unit); }

// The source pixels under target pixel `i` and their weights: a triangle that widens when shrinking.
struct Taps {
  int first = 0;
  std::vector<float> weights;
};

Taps taps(int i, double step, int length) {
  const double reach = std::max(step, 1.0), centre = (i + 0.5) * step;
  Taps made;
  made.first = std::max(static_cast<int>(std::floor(centre - reach)), 0);
  const int last = std::min(static_cast<int>(std::ceil(centre + reach)), length);
  std::vector<double> weights;
  double sum = 0;
  for (int k = made.first; k < last; ++k) {
    weights.push_back(std::max(1 - std::abs(k + 0.5 - centre) / reach, 0.0));
    sum += weights.back();
  }
  for (const double weight : weights) made.weights.push_back(static_cast<float>(std::ceil(weight / sum * weight_one - tie)));
  return made;
}

template <class Target>
void crop_line(const Target& to, const std::vector<float>& line, int channels, const std::vector<Taps>& across, int y) {
  const auto planes = planes_of(channels);
  for (std::size_t c = 0; c < 3; ++c) {
    auto* out = to.at(y, 0, static_cast<int>(c));
    for (std::size_t i = 0; i < across.size(); ++i) {
      float sum = 0;
      auto at = static_cast<std::size_t>(across[i].first * channels + planes[c]);
      for (const float weight : across[i].weights) {
        sum += weight * line[at];
        at += static_cast<std::size_t>(channels);
      }
      out[i * Target::step] = to.value(rounded(sum, static_cast<float>(weight_one) * 4));
    }
  }
}

template <class Target>
Geometry centre_crop(Image image, const Info& info, const Target& to) {
  const double ratio =
      std::max(static_cast<double>(info.height) / image.height, static_cast<double>(info.width) / image.width);
  if (ratio * std::max(image.height, image.width) > longest)
    throw Error(Error::Kind::input, "image: " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                                        " pixels is too narrow to cut a middle out of");
  const int height = std::max(static_cast<int>(image.height * ratio + 1e-6), info.height);
  const int width = std::max(static_cast<int>(image.width * ratio + 1e-6), info.width);
  const int top = static_cast<int>(std::nearbyint((height - info.height) / 2.0));
  const int left = static_cast<int>(std::nearbyint((width - info.width) / 2.0));
  const Geometry geometry = {image.height,
                             image.width,
                             static_cast<double>(width) / image.width,
                             static_cast<double>(height) / image.height,
                             -static_cast<double>(left),
                             -static_cast<double>(top)};
  const double step_x = static_cast<double>(image.width) / width, step_y = static_cast<double>(image.height) / height;
  // Far too large images are first brought near twice the size.
  const int near = std::max(static_cast<int>(std::floor(std::min(step_x, step_y) / 2)), 1);
  std::vector<std::uint8_t> small;
  if (near > 1) {
    small = shrink(image, near, image.width / near, image.height / near);
    image = {small.data(), image.width / near, image.height / near, image.channels, 0};
    image.stride = static_cast<std::ptrdiff_t>(image.width) * image.channels;
  }
  std::vector<Taps> across;
  for (int x = 0; x < info.width; ++x) across.push_back(taps(x + left, step_x / near, image.width));
  std::vector<float> line(static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels));
  for (int y = 0; y < info.height; ++y) {
    const Taps down = taps(y + top, step_y / near, image.height);
    std::fill(line.begin(), line.end(), 0.0F);
    for (std::size_t k = 0; k < down.weights.size(); ++k) {
      const std::uint8_t* row = image.data + (down.first + static_cast<int>(k)) * image.stride;
      for (std::size_t i = 0; i < line.size(); ++i) line[i] += down.weights[k] * static_cast<float>(row[i]);
    }
    for (float& value : line) value = rounded(value, static_cast<float>(weight_one) / 4);  // quarters of a grey level
    crop_line(to, line, image.channels, across, y);
  }
  return geometry;
}

template <class Target>
Geometry prepared(const Image& image, const Info& info, const Target& to) {
  const Image sound = checked(image);
  if (info.mode == "letterbox") return letterbox(sound, info, to);
  if (info.mode == "centre_crop") return centre_crop(sound, info, to);
  throw Error(Error::Kind::input,
              "images prepared by '" + info.mode + "' are unknown to this edgekit; it has letterbox and centre_crop");
}

}  // namespace

Geometry prepare(const Image& image, const Info& info, float* tensor) {
  if (info.takes_pixels()) throw Error(Error::Kind::usage, "prepare: the model takes uint8 pixels, not floats");
  return prepared(image, info, Planes{tensor, info.height, info.width, static_cast<float>(info.scale)});
}

Geometry prepare(const Image& image, const Info& info, std::uint8_t* tensor) {
  if (!info.takes_pixels()) throw Error(Error::Kind::usage, "prepare: the model takes floats, not uint8 pixels");
  return prepared(image, info, Pixels{tensor, info.width});
}

}  // namespace edgekit
