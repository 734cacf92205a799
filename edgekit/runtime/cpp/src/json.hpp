// A strict JSON reader for manifests: bounded depth, valid UTF-8, nothing after the value. No writer, no options.
//
//   json::Value root = json::parse(text);          // throws json::Malformed
//   const json::Value* schema = root.find("schema");
//
// It takes what Python's json takes (also NaN and Infinity, and of equal keys the last), so both refuse the same files.
#ifndef EDGEKIT_JSON_HPP
#define EDGEKIT_JSON_HPP

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgekit::json {

constexpr int deepest = 200;

struct Malformed : std::runtime_error {
  Malformed() : std::runtime_error("not valid JSON") {}
};

enum class Type { null, boolean, integer, real, text, list, object };

struct Value {
  Type type = Type::null;
  bool truth = false;
  double number = 0;
  std::int64_t whole = 0;  // of an integer that fits 64 bits, else the nearest end of the range
  std::string text;        // of a string, or an integer as it was written
  std::vector<Value> items;
  std::vector<std::pair<std::string, Value>> members;

  bool is(Type wanted) const { return type == wanted; }
  const Value* find(const std::string& key) const {
    for (const auto& member : members)
      if (member.first == key) return &member.second;
    return nullptr;
  }
  // A member of this type.
  const Value* find(const std::string& key, Type wanted) const {
    const Value* found = find(key);
    return found != nullptr && found->is(wanted) ? found : nullptr;
  }
};

Value parse(const std::string& text);

// What is in a file of at most so many bytes, which is to be of a kind ("a manifest"). Throws Error, with the advice.
Value read(const std::string& path, std::uintmax_t most_bytes, const std::string& kind, const std::string& advice);

// For error messages: text in quotes, its control characters as question marks; any value, an object by its type.
std::string quoted(const std::string& text);
std::string shown(const Value& value);

}  // namespace edgekit::json

#endif
