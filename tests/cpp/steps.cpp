// The steps of Session one by one, on the bundle named: what predict() gives, from the caller's own memory too.
#include <cstdio>
#include <cstring>
#include <utility>

#include "edgekit/edgekit.hpp"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::printf("not so: %s\n", what);
  ++failures;
}

bool equal(const edgekit::Result& a, const edgekit::Result& b) {
  if (a.scores != b.scores || a.labels != b.labels || a.boxes.size() != b.boxes.size()) return false;
  return a.boxes.empty() || std::memcmp(a.boxes.data(), b.boxes.data(), a.boxes.size() * sizeof(edgekit::Box)) == 0;
}

template <class Work>
bool refused(Work work, edgekit::Error::Kind kind) {
  try {
    work();
  } catch (const edgekit::Error& error) {
    return error.kind() == kind;
  }
  return false;
}

struct FakeMat {  // what view() needs of a cv::Mat
  const std::uint8_t* data;
  int cols, rows, kind;
  std::size_t step;
  int channels() const { return 3; }
  int depth() const { return kind; }
};

}  // namespace

int main(int count, char** words) {
  if (count < 2) return 2;
  using Kind = edgekit::Error::Kind;
  std::vector<std::uint8_t> pixels(150U * 100 * 3);
  for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * i % 251);
  const edgekit::Image image = {pixels.data(), 150, 100};
  edgekit::Options options;
  options.conf = 0.05F;

  const edgekit::Model model(words[1]);
  edgekit::Session session = model.session(), other = model.session();
  const edgekit::Result expected = session.predict(image, options);
  expect(!expected.labels.empty(), "something is found");
  expect(expected.times.whole > 0, "times are taken");

  const edgekit::Geometry geometry = session.prepare(image);
  session.run();
  expect(equal(session.finish(geometry, options), expected), "prepare, run and finish are predict");
  expect(equal(edgekit::postprocess(session.outputs(), session.info(), geometry, options), expected),
         "so is postprocess");

  const edgekit::Info& info = model.info();
  const bool bytes = info.takes_pixels();
  std::vector<float> input(3U * static_cast<std::size_t>(info.height) * static_cast<std::size_t>(info.width));
  const auto& shape = info.outputs[0].shape;
  std::vector<float> output(static_cast<std::size_t>(shape[1] * shape[2]), -1.0F);
  other.bind("images", input.data());
  other.bind(info.outputs[0].role, output.data());
  const void* floats_at = other.input();
  const void* pixels_at = other.pixels();
  expect((bytes ? pixels_at : floats_at) == input.data(), "the input is the caller's");
  expect((bytes ? floats_at : pixels_at) == nullptr, "and not of the other kind");
  float value = 0;
  std::uint8_t byte = 0;
  const auto other_kind = [&] { bytes ? edgekit::prepare(image, info, &value) : edgekit::prepare(image, info, &byte); };
  expect(refused(other_kind, Kind::usage), "the other kind of tensor is refused");
  expect(equal(other.predict(image, options), expected), "bound memory changes nothing");
  expect(other.outputs()[0].data == output.data(), "the output is the caller's");
  expect(std::memcmp(output.data(), session.outputs()[0].data, output.size() * sizeof(float)) == 0, "and holds it");

  expect(refused([&] { session.bind("wishes", input.data()); }, Kind::usage), "an unknown port is refused");
  expect(refused([&] { session.bind("images", nullptr); }, Kind::usage), "no memory is refused");
  expect(refused([&] { session.bind("images", input.data(), edgekit::Memory::device); }, Kind::usage),
         "GPU memory is refused");
  expect(refused([&] { session.cuda_stream(nullptr); }, Kind::usage), "CUDA streams are refused");
  expect(refused([&] { session.prepare(image, 1); }, Kind::usage), "a place beyond the batch is refused");
  expect(refused([&] { session.predict({nullptr, 50, 50}); }, Kind::input), "no pixels are refused");

  const FakeMat mat = {pixels.data(), 150, 100, 0, 450}, floats = {pixels.data(), 150, 100, 5, 450};
  expect(equal(session.predict(edgekit::view(mat), options), expected), "a view is an image");
  expect(refused([&] { edgekit::view(floats); }, Kind::input), "a view of floats is refused");

  other = std::move(session);  // what other held is released in good order
  edgekit::Session moved(std::move(other));
  const auto several = moved.predict(std::vector<edgekit::Image>{image, {pixels.data(), 10, 10}, image}, options);
  expect(several.size() == 3 && equal(several[0], expected) && equal(several[2], expected), "many images, in order");
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
