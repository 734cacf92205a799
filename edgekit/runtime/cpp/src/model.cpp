// Model and Session: the order in which the parts are called.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#ifndef _WIN32
#include <unistd.h>
#endif

#include "backend.hpp"
#include "index.hpp"
#include "manifest.hpp"
#include "postprocess.hpp"
#include "processor.hpp"
#include "selftest.hpp"

namespace edgekit {
namespace {

using Clock = std::chrono::steady_clock;

double between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

long this_process() {
#ifdef _WIN32
  return 0;  // which does not fork
#else
  return static_cast<long>(getpid());
#endif
}

std::size_t values_of(const Info& info) {
  return 3U * static_cast<std::size_t>(info.height) * static_cast<std::size_t>(info.width);
}

// Zeros in the places from `first` on: padding of a batch that is not full. Zero is all bits zero in floats, too.
void clear(void* input, const Info& info, std::size_t first) {
  const std::size_t image = values_of(info) * detail::size_of(info.inputs[0].dtype);
  std::memset(static_cast<char*>(input) + first * image, 0, (static_cast<std::size_t>(info.batch()) - first) * image);
}

void to_standard_error(const std::string& sentence) { std::cerr << "warning: " + sentence + "\n"; }

// Each sentence once a model; of max_det only where nobody chose it.
void warn(const detail::ModelParts& parts, const Result& result, const Options& options) {
  if (!parts.warn || !(result.truncated_by_candidates || result.truncated_by_max_det)) return;
  const bool candidates = result.truncated_by_candidates && !parts.warned_of_candidates.exchange(true);
  const bool max_det = result.truncated_by_max_det && options.max_det == Options().max_det &&
                       !parts.warned_of_max_det.exchange(true);
  Result news;
  news.truncated_by_candidates = candidates;
  news.truncated_by_max_det = max_det;
  for (const std::string& sentence : truncation(news, parts.info, options)) parts.warn(sentence);
}

// One input size of a bundle.
std::shared_ptr<detail::ModelParts> opened(const std::string& folder, const Info& info, const Settings& settings) {
  auto parts = std::make_shared<detail::ModelParts>();
  parts->folder = folder;
  parts->info = info;
  const Port& input = parts->info.inputs[0];
  const bool pixels = parts->info.takes_pixels() && parts->info.target.compare(0, 3, "ov-") == 0;
  if (!pixels && (input.dtype != "float32" || input.shape[1] != 3))
    throw Error(Error::Kind::input, folder + ": the input '" + input.name +
                                        "' is not float32 [batch, 3, height, width]; build the bundle again");
  if (static_cast<std::size_t>(parts->info.batch()) * values_of(parts->info) > (1U << 31U))
    throw Error(Error::Kind::input, folder + ": the input is too large; build the bundle for fewer or smaller images");
  parts->backend = detail::open_backend(folder, parts->info, settings);
  const auto say = settings.warn ? settings.warn : to_standard_error;
  parts->warn = [folder, say](const std::string& sentence) { say(folder + ": " + sentence); };
  // As edgekit/targets: a single stream on the CPU runs in the thread that asks, all else in threads of its own.
  const bool cpu = settings.device.empty() || settings.device == "cpu" || settings.device == "CPU";
  const bool single = parts->info.target.compare(0, 3, "ov-") == 0 && settings.streams <= 1;
  parts->forkable = cpu && (single || parts->info.target.compare(0, 4, "ort-") == 0);
  parts->process = this_process();
  return parts;
}

std::shared_ptr<detail::ModelParts> open_bundle(const std::string& folder, const Settings& settings) {
  auto parts = opened(folder, read_manifest(folder, settings.verify), settings);
  for (const Info& shape : parts->info.shapes) parts->shapes.push_back(opened(folder, shape, settings));
  const std::string remark = detail::remark(parts->info, settings.device);
  if (!remark.empty()) parts->warn(remark);
  return parts;
}

// A bundle, or the first that runs here of an index.
std::shared_ptr<const detail::ModelParts> open(const std::string& path, const Settings& settings) {
  std::error_code failed;
  if (!std::filesystem::exists(path, failed))
    throw Error(Error::Kind::input, path + ": no such file or folder; give a bundle");
  if (settings.threads < 0)
    throw Error(Error::Kind::usage, "`threads` " + std::to_string(settings.threads) + ": must be at least 1");
  if (settings.streams < 0)
    throw Error(Error::Kind::usage, "streams " + std::to_string(settings.streams) + ": must be at least 1");
  if (!detail::is_index(path)) return open_bundle(path, settings);
  std::shared_ptr<detail::ModelParts> parts;
  std::string why;
  const auto first = [&](const std::string& folder) { return parts = open_bundle(folder, settings); };
  detail::open_first(path, settings, first, why);
  parts->why = why;
  return parts;
}

// How large an image is on the input's canvas.
double scale_of(const Image& image, const Info& info) {
  return std::min(info.height / static_cast<double>(image.height), info.width / static_cast<double>(image.width));
}

// Whether an image goes to the input `one` rather than to `other`: it is larger there, or as large with less around it.
bool better(const Image& image, const Info& one, const Info& other) {
  const double mine = scale_of(image, one), theirs = scale_of(image, other);
  if (mine != theirs) return mine > theirs;
  return static_cast<std::int64_t>(one.height) * one.width < static_cast<std::int64_t>(other.height) * other.width;
}

}  // namespace

Model::Model(const std::string& folder, const Settings& settings) : parts_(open(folder, settings)) {}

Model::Model(std::shared_ptr<const detail::ModelParts> parts) : parts_(std::move(parts)) {}

const Info& Model::info() const noexcept { return parts_->info; }

const std::string& Model::why() const noexcept { return parts_->why; }

Session Model::session() const { return Session(parts_, parts_->backend->runner()); }

Verification Model::verify() const { return detail::verify(parts_->folder, parts_->info, session()); }

Info read_bundle(const std::string& folder, bool verify) { return read_manifest(folder, verify); }

Session::Session(std::shared_ptr<const detail::ModelParts> parts, std::unique_ptr<detail::Runner> runner)
    : parts_(std::move(parts)), runner_(std::move(runner)) {
  for (const auto& shape : parts_->shapes) others_.push_back(Session(shape, shape->backend->runner()));
}
Session::Session(Session&&) noexcept = default;
Session& Session::operator=(Session&& other) noexcept {
  runner_.swap(other.runner_);  // by swapping, no runner outlives the model it belongs to
  parts_.swap(other.parts_);
  others_.swap(other.others_);
  return *this;
}
Session::~Session() = default;

const Info& Session::info() const noexcept { return parts_->info; }

Session& Session::fitting(const Image& image) {
  Session* found = this;
  if (image.height > 0 && image.width > 0)  // else prepare() says what is wrong with it
    for (Session& other : others_)
      if (better(image, other.info(), found->info())) found = &other;
  return *found;
}

float* Session::input() { return info().takes_pixels() ? nullptr : static_cast<float*>(runner_->input()); }

std::uint8_t* Session::pixels() {
  return info().takes_pixels() ? static_cast<std::uint8_t*>(runner_->input()) : nullptr;
}

Geometry Session::prepare(const Image& image, int place) {
  void* input = runner_->input();
  if (input == nullptr)
    throw Error(Error::Kind::usage, "prepare: the input is bound to device memory; fill that and call run()");
  if (place < 0 || place >= info().batch())
    throw Error(Error::Kind::usage,
                "prepare: place " + std::to_string(place) + " of a batch of " + std::to_string(info().batch()));
  const std::size_t at = static_cast<std::size_t>(place) * values_of(info());
  if (info().takes_pixels()) return edgekit::prepare(image, info(), static_cast<std::uint8_t*>(input) + at);
  return edgekit::prepare(image, info(), static_cast<float*>(input) + at);
}

void Session::run() {
  if (!parts_->forkable && parts_->process != this_process())
    throw Error(Error::Kind::usage, "the model was opened before this process was forked, and its threads stayed "
                                    "behind; open it in every process");
  runner_->run();
}

const std::vector<Tensor>& Session::outputs() const { return runner_->outputs(); }

Result Session::finish(const Geometry& geometry, const Options& options, int place) const {
  Result result = postprocess(outputs(), info(), geometry, options, place);
  warn(*parts_, result, options);
  return result;
}

Result Session::predict(const Image& image, const Options& options) {
  Result result;
  predict(image, options, result);
  return result;
}

void Session::predict(const Image& image, const Options& options, Result& result) {
  if (Session& fit = fitting(image); &fit != this) return fit.predict(image, options, result);
  check_options(options, info());
  const auto start = Clock::now();
  const Geometry geometry = prepare(image);
  if (info().batch() > 1) clear(runner_->input(), info(), 1);
  const auto ready = Clock::now();
  run();
  const auto answered = Clock::now();
  postprocess_into(outputs(), info(), geometry, options, 0, result);
  warn(*parts_, result, options);
  const auto end = Clock::now();
  result.times = {between(start, ready), between(ready, answered), between(answered, end), between(start, end)};
}

std::vector<Result> Session::predict(const std::vector<Image>& images, const Options& options) {
  if (others_.empty()) return predict_here(images, options);
  std::vector<Session*> fits;
  for (const Image& image : images) fits.push_back(&fitting(image));
  std::vector<Result> results(images.size());
  const auto run_in = [&](Session& session) {
    std::vector<Image> own;
    for (std::size_t i = 0; i < images.size(); ++i)
      if (fits[i] == &session) own.push_back(images[i]);
    std::vector<Result> found = session.predict_here(own, options);
    std::size_t next = 0;
    for (std::size_t i = 0; i < images.size(); ++i)
      if (fits[i] == &session) results[i] = std::move(found[next++]);
  };
  run_in(*this);
  for (Session& other : others_) run_in(other);
  return results;
}

std::vector<Result> Session::predict_here(const std::vector<Image>& images, const Options& options) {
  check_options(options, info());
  const auto batch = static_cast<std::size_t>(info().batch());
  std::vector<Result> results(images.size());
  std::vector<Geometry> geometries(batch);
  for (std::size_t first = 0; first < images.size(); first += batch) {
    const auto start = Clock::now();
    const std::size_t count = std::min(batch, images.size() - first);
    for (std::size_t i = 0; i < count; ++i) geometries[i] = prepare(images[first + i], static_cast<int>(i));
    clear(runner_->input(), info(), count);
    const auto ready = Clock::now();
    run();
    const auto answered = Clock::now();
    for (std::size_t i = 0; i < count; ++i)
      postprocess_into(outputs(), info(), geometries[i], options, static_cast<int>(i), results[first + i]);
    for (std::size_t i = 0; i < count; ++i) warn(*parts_, results[first + i], options);
    const auto end = Clock::now();
    for (std::size_t i = 0; i < count; ++i)
      results[first + i].times = {between(start, ready), between(ready, answered), between(answered, end),
                                  between(start, end)};
  }
  return results;
}

void Session::bind(const std::string& role, void* data, Memory memory) {
  if (data == nullptr) throw Error(Error::Kind::usage, "bind: there is no memory for '" + role + "'");
  if (role == "images") return runner_->bind(0, data, memory);
  const auto& outputs = info().outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].role == role) return runner_->bind(i + 1, data, memory);
  throw Error(Error::Kind::usage, "bind: the model has no port of the role '" + role + "'");
}

void Session::cuda_stream(void* stream) { runner_->cuda_stream(stream); }

}  // namespace edgekit
