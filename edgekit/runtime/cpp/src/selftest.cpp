// A bundle's self-test: the pictures and answers that edgekit/verify/selftest.py describes. What this machine executes is
// not asked: the bounds are the widest that the bundle has.
#include "selftest.hpp"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "answers.hpp"
#include "json.hpp"
#include "sha256.hpp"

namespace edgekit::detail {
namespace {

namespace fs = std::filesystem;
using json::Type;
using json::Value;

constexpr std::size_t most_images = 16;
constexpr const char* document_name = "selftest/selftest.json";

struct Picture {
  int width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  // BGR
};

struct Test {
  std::vector<Picture> pictures;
  std::vector<Answers> answers;
  Bounds bounds;
  std::string precision;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const Value& member(const Value& object, const std::string& key) {
  const Value* found = object.find(key);
  if (found == nullptr) throw Invalid("it lacks " + json::quoted(key));
  return *found;
}

// Numbers of a list, of lists in lists one after the other.
void flatten(const Value& value, std::vector<double>& out) {
  if (value.is(Type::list)) {
    for (const Value& each : value.items) flatten(each, out);
  } else if (value.is(Type::integer) || value.is(Type::real)) {
    out.push_back(value.number);
  } else {
    throw Invalid("an answer that is no number");
  }
}

// A file of the bundle whose hash is the manifest's.
fs::path hashed(const fs::path& folder, const Value& files, const std::string& name) {
  const Value* digest = files.find(name);
  if (digest == nullptr)
    throw Error(Error::Kind::gate, folder.string() + ": its self-test uses " + json::quoted(name) +
                                       ", of which the manifest has no hash; rebuild or copy the bundle again");
  const fs::path path = folder / name;
  if (!digest->is(Type::text) || !fs::is_regular_file(path) || sha256_file(path.string()) != digest->text)
    throw Error(Error::Kind::gate, folder.string() + ": " + json::quoted(name) +
                                       " is not the file the bundle was built with (its hash differs); rebuild or copy "
                                       "the bundle again");
  return path;
}

Picture picture(const fs::path& path) {
  std::istringstream stream(text_of(path));
  std::string magic;
  int most = 0;
  Picture found;
  stream >> magic >> found.width >> found.height >> most;
  stream.get();
  if (!stream || magic != "P6" || most != 255 || found.width < 1 || found.height < 1 || found.width > 4096 ||
      found.height > 4096)
    throw Invalid(path.filename().string() + " is no picture");
  found.pixels.resize(3U * static_cast<std::size_t>(found.width) * static_cast<std::size_t>(found.height));
  stream.read(reinterpret_cast<char*>(found.pixels.data()), static_cast<std::streamsize>(found.pixels.size()));
  if (!stream) throw Invalid(path.filename().string() + " is cut off");
  for (std::size_t i = 0; i < found.pixels.size(); i += 3) std::swap(found.pixels[i], found.pixels[i + 2]);
  return found;
}

bool is_whole(const std::string& role) { return role == "class_probabilities" || role == "mask_prototypes"; }

Answers read_answers(const Value& given) {
  if (!given.is(Type::object)) throw Invalid("an answer that is no object");
  Answers found;
  std::map<std::string, std::vector<double>> values;
  for (const auto& [role, value] : given.members) flatten(value, values[role]);
  for (const double label : values["labels"]) found.labels.push_back(static_cast<std::int64_t>(label));
  found.scores = values["scores"];
  const std::size_t count = found.labels.size();
  if (found.scores.size() != count) throw Invalid("answers of different lengths");
  for (auto& [role, numbers] : values) {
    if (role == "labels" || role == "scores") continue;
    if (is_whole(role)) {
      found.all[role] = numbers;
      continue;
    }
    if (count == 0 || numbers.size() % count != 0) throw Invalid("answers of different lengths");
    found.rows[role] = {numbers.size() / count, numbers};
  }
  return found;
}

Bounds read_bounds(const Value& given) {
  Bounds found;
  for (const auto& [role, row] : given.members)
    for (const char* key : {"rms", "p99", "max"}) {
      const double bound = member(row, key).number;
      if (!(bound > 0)) throw Invalid("a bound that is not above zero");
      found[role][key] = bound;
    }
  return found;
}

Test read(const fs::path& folder, const Value& files, const Info& info) {
  const Value document = json::parse(text_of(hashed(folder, files, document_name)));
  if (member(document, "schema").whole > 1) throw Invalid("it is of a newer edgekit");
  Test test;
  const Value &images = member(document, "images"), &answers = member(document, "answers"),
              &allowed = member(document, "allowed");
  if (!images.is(Type::list) || images.items.empty() || images.items.size() > most_images ||
      answers.items.size() != images.items.size() || !allowed.is(Type::object) || allowed.members.empty())
    throw Invalid("pictures, answers and bounds do not belong together");
  for (const Value& name : images.items) test.pictures.push_back(picture(hashed(folder, files, name.text)));
  for (const Value& answer : answers.items) test.answers.push_back(read_answers(answer));
  test.precision = allowed.members.back().first;
  test.bounds = read_bounds(allowed.members.back().second);
  for (const Answers& answer : test.answers)
    for (const Port& port : info.outputs) {
      const bool there = port.role == "labels" || port.role == "scores" ? !answer.scores.empty()
                                                                       : answer.rows.count(port.role) > 0 ||
                                                                             answer.all.count(port.role) > 0;
      if (!there && info.head != "nms") throw Invalid("no answer for " + port.role);
    }
  return test;
}

}  // namespace

Verification verify(const std::string& folder, const Info& info, Session session) {
  Verification found;
  const fs::path root(folder);
  const bool there = fs::is_regular_file(root / "manifest.json");  // a size of a bundle of several has none of its own
  const Value manifest = there ? json::parse(text_of(root / "manifest.json")) : Value();
  const Value* about = manifest.find("selftest");
  const Value* images = about != nullptr ? about->find("images", Type::integer) : nullptr;
  if (images == nullptr || images->whole < 1) {
    found.message = folder + ": the bundle has no self-test; build it again to have it verified";
    return found;
  }
  try {
    const Test test = read(root, member(manifest, "files"), info);
    const auto start = std::chrono::steady_clock::now();
    const std::size_t count = test.pictures.size(), places = static_cast<std::size_t>(info.batch());
    Gaps gaps;
    for (std::size_t first = 0; first < count; ++first) {
      for (std::size_t place = 0; place < places; ++place) {
        const Picture& shown = test.pictures[(first + place) % count];
        session.prepare({shown.pixels.data(), shown.width, shown.height}, static_cast<int>(place));
      }
      session.run();
      for (std::size_t place = 0; place < places; ++place) {
        const Answers have = answers_of(session.outputs(), info.head, place);
        compare(test.answers[(first + place) % count], have, info, test.precision, gaps);
      }
    }
    std::string sentence;
    found.role = worst(gaps, test.bounds, sentence);
    found.state = found.role.empty() ? Verification::State::passed : Verification::State::failed;
    found.milliseconds =
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    found.message = found.role.empty() ? folder + ": " + std::to_string(count) + " pictures are answered as they must be"
                                       : folder + ": fails its self-test: " + sentence +
                                             "; run `edgekit verify` on this machine to be told the cause";
  } catch (const json::Malformed&) {
    throw Error(Error::Kind::input, folder + "/" + document_name + ": not valid JSON; rebuild the bundle");
  } catch (const Invalid& error) {
    throw Error(Error::Kind::input,
                folder + "/" + document_name + ": not a valid self-test (" + error.what() + "); rebuild the bundle");
  }
  return found;
}

}  // namespace edgekit::detail
