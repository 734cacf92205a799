#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <sstream>

#include "json.hpp"
#include "sha256.hpp"

namespace edgekit {
namespace {

namespace fs = std::filesystem;
using json::Type;
using json::Value;

constexpr const char* roles =
    "boxes rotated_boxes scores labels mask_coefficients mask_prototypes keypoints class_probabilities";
constexpr std::size_t role_count = 8;
constexpr const char* dtypes = "float32 float16 int64 int32 uint8 int8";
constexpr std::uintmax_t most_bytes = 32U << 20U;
constexpr double most_elements = 2147483648.0;
constexpr std::size_t most_names = 65536;
constexpr std::size_t most_shapes = 16;

std::string with_commas(std::string words) {
  for (std::size_t at = 0; (at = words.find(' ', at)) != std::string::npos; at += 2) words.replace(at, 1, ", ");
  return words;
}

// A shape or type that Python's constructors would stumble over.
struct Invalid : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Check {
 public:
  // `shape`: of a further input size, what it has of its own.
  Check(const fs::path& folder, const Value& root, const Value* shape = nullptr)
      : where_((folder / "manifest.json").string()), root_(root), shape_(shape) {}

  Info info() const {
    try {
      return build();
    } catch (const Invalid& error) {
      throw Error(Error::Kind::input, where_ + ": not a valid manifest (" + error.what() + "); rebuild the bundle");
    }
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Error::Kind::input, where_ + ": " + what + "; rebuild the bundle");
  }

  const Value& get(const char* key) const {
    static const Value null;
    const bool own = shape_ != nullptr && one_of(key, "imgsz inputs outputs candidates");
    const Value* found = own ? shape_->find(key) : root_.find(key);
    if (own && found == nullptr && !one_of(key, "candidates")) found = root_.find(key);
    return found == nullptr ? null : *found;
  }

  // Members of a record: none unknown, none missing.
  void members(const Value& value, const char* record, const char* known, const char* needed) const {
    if (!value.is(Type::object)) throw Invalid(std::string(record) + " is not an object");
    std::vector<std::string> unknown;
    for (const auto& member : value.members)
      if (!one_of(member.first, known)) unknown.push_back(member.first);
    if (!unknown.empty())
      fail(std::string(record) + " has no field " + json::quoted(*std::min_element(unknown.begin(), unknown.end())) +
           "; was it written by a newer edgekit?");
    std::istringstream words(needed);
    for (std::string word; words >> word;)
      if (value.find(word) == nullptr) fail(std::string(record) + " lacks the field " + json::quoted(word));
  }

  const std::vector<Value>& ports(const char* key) const {
    const Value& list = get(key);
    if (!list.is(Type::list)) throw Invalid(std::string(key) + " is not a list");
    for (const Value& port : list.items) members(port, "Port", "name role shape dtype", "name role shape");
    return list.items;
  }

  // Of schemas before 3, which spelt two keys otherwise: licence, colour.
  bool older() const { return root_.find("schema")->whole < 3; }

  Info build() const {
    const auto& inputs = ports("inputs");
    const auto& outputs = ports("outputs");
    const Value& preprocess = get("preprocess");
    members(preprocess, "Preprocess", older() ? "mode fill colour scale" : "mode fill color scale", "");
    spec();
    for (const Value& port : outputs) role(port);
    Info info;
    sizes(info);
    ports_agree(inputs, outputs);
    for (const Value& port : inputs) info.inputs.push_back(read(port));
    for (const Value& port : outputs) info.outputs.push_back(read(port));
    const auto& shape = info.inputs[0].shape;
    const std::size_t side = info.takes_pixels() ? 1 : 2;  // where the height stands
    if (shape.size() != 4 || shape[side] != info.height || shape[side + 1] != info.width ||
        (info.takes_pixels() && shape[3] != 3))
      fail("the input's shape " + json::shown(*inputs[0].find("shape")) + " does not agree with imgsz " +
           json::shown(get("imgsz")));
    prepared(preprocess, info);
    kept(info);
    info.target = get("target").text;
    const Value& license = get(older() ? "licence" : "license");
    if (license.is(Type::text)) info.license = license.text;
    const Value* quantization = root_.find("quantization", Type::object);
    const Value* bits = quantization != nullptr ? quantization->find("weight_bits") : nullptr;
    if (bits != nullptr && whole(*bits, 1, 32)) info.weight_bits = static_cast<int>(bits->whole);
    return info;
  }

