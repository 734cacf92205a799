// A camera, address or video through a bundle, with the frames per second on the picture; q ends it:
//   edgekit_camera BUNDLE 0
//   edgekit_camera BUNDLE street.mp4 seen.mp4          written to a file instead of a window
// Reading and predicting overlap: while one frame is in the network, the next is decoded.
#include <cctype>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <future>
#include <opencv2/highgui.hpp>
#include <opencv2/imgproc.hpp>
#include <opencv2/videoio.hpp>
#include <stdexcept>

#include "edgekit/edgekit.hpp"

namespace {

using Clock = std::chrono::steady_clock;

void draw(cv::Mat& picture, const edgekit::Result& found, double rate) {
  for (const edgekit::Box& box : found.boxes)
    cv::rectangle(picture, cv::Point(static_cast<int>(box.x1), static_cast<int>(box.y1)),
                  cv::Point(static_cast<int>(box.x2), static_cast<int>(box.y2)), cv::Scalar(0, 200, 0), 2);
  char text[32];
  std::snprintf(text, sizeof text, "%.1f FPS", rate);
  cv::putText(picture, text, cv::Point(12, 36), cv::FONT_HERSHEY_SIMPLEX, 1.0, cv::Scalar(0, 255, 0), 2);
}

// MPEG-4 counts time in ratios of numbers up to 65535: five digits of a rate are sure to fit.
double held(double fps) { return fps > 0.1 && fps < 655 ? std::round(fps * 100) / 100 : 25.0; }

bool show(const cv::Mat& picture, cv::VideoWriter& writer, const char* out, double fps) {
  if (out == nullptr) {
    cv::imshow("edgekit", picture);
    return cv::waitKey(1) != 'q';
  }
  if (!writer.isOpened() &&
      !writer.open(out, cv::VideoWriter::fourcc('m', 'p', '4', 'v'), held(fps), picture.size()))
    throw std::runtime_error(std::string(out) + ": OpenCV cannot write a video there");
  writer.write(picture);
  return true;
}

// OpenCV says nothing of a full disk: what was written is opened again.
void check(cv::VideoWriter& writer, const char* out, long frames) {
  writer.release();
  cv::VideoCapture written(out);
  if (static_cast<long>(written.get(cv::CAP_PROP_FRAME_COUNT)) == frames) return;
  std::remove(out);
  throw std::runtime_error(std::string(out) + ": cannot be written whole; is the disk full?");
}

int watch(const char* bundle, const std::string& source, const char* out) {
  const edgekit::Model model(bundle);
  edgekit::Session session = model.session();
  cv::VideoCapture camera;
  const bool number = source.size() == 1 && std::isdigit(static_cast<unsigned char>(source[0])) != 0;
  if (!(number ? camera.open(source[0] - '0') : camera.open(source))) {
    std::fprintf(stderr, "error: %s: cannot be opened\n", source.c_str());
    return 2;
  }
  cv::VideoWriter writer;
  edgekit::Result found;  // its memory is used again for every frame
  cv::Mat frame, next;
  double rate = 0;
  long frames = 0;
  auto last = Clock::now();
  for (bool more = camera.read(frame); more; frames++) {
    auto reading = std::async(std::launch::async, [&] { return camera.read(next); });
    session.predict(edgekit::view(frame), {}, found);
    const auto now = Clock::now();
    rate = 0.9 * rate + 0.1 / std::chrono::duration<double>(now - last).count();
    last = now;
    draw(frame, found, rate);
    more = show(frame, writer, out, camera.get(cv::CAP_PROP_FPS));
    more = reading.get() && more;
    std::swap(frame, next);
  }
  if (out != nullptr && frames > 0) check(writer, out, frames);
  std::printf("%ld frames\n", frames);
  return 0;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: edgekit_camera BUNDLE CAMERA|ADDRESS|VIDEO [OUT.mp4]\n");
    return 2;
  }
  try {
    return watch(words[1], words[2], count > 3 ? words[3] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
