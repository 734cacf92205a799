#include "json.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <locale>
#include <sstream>

#include "edgekit/edgekit.hpp"

namespace edgekit::json {
namespace {

class Reader {
 public:
  explicit Reader(const std::string& text) : at_(text.data()), end_(text.data() + text.size()) {}

  Value document() {
    Value value = read(0);
    space();
    if (at_ != end_) throw Malformed();
    return value;
  }

 private:
  char peek() const { return at_ < end_ ? *at_ : '\0'; }

  void space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
  }

  bool take(const char* word) {
    const char* from = at_;
    for (; *word != '\0'; ++word, ++from)
      if (from >= end_ || *from != *word) return false;
    at_ = from;
    return true;
  }

  void expect(const char* word) {
    if (!take(word)) throw Malformed();
  }

  Value read(int depth) {
    if (depth > deepest || ++values_ > most_values) throw Malformed();
    space();
    Value value;
    switch (peek()) {
      case '{':
        object(value, depth);
        break;
      case '[':
        list(value, depth);
        break;
      case '"':
        value.type = Type::text;
        value.text = string();
        break;
      case 't':
      case 'f':
        value.type = Type::boolean;
        value.truth = peek() == 't';
        expect(value.truth ? "true" : "false");
        break;
      case 'n':
        expect("null");
        break;
      default:
        number(value);
    }
    return value;
  }

  void object(Value& value, int depth) {
    value.type = Type::object;
    expect("{");
    space();
    if (take("}")) return;
    do {
      space();
      std::string key = string();
      space();
      expect(":");
      Value member = read(depth + 1);
      bool known = false;
      for (auto& [name, held] : value.members)
        if (name == key) {
          held = std::move(member);
          known = true;
          break;
        }
      if (!known) {
        if (value.members.size() >= most_members) throw Malformed();
        value.members.emplace_back(std::move(key), std::move(member));
      }
      space();
    } while (take(","));
    expect("}");
  }

  void list(Value& value, int depth) {
    value.type = Type::list;
    expect("[");
    space();
    if (take("]")) return;
    do {
      value.items.push_back(read(depth + 1));
      space();
    } while (take(","));
    expect("]");
  }

  std::string string() {
    expect("\"");
    std::string text;
    while (true) {
      if (at_ >= end_) throw Malformed();
      const auto byte = static_cast<unsigned char>(*at_);
      if (byte == '"') break;
      if (byte < 0x20) throw Malformed();
      if (byte == '\\') {
        ++at_;
        escape(text);
      } else {
        utf8(text, byte);
      }
    }
    ++at_;
    return text;
  }

  void escape(std::string& text) {
    const char kind = peek();
    ++at_;
    switch (kind) {
      case '"':
      case '\\':
      case '/':
        text += kind;
        break;
      case 'b':
        text += '\b';
        break;
      case 'f':
        text += '\f';
        break;
      case 'n':
        text += '\n';
        break;
      case 'r':
        text += '\r';
        break;
      case 't':
        text += '\t';
        break;
      case 'u': {
        std::uint32_t code = hex4();
        if (code >= 0xD800 && code < 0xDC00 && end_ - at_ >= 6 && at_[0] == '\\' && at_[1] == 'u') {
          const char* before = at_;
          at_ += 2;
          const std::uint32_t low = hex4();
          if (low >= 0xDC00 && low < 0xE000)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          else
            at_ = before;  // a lone half, as Python lets it stand
        }
        encode(text, code);
        break;
      }
      default:
        throw Malformed();
    }
  }

  std::uint32_t hex4() {
    if (end_ - at_ < 4) throw Malformed();
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = *at_++;
      std::uint32_t digit = 0;
      if (c >= '0' && c <= '9')
        digit = static_cast<std::uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<std::uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<std::uint32_t>(c - 'A' + 10);
      else
        throw Malformed();
      code = code * 16 + digit;
    }
    return code;
  }

