// One image through a bundle, and what was found drawn on it: edgekit_detect BUNDLE street.jpg street-seen.jpg
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>

#include "edgekit/edgekit.hpp"

namespace {

const cv::Scalar green(0, 200, 0), red(0, 0, 220);

// OpenCV 4 draws question marks for what is not ASCII: then the class's number, whose name is printed.
std::string drawable(const std::string& name, int label) {
  const bool plain = std::all_of(name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 128; });
  return plain || CV_VERSION_MAJOR >= 5 ? name : std::to_string(label);
}

void draw_mask(cv::Mat& picture, const edgekit::Mask& mask) {
  for (int y = 0; y < mask.height; ++y)
    for (int x = 0; x < mask.width; ++x)
      if (mask.pixels[static_cast<std::size_t>(y) * static_cast<std::size_t>(mask.width) +
                      static_cast<std::size_t>(x)] != 0) {
        cv::Vec3b& pixel = picture.at<cv::Vec3b>(mask.top + y, mask.left + x);
        pixel[1] = static_cast<unsigned char>((pixel[1] + 200) / 2);
      }
}

void draw_rotated(cv::Mat& picture, const edgekit::RotatedBox& box) {
  const cv::RotatedRect turned({box.x, box.y}, {box.width, box.height}, box.angle * 57.29578F);
  cv::Point2f corners[4];
  turned.points(corners);
  for (int i = 0; i < 4; ++i) cv::line(picture, corners[i], corners[(i + 1) % 4], green, 2);
}

void draw(cv::Mat& picture, const edgekit::Result& found, const edgekit::Info& info) {
  for (const edgekit::Mask& mask : found.masks) draw_mask(picture, mask);
  for (const edgekit::RotatedBox& box : found.rotated_boxes) draw_rotated(picture, box);
  for (std::size_t i = 0; i < found.boxes.size(); ++i) {
    const edgekit::Box& box = found.boxes[i];
    const cv::Point corner(static_cast<int>(box.x1), static_cast<int>(box.y1));
    cv::rectangle(picture, corner, cv::Point(static_cast<int>(box.x2), static_cast<int>(box.y2)), green, 2);
    cv::putText(picture, drawable(info.names[static_cast<std::size_t>(found.labels[i])], found.labels[i]),
                corner + cv::Point(2, 14), cv::FONT_HERSHEY_SIMPLEX, 0.5, red, 1);
  }
  for (const edgekit::Keypoint& point : found.keypoints)
    if (point.score > 0.5F)
      cv::circle(picture, cv::Point(static_cast<int>(point.x), static_cast<int>(point.y)), 3, red, -1);
}

}  // namespace

int main(int count, char** words) {
  if (count != 4) {
    std::fprintf(stderr, "usage: edgekit_detect BUNDLE IMAGE OUT\n");
    return 2;
  }
  try {
    const edgekit::Model model(words[1]);
    cv::Mat picture = cv::imread(words[2]);
    if (picture.empty()) {
      std::fprintf(stderr, "error: %s: cannot be read\n", words[2]);
      return 2;
    }
    const edgekit::Result found = model.session().predict(edgekit::view(picture));
    const edgekit::Info& info = model.info();
    for (std::size_t i = 0; i < found.labels.size(); ++i)
      std::printf("%s %.2f\n", info.names[static_cast<std::size_t>(found.labels[i])].c_str(),
                  static_cast<double>(found.scores[i]));
    for (std::size_t i = 0; i < found.probabilities.size(); ++i)
      std::printf("%s %.2f\n", info.names[i].c_str(), static_cast<double>(found.probabilities[i]));
    std::printf("%.1f ms: %.1f before, %.1f network, %.1f after\n", found.times.whole, found.times.pre,
                found.times.network, found.times.post);
    draw(picture, found, info);
    if (!cv::imwrite(words[3], picture)) throw std::runtime_error(std::string(words[3]) + ": cannot be written");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