  void spec() const {
    const Value& spec = get("spec");
    const bool empty = spec.is(Type::null) || (spec.is(Type::object) && spec.members.empty()) ||
                       (spec.is(Type::list) && spec.items.empty()) || (spec.is(Type::boolean) && !spec.truth);
    if (empty) return;
    constexpr const char* needed =
        "name task scale family depth width max_channels mlp_ratio residual areas stem_groups classes";
    members(spec, "ModelSpec", (std::string(needed) + " keypoint_shape activation norm_eps norm_momentum").c_str(),
            needed);
  }

  void role(const Value& port) const {
    const Value& role = *port.find("role");
    if (!role.is(Type::text) || !one_of(role.text, roles))
      fail("output " + json::shown(*port.find("name")) + " has the unknown role " + json::shown(role) +
           "; known: " + with_commas(roles));
  }

  static bool whole(const Value& value, std::int64_t least, std::int64_t most) {
    return value.is(Type::integer) && value.whole >= least && value.whole <= most;
  }

  // task, imgsz, head and names
  void sizes(Info& info) const {
    const Value& sides = get("imgsz");
    if (!sides.is(Type::list) || sides.items.size() != 2 || !whole(sides.items[0], 1, 1 << 14) ||
        !whole(sides.items[1], 1, 1 << 14))
      fail("imgsz " + json::shown(sides) + " is not [height, width] in pixels");
    info.height = static_cast<int>(sides.items[0].whole);
    info.width = static_cast<int>(sides.items[1].whole);
    const Value& head = get("head");
    if (!head.is(Type::text) || !one_of(head.text, "raw topk nms"))
      fail("head " + json::shown(head) + " is none of raw, topk, nms");
    info.head = head.text;
    if (!get("task").is(Type::text)) fail("task is not a name");
    info.task = get("task").text;
    const Value& names = get("names");
    const auto text = [](const Value& name) { return name.is(Type::text); };
    if (!names.is(Type::list) || names.items.empty() || names.items.size() > most_names ||
        !std::all_of(names.items.begin(), names.items.end(), text))
      fail("names is not a list of class names");
    for (const Value& name : names.items) info.names.push_back(name.text);
  }

  void ports_agree(const std::vector<Value>& inputs, const std::vector<Value>& outputs) const {
    if (inputs.size() != 1 || outputs.empty() || outputs.size() > role_count)
      fail(std::to_string(inputs.size()) + " inputs and " + std::to_string(outputs.size()) +
           " outputs; one input and one output a role are needed");
    std::string twice;
    std::ptrdiff_t most = 1;
    for (const Value& port : outputs) {
      const auto same = [&port](const Value& other) { return other.find("role")->text == port.find("role")->text; };
      const auto count = std::count_if(outputs.begin(), outputs.end(), same);
      if (count > most) {
        most = count;
        twice = port.find("role")->text;
      }
    }
    if (most > 1) fail("the role " + json::quoted(twice) + " is given twice");
  }

