// Several streams, one model: a thread and a session each, the compiled model is there once:
//   edgekit_many BUNDLE north.mp4 south.mp4 rtsp://camera/3
#include <cstdio>
#include <map>
#include <mutex>
#include <opencv2/videoio.hpp>
#include <thread>

#include "edgekit/edgekit.hpp"

namespace {

std::string counted(const edgekit::Model& model, const std::string& source) {
  edgekit::Session session = model.session();
  cv::VideoCapture video(source);
  if (!video.isOpened()) return source + ": cannot be opened";
  std::map<int, int> seen;
  edgekit::Result found;
  cv::Mat frame;
  int frames = 0;
  for (; video.read(frame); ++frames) {
    session.predict(edgekit::view(frame), {}, found);
    for (const int label : found.labels) ++seen[label];
  }
  std::string line = source + ": " + std::to_string(frames) + " frames";
  for (const auto& [label, count] : seen)
    line += ", " + model.info().names[static_cast<std::size_t>(label)] + " " + std::to_string(count);
  return line;
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) {
    std::fprintf(stderr, "usage: edgekit_many BUNDLE SOURCE...\n");
    return 2;
  }
  try {
    edgekit::Settings settings;
    settings.streams = 2;  // for frames a second altogether; for the quickest answer leave it
    const edgekit::Model model(words[1], settings);
    std::mutex mutex;
    std::vector<std::thread> threads;
    for (int i = 2; i < count; ++i)
      threads.emplace_back([&model, &mutex, source = std::string(words[i])] {
        std::string line;
        try {
          line = counted(model, source);
        } catch (const edgekit::Error& error) {  // the others go on
          line = source + ": " + error.what();
        }
        const std::lock_guard<std::mutex> alone(mutex);
        std::printf("%s\n", line.c_str());
      });
    for (std::thread& thread : threads) thread.join();
    return 0;
  } catch (const edgekit::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
