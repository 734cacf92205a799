// Many threads, one model: with a fake backend by default, or with the bundle named. Under ThreadSanitizer.
#include <atomic>
#include <cstdio>
#include <thread>

#include "backend.hpp"

namespace {

using namespace edgekit;

// Answers with one box whose corner is the first value of the input; shares nothing but its Info.
class FakeRunner : public detail::Runner {
 public:
  explicit FakeRunner(const Info& info) : info_(info), input_(3U * 64 * 64) {
    results_.resize(2);
    results_[0] = {"boxes", box_.data(), {1, 1, 4}};
    results_[1] = {"scores", &score_, {1, 1, 1}};
  }
  void* input() override { return input_.data(); }
  void bind(std::size_t, void*, Memory) override {}
  void run() override {
    const float x = input_[32 * 64 + 32] * 255 / 10;
    box_ = {x, 1, x + 20, 30};
    score_ = info_.names.size() == 1 ? 0.9F : 0.0F;
  }
  const std::vector<Tensor>& outputs() const override { return results_; }

 private:
  const Info& info_;
  std::vector<float> input_;
  std::vector<float> box_ = {0, 0, 0, 0};
  float score_ = 0;
  std::vector<Tensor> results_;
};

class Fake : public detail::Backend {
 public:
  explicit Fake(const Info& info) : info_(info) {}
  std::unique_ptr<detail::Runner> runner() const override { return std::make_unique<FakeRunner>(info_); }

 private:
  const Info& info_;
};

Model fake() {
  auto parts = std::make_shared<detail::ModelParts>();
  parts->info.head = "raw";
  parts->info.names = {"thing"};
  parts->info.height = parts->info.width = 64;
  parts->info.inputs = {{"images", "images", "float32", {1, 3, 64, 64}}};
  parts->backend = std::make_unique<Fake>(parts->info);
  return Model(parts);
}

bool equal(const Result& a, const Result& b) {
  bool same = a.labels == b.labels && a.scores == b.scores && a.boxes.size() == b.boxes.size();
  for (std::size_t i = 0; same && i < a.boxes.size(); ++i)
    same = a.boxes[i].x1 == b.boxes[i].x1 && a.boxes[i].y2 == b.boxes[i].y2;
  return same && a.probabilities == b.probabilities;
}

}  // namespace

int main(int count, char** words) {
  const Model model = count > 1 ? Model(words[1]) : fake();
  const int rounds = count > 2 ? std::atoi(words[2]) : 200;
  constexpr int images = 8;
  std::vector<std::vector<std::uint8_t>> pixels;
  std::vector<Result> expected;
  Session serial = model.session();
  for (int i = 0; i < images; ++i) {
    pixels.emplace_back(90U * 70 * 3, static_cast<std::uint8_t>(20 + 25 * i));
    expected.push_back(serial.predict({pixels.back().data(), 90, 70}));
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      Session session = model.session();
      for (int r = 0; r < rounds; ++r) {
        const auto i = static_cast<std::size_t>((r * 3 + t) % images);
        if (!equal(session.predict({pixels[i].data(), 90, 70}), expected[i])) ++wrong;
      }
    });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d wrong of %d\n", wrong.load(), 8 * rounds);
  return wrong.load() == 0 ? 0 : 1;
}