  Port read(const Value& given) const {
    const Value &name = *given.find("name"), &dims = *given.find("shape");
    const Value* dtype = given.find("dtype");
    Port port;
    port.dtype = dtype == nullptr ? "float32" : dtype->is(Type::text) ? dtype->text : "";
    if (!name.is(Type::text) || !one_of(port.dtype, dtypes) || !dims.is(Type::list))
      fail("the port " + json::shown(name) + " is not described as name, role, shape and dtype");
    port.name = name.text;
    port.role = given.find("role")->text;
    double elements = 1;
    const auto fits = [](const Value& dim) { return dim.is(Type::null) || whole(dim, 1, 1 << 24); };
    if (dims.items.empty() || dims.items.size() > 5 || !std::all_of(dims.items.begin(), dims.items.end(), fits))
      fail("the port " + json::shown(name) + " has the shape " + json::shown(dims));
    for (const Value& dim : dims.items) {
      port.shape.push_back(dim.is(Type::null) ? -1 : dim.whole);
      elements *= dim.is(Type::null) ? 1.0 : static_cast<double>(dim.whole);
    }
    if (elements > most_elements)
      fail("the port " + json::shown(name) + " has an absurd shape, " + json::shown(dims));
    return port;
  }

  void prepared(const Value& given, Info& info) const {
    const bool pixels = info.takes_pixels();
    const char* order = pixels ? "BGR" : "RGB";
    const Value *mode = given.find("mode"), *fill = given.find("fill"), *color = given.find(older() ? "colour" : "color"),
                *scale = given.find("scale");
    const bool known = (mode == nullptr || (mode->is(Type::text) && one_of(mode->text, "letterbox centre_crop"))) &&
                       (fill == nullptr || whole(*fill, 0, 255)) &&
                       (color == nullptr ? !pixels : color->is(Type::text) && color->text == order);
    if (!known)
      fail("preprocess " + (mode == nullptr ? "'letterbox'" : json::shown(*mode)) + ", fill " +
           (fill == nullptr ? "114" : json::shown(*fill)) + ", color " +
           (color == nullptr ? "'RGB'" : json::shown(*color)) + " is not something edgekit does");
    if (mode != nullptr) info.mode = mode->text;
    if (fill != nullptr) info.fill = static_cast<int>(fill->whole);
    if (scale == nullptr && pixels) fail("preprocess scale 0.00392156862745098 is not 1, as it must be for pixels");
    if (scale == nullptr) return;
    const bool number = scale->is(Type::integer) || scale->is(Type::real);
    if (!number || !std::isfinite(scale->number) || scale->number <= 0)
      fail("preprocess scale " + json::shown(*scale) + " is not a positive number");
    info.scale = scale->number;
    if (pixels && info.scale != 1)
      fail("preprocess scale " + json::shown(*scale) + " is not 1, as it must be for pixels");
  }

  // Candidates of the head; where an older topk bundle does not say how many, its scores have so many.
  void kept(Info& info) const {
    const Value& given = get("candidates");
    if (!given.is(Type::null)) {
      if (!whole(given, 1, 1 << 24)) fail("candidates " + json::shown(given) + " is no number of candidates");
      info.candidates = static_cast<int>(given.whole);
      return;
    }
    for (const Port& port : info.outputs)
      if (info.head == "topk" && port.role == "scores" && port.shape.size() == 2 && port.shape[1] > 0)
        info.candidates = static_cast<int>(port.shape[1]);
  }

