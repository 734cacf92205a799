// Follows edgekit/bundle/fleet.py: entries are tried in their order, those that this processor computes otherwise than
// they were judged once more at the end.
#include "index.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <ios>
#include <vector>

#include "json.hpp"
#include "manifest.hpp"
#include "processor.hpp"
#include "sha256.hpp"

namespace edgekit::detail {
namespace {

namespace fs = std::filesystem;
using json::Type;
using json::Value;

constexpr std::uintmax_t most_bytes = 4U << 20U;
constexpr std::size_t most_bundles = 1000;
constexpr int index_schema = 1;
constexpr const char* advice = "write an index with: edgekit index OUT.json BUNDLE...";

struct Entry {
  std::string path, sha256, target;
  bool gpu = false;
  std::string refused;  // why, once it was tried
};

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw Error(Error::Kind::input, path + ": " + what);
}

std::string text_of(const Value& row, const char* key) {
  const Value* found = row.find(key, Type::text);
  return found != nullptr ? found->text : "";
}

Entry read_entry(const std::string& path, std::size_t number, const Value& row) {
  Entry entry{text_of(row, "path"), text_of(row, "sha256"), text_of(row, "target"), false, ""};
  if (entry.path.empty() || entry.sha256.empty() || entry.target.empty())
    fail(path, "bundles[" + std::to_string(number) + "] must have path, sha256 and target; write the index again");
  const fs::path pure(entry.path);
  const bool odd = entry.path.find_first_of(std::string("\\:\0", 3)) != std::string::npos;
  if (odd || pure.is_absolute() || std::find(pure.begin(), pure.end(), "..") != pure.end())
    throw Error(Error::Kind::unsafe, path + ": it lists " + json::quoted(entry.path) +
                                         ", which is outside its folder; write the index again");
  const Value* gpu = row.find("gpu", Type::boolean);
  entry.gpu = gpu != nullptr && gpu->truth;
  return entry;
}

std::vector<Entry> read_index(const std::string& path) {
  const Value root = json::read(path, most_bytes, "an index", advice);
  if (text_of(root, "kind") != "edgekit-index") fail(path, std::string("is no index of bundles; ") + advice);
  const Value* schema = root.find("schema", Type::integer);
  if (schema == nullptr || schema->whole != index_schema)
    fail(path, "is an index of another schema, this edgekit reads " + std::to_string(index_schema) + "; upgrade edgekit");
  const Value* rows = root.find("bundles", Type::list);
  if (rows == nullptr || rows->items.empty() || rows->items.size() > most_bundles)
    fail(path, "lists no bundles, or more than " + std::to_string(most_bundles) + "; write the index again");
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < rows->items.size(); ++i) entries.push_back(read_entry(path, i, rows->items[i]));
  return entries;
}

bool begins(std::string word, const char* with) {
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return word.rfind(with, 0) == 0;
}

// Why a bundle does not run here, as far as can be told without opening it, or nothing.
std::string preflight(const std::string& folder, const Entry& entry, const std::string& device, bool otherwise) {
  std::error_code failed;
  const std::string manifest = join(folder, "manifest.json");
  if (!fs::is_regular_file(manifest, failed)) return "it is not there";
  if (!device.empty() && (entry.gpu ? is_cpu(device) : begins(device, "cuda")))
    return "it does not run on " + device;
  try {
    if (sha256_file(manifest) != entry.sha256)
      return "its manifest is not the one that was indexed (its hash differs)";
  } catch (const std::ios_base::failure&) {
    return "its manifest cannot be read";
  }
  const Info info = read_manifest(folder, false);
  if (info.target != entry.target) return "it is built for another target than the index says";
  return otherwise ? "" : remark(info, device);
}

std::string listed(const std::vector<Entry>& entries, const std::string& before) {
  std::string said;
  for (const Entry& entry : entries)
    if (!entry.refused.empty()) said += "; " + before + entry.path + ": " + entry.refused;
  return said;
}

}  // namespace

bool is_index(const std::string& path) {
  std::error_code failed;
  std::string ending = fs::path(path).extension().string();
  return begins(ending, ".json") && ending.size() == 5 && fs::is_regular_file(path, failed);
}

Opened open_first(const std::string& path, const Settings& settings, const std::function<Opened(const std::string&)>& open,
                  std::string& why) {
  std::vector<Entry> entries = read_index(path);
  for (const bool otherwise : {false, true}) {
    for (Entry& entry : entries) {
      const std::string folder = (fs::path(path).parent_path() / entry.path).string();
      try {
        std::string reason = preflight(folder, entry, settings.device, otherwise);
        if (reason.empty()) {
          // The second time only those are left that are computed otherwise here; all else is refused as before.
          if (otherwise && preflight(folder, entry, settings.device, false).empty()) continue;
          Opened opened = open(folder);
          entry.refused.clear();
          why = entry.path + " (" + entry.target + ") is the first that runs here" + listed(entries, "not ");
          return opened;
        }
        entry.refused = reason;
      } catch (const Error& error) {
        const std::string said = error.what(), before = folder + ": ";
        entry.refused = said.rfind(before, 0) == 0 ? said.substr(before.size()) : said;
      }
    }
  }
  fail(path, "none of its " + std::to_string(entries.size()) + " bundles runs here" + listed(entries, ""));
}

}  // namespace edgekit::detail