  static void encode(std::string& text, std::uint32_t code) {
    const auto put = [&text](std::uint32_t byte) { text += static_cast<char>(static_cast<unsigned char>(byte)); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | (code >> 6));
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | (code >> 12));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | (code >> 18));
      put(0x80 | ((code >> 12) & 0x3F));
      put(0x80 | ((code >> 6) & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  // One character, refused where it is not UTF-8: overlong, a surrogate, beyond U+10FFFF or cut short.
  void utf8(std::string& text, unsigned char first) {
    const int length = first < 0x80                    ? 1
                       : first >= 0xC2 && first < 0xE0 ? 2
                       : first >= 0xE0 && first < 0xF0 ? 3
                       : first >= 0xF0 && first < 0xF5 ? 4
                                                       : 0;
    if (length == 0 || end_ - at_ < length) throw Malformed();
    for (int i = 1; i < length; ++i)
      if ((static_cast<unsigned char>(at_[i]) & 0xC0U) != 0x80U) throw Malformed();
    const unsigned second = length > 1 ? static_cast<unsigned char>(at_[1]) : 0U;
    if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) || (first == 0xF0 && second < 0x90) ||
        (first == 0xF4 && second > 0x8F))
      throw Malformed();
    text.append(at_, static_cast<std::size_t>(length));
    at_ += length;
  }

  bool digits() {
    const char* from = at_;
    while (at_ < end_ && *at_ >= '0' && *at_ <= '9') ++at_;
    return at_ > from;
  }

  void number(Value& value) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    value.type = Type::real;
    if (take("NaN")) {
      value.number = std::numeric_limits<double>::quiet_NaN();
      return;
    }
    const char* from = at_;
    const bool negative = take("-");
    if (take("Infinity")) {
      value.number = negative ? -infinity : infinity;
      return;
    }
    if (peek() == '0')
      ++at_;
    else if (!digits())
      throw Malformed();
    bool integer = true;
    if (peek() == '.') {
      integer = false;
      ++at_;
      if (!digits()) throw Malformed();
    }
    if (peek() == 'e' || peek() == 'E') {
      integer = false;
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) throw Malformed();
    }
    value.text.assign(from, at_);
    if (value.text.size() > longest_number) throw Malformed();
    std::istringstream stream(value.text);
    stream.imbue(std::locale::classic());  // the program's locale may write 0,5
    stream >> value.number;
    if (stream.fail() && std::fabs(value.number) > 1) value.number = negative ? -infinity : infinity;
    if (integer) {
      value.type = Type::integer;
      whole(value, negative);
    }
  }

  static void whole(Value& value, bool negative) {
    constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
    std::int64_t sum = 0;
    for (const char c : value.text) {
      if (c == '-') continue;
      const std::int64_t digit = c - '0';
      sum = sum > (most - digit) / 10 ? most : sum * 10 + digit;
    }
    value.whole = negative ? -sum : sum;
  }

  static constexpr std::size_t most_members = 20000;   // looked through one by one
  static constexpr std::size_t most_values = 1000000;  // each takes a hundred bytes
  static constexpr std::size_t longest_number = 4300;  // digits; Python's own limit
  const char* at_;
  const char* end_;
  std::size_t values_ = 0;
};

}  // namespace

Value parse(const std::string& text) { return Reader(text).document(); }

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return out + "'";
}

Value read(const std::string& path, std::uintmax_t most_bytes, const std::string& kind, const std::string& advice) {
  const auto fail = [&path](const std::string& what) { throw Error(Error::Kind::input, path + ": " + what); };
  std::error_code failed;
  const std::uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) fail("cannot be read");
  if (size > most_bytes) fail(std::to_string(size) + " bytes is more than " + kind + " can be; " + advice);
  std::ifstream file(path, std::ios::binary);
  try {
    return parse({std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()});
  } catch (const Malformed&) {
    throw Error(Error::Kind::input, path + ": not valid JSON; " + advice);
  }
}

std::string shown(const Value& value) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  switch (value.type) {
    case Type::null:
      return "null";
    case Type::boolean:
      return value.truth ? "true" : "false";
    case Type::integer:
      return value.text;
    case Type::real:
      out << value.number;
      return out.str();
    case Type::text:
      return quoted(value.text);
    case Type::list:
      for (const Value& item : value.items) out << (out.tellp() > 0 ? ", " : "") << shown(item);
      return "[" + out.str() + "]";
    case Type::object:
      return "an object";
  }
  return "";
}

}  // namespace edgekit::json