  std::string where_;
  const Value& root_;
  const Value* shape_;
};

// Further input sizes: the same model but for its ports and their sizes.
std::vector<Info> shapes_of(const fs::path& folder, const Value& root, const Info& first) {
  std::vector<Info> shapes;
  const std::string where = (folder / "manifest.json").string();
  const auto fail = [&where](const std::string& what) {
    throw Error(Error::Kind::input, where + ": " + what + "; rebuild the bundle");
  };
  const Value* list = root.find("shapes");
  if (list == nullptr || list->is(Type::null)) return shapes;
  const auto object = [](const Value& entry) { return entry.is(Type::object); };
  if (!list->is(Type::list) || list->items.size() > most_shapes ||
      !std::all_of(list->items.begin(), list->items.end(), object))
    fail("shapes is not a list of at most " + std::to_string(most_shapes) + " input sizes");
  for (const Value& entry : list->items) {
    Info info = Check(folder, root, &entry).info();
    const std::string size = "[" + std::to_string(info.height) + ", " + std::to_string(info.width) + "]";
    if (info.inputs[0].dtype != first.inputs[0].dtype || info.inputs[0].shape[0] != first.inputs[0].shape[0])
      fail("the shape " + size + " takes another type or batch");
    const Value* file = entry.find("file", Type::text);
    if (file == nullptr || root.find("files")->find(file->text) == nullptr)
      fail("the shape " + size + " names no file of the bundle");
    info.file = file->text;
    shapes.push_back(std::move(info));
  }
  return shapes;
}

Value read_document(const fs::path& folder) {
  const fs::path where = folder / "manifest.json";
  const auto fail = [&where](const std::string& what) {
    throw Error(Error::Kind::input, where.string() + ": " + what);
  };
  std::error_code failed;
  if (!fs::is_regular_file(where, failed))
    throw Error(
        Error::Kind::input,
        folder.string() + ": not a bundle (no manifest.json); make one with: edgekit build MODEL --target T --out DIR");
  Value root = json::read(where.string(), most_bytes, "a manifest", "rebuild the bundle");
  const Value* schema = root.find("schema", Type::integer);
  if (schema == nullptr || schema->whole < 1)
    fail("no schema number, so not an edgekit manifest; rebuild the bundle");
  if (schema->whole > newest_schema)
    fail("bundle schema " + schema->text + ", but this edgekit reads up to " + std::to_string(newest_schema) +
         "; upgrade edgekit");
  if (root.find("target", Type::text) == nullptr || root.find("files", Type::object) == nullptr)
    fail("it lacks 'target' or 'files'; rebuild the bundle");
  return root;
}

bool is_inside(const fs::path& root, const fs::path& path) {
  const auto [end, rest] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return end == root.end();
}

void check_files(const fs::path& folder, const Value& files, bool verify) {
  std::error_code failed;
  const fs::path root = fs::weakly_canonical(folder, failed);
  for (const auto& [name, digest] : files.members) {
    const fs::path pure(name);
    bool outside =
        failed || pure.is_absolute() || name.find('\\') != std::string::npos || name.find('\0') != std::string::npos;
    for (const fs::path& part : pure) outside = outside || part == "..";
    const fs::path inside = outside ? root : fs::weakly_canonical(root / pure, failed);
    if (outside || failed || !is_inside(root, inside))
      throw Error(Error::Kind::unsafe, (folder / "manifest.json").string() + ": it lists " + json::quoted(name) +
                                           ", which is outside the bundle; rebuild it");
    if (!fs::is_regular_file(inside, failed))
      throw Error(Error::Kind::gate, folder.string() + ": the bundle's file " + json::quoted(name) +
                                         " is missing; rebuild or copy the bundle again");
    bool same = !verify;
    try {
      same = same || (digest.is(Type::text) && sha256_file(inside.string()) == digest.text);
    } catch (const std::ios_base::failure&) {
      same = false;
    }
    if (!same)
      throw Error(Error::Kind::gate, folder.string() + ": " + json::quoted(name) +
                                         " is not the file the bundle was built with (its hash differs); "
                                         "rebuild or copy the bundle again");
  }
}

}  // namespace

bool one_of(const std::string& word, const char* words) {
  std::istringstream list(words);
  for (std::string each; list >> each;)
    if (each == word) return true;
  return false;
}

Info read_manifest(const std::string& folder, bool verify) {
  // As Python writes a path: no slash at the end.
  fs::path path(folder);
  if (!path.has_filename() && path.has_relative_path()) path = path.parent_path();
  const Value root = read_document(path);
  Info info = Check(path, root).info();
  info.shapes = shapes_of(path, root, info);
  check_files(path, *root.find("files"), verify);
  return info;
}

}  // namespace edgekit
