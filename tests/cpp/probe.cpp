// Answers questions from tests/test_cpp.py: a line of words in (apart by tabs), a line of JSON out.
//
//   read FOLDER                                            the manifest
//   open FOLDER                                            the model, kept for predict
//   load FOLDER THREADS                                    the same with so many CPU threads
//   settings FOLDER DEVICE THREADS                         whether it opens so
//   said FOLDER PIXELS W H CHANNELS STRIDE [option=value ...]     what two predictions warn of
//   why INDEX [DEVICE]                                     which bundle of it is opened, and why
//   warnings FOLDER DEVICE                                 what opening it warns of
//   verify FOLDER                                          what the bundle's self-test finds
//   predict FOLDER PIXELS W H CHANNELS STRIDE [option=value ...]
//   prepare FOLDER PIXELS W H CHANNELS STRIDE OUT          the tensor in the file OUT
//   post HEAD[/CANDIDATES] CLASSES H W GEOMETRY ROLE:SHAPE:FILE,... [option=value ...]
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>

#include "edgekit/edgekit.hpp"

namespace {

using Words = std::vector<std::string>;

Words split(const std::string& text, char by) {
  Words words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, by);) words.push_back(word);
  return words;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void put(std::ostream& out, const char* key, const float* values, std::size_t count, std::size_t width) {
  out << ", \"" << key << "\": [";
  for (std::size_t i = 0; i < count; ++i) {
    if (width > 1) out << (i > 0 ? ", [" : "[");
    for (std::size_t k = 0; k < width; ++k)
      out << (k > 0 || (width == 1 && i > 0) ? ", " : "") << values[i * width + k];
    if (width > 1) out << ']';
  }
  out << ']';
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string shown(const edgekit::Result& result, const std::vector<std::string>& sentences = {}) {
  std::ostringstream out;
  out.precision(9);
  const std::size_t count = result.labels.size();
  out << "{\"shape\": [" << result.height << ", " << result.width << "]";
  put(out, "boxes", count > 0 && !result.boxes.empty() ? &result.boxes[0].x1 : nullptr, result.boxes.size(), 4);
  put(out, "rotated_boxes", result.rotated_boxes.empty() ? nullptr : &result.rotated_boxes[0].x,
      result.rotated_boxes.size(), 5);
  put(out, "scores", result.scores.data(), count, 1);
  put(out, "keypoints", result.keypoints.empty() ? nullptr : &result.keypoints[0].x, result.keypoints.size(), 3);
  put(out, "probs", result.probabilities.data(), result.probabilities.size(), 1);
  out << ", \"points\": " << result.points << ", \"labels\": [";
  for (std::size_t i = 0; i < count; ++i) out << (i > 0 ? ", " : "") << result.labels[i];
  out << "], \"masks\": [";
  for (std::size_t i = 0; i < result.masks.size(); ++i) {
    const edgekit::Mask& mask = result.masks[i];
    out << (i > 0 ? ", [" : "[") << mask.left << ", " << mask.top << ", " << mask.width << ", " << mask.height
        << ", \"";
    for (const auto pixel : mask.pixels) out << static_cast<char>('0' + pixel);
    out << "\"]";
  }
  out << "], \"truncated\": [" << (result.truncated_by_candidates ? "\"candidates\"" : "")
      << (result.truncated_by_candidates && result.truncated_by_max_det ? ", " : "")
      << (result.truncated_by_max_det ? "\"max_det\"" : "") << "], \"sentences\": [";
  for (std::size_t i = 0; i < sentences.size(); ++i) out << (i > 0 ? ", " : "") << quoted(sentences[i]);
  const auto& t = result.times;
  out << "], \"times\": [" << t.pre << ", " << t.network << ", " << t.post << ", " << t.whole << "]}";
  return out.str();
}

edgekit::Options options_of(const Words& words, std::size_t from) {
  edgekit::Options options;
  for (std::size_t i = from; i < words.size(); ++i) {
    const std::size_t at = words[i].find('=');
    const std::string key = words[i].substr(0, at), value = words[i].substr(at + 1);
    if (key == "conf") options.conf = std::stof(value);
    if (key == "iou") options.iou = std::stof(value);
    if (key == "max_det") options.max_det = std::stoi(value);
    if (key == "agnostic") options.agnostic = value == "True";
    if (key == "multi_label") options.multi_label = value == "True";
    if (key == "clip") options.clip = value == "True";
    if (key == "classes")
      for (const std::string& label : split(value, '+')) options.classes.push_back(std::stoi(label));
  }
  return options;
}

class Probe {
 public:
  std::string answer(const Words& words) {
    const std::string& verb = words.at(0);
    if (verb == "backends") return quoted(edgekit::backends().empty() ? "" : edgekit::backends()[0]);
    if (verb == "read") return described(edgekit::read_bundle(words.at(1)));
    if (verb == "open") return described(session(words.at(1)).info());
    if (verb == "settings" || verb == "load") {
      edgekit::Settings settings;
      settings.device = verb == "load" ? "" : words.at(2);
      settings.threads = std::stoi(words.back());
      const edgekit::Model model(words.at(1), settings);
      if (verb == "load") sessions_.emplace(words.at(1), model.session());
      return described(model.info());
    }
    if (verb == "why") {
      edgekit::Settings settings;
      settings.device = words.size() > 2 ? words[2] : "";
      return quoted(edgekit::Model(words.at(1), settings).why());
    }
    if (verb == "warnings") {
      edgekit::Settings settings;
      settings.device = words.at(2);
      std::string said;
      settings.warn = [&said](const std::string& sentence) { said += sentence; };
      const edgekit::Model model(words.at(1), settings);
      return quoted(said);
    }
    if (verb == "predict") {
      const std::string pixels = read_file(words.at(2));
      session(words.at(1)).predict(image(words, pixels), options_of(words, 7), result_);
      return shown(result_);
    }
    if (verb == "verify") {
      const edgekit::Verification found = edgekit::Model(words.at(1)).verify();
      return "{\"state\": " + std::to_string(static_cast<int>(found.state)) + ", \"role\": " + quoted(found.role) +
             ", \"message\": " + quoted(found.message) + "}";
    }
    if (verb == "said") return said(words);
    if (verb == "prepare") return prepare(words);
    if (verb == "post") return post(words);
    return "null";
  }

 private:
  static std::string described(const edgekit::Info& info) {
    return "{\"task\": " + quoted(info.task) + ", \"target\": " + quoted(info.target) +
           ", \"names\": " + std::to_string(info.names.size()) + "}";
  }

  edgekit::Session& session(const std::string& folder) {
    auto found = sessions_.find(folder);
    if (found == sessions_.end()) found = sessions_.emplace(folder, edgekit::Model(folder).session()).first;
    return found->second;
  }

  static edgekit::Image image(const Words& words, const std::string& pixels) {
    return {pixels.empty() ? nullptr : reinterpret_cast<const std::uint8_t*>(pixels.data()), std::stoi(words.at(3)),
            std::stoi(words.at(4)), std::stoi(words.at(5)), std::stol(words.at(6))};
  }

  static std::string said(const Words& words) {
    edgekit::Settings settings;
    std::string all;
    settings.warn = [&all](const std::string& sentence) { all += (all.empty() ? "" : ", ") + quoted(sentence); };
    const std::string pixels = read_file(words.at(2));
    edgekit::Session session = edgekit::Model(words.at(1), settings).session();
    session.predict(image(words, pixels), options_of(words, 7));
    session.predict(image(words, pixels), options_of(words, 7));
    return "[" + all + "]";
  }

  template <class Value>
  static edgekit::Geometry written(const edgekit::Image& image, const edgekit::Info& info, const std::string& path) {
    std::vector<Value> tensor(3U * static_cast<std::size_t>(info.height) * static_cast<std::size_t>(info.width));
    const edgekit::Geometry g = edgekit::prepare(image, info, tensor.data());
    const auto size = static_cast<std::streamsize>(sizeof(Value) * tensor.size());
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(tensor.data()), size);
    return g;
  }

  static std::string prepare(const Words& words) {
    const edgekit::Info info = edgekit::read_bundle(words.at(1));
    const std::string pixels = read_file(words.at(2));
    const edgekit::Geometry g = info.takes_pixels() ? written<std::uint8_t>(image(words, pixels), info, words.at(7))
                                                    : written<float>(image(words, pixels), info, words.at(7));
    std::ostringstream out;
    out.precision(17);
    out << '[' << g.height << ", " << g.width << ", " << g.scale_x << ", " << g.scale_y << ", " << g.left << ", "
        << g.top << ']';
    return out.str();
  }

  static std::string post(const Words& words) {
    edgekit::Info info;
    const Words form = split(words.at(1), '/');
    info.head = form.at(0);
    if (form.size() > 1) info.candidates = std::stoi(form[1]);
    info.names.resize(std::stoul(words.at(2)));
    info.height = std::stoi(words.at(3));
    info.width = std::stoi(words.at(4));
    const Words g = split(words.at(5), ',');
    const edgekit::Geometry geometry = {std::stoi(g.at(0)), std::stoi(g.at(1)), std::stod(g.at(2)),
                                        std::stod(g.at(3)), std::stod(g.at(4)), std::stod(g.at(5))};
    std::vector<edgekit::Tensor> outputs;
    std::vector<std::vector<float>> memory;
    for (const std::string& text : split(words.at(6), ',')) {
      const Words parts = split(text, ':');
      edgekit::Tensor tensor;
      tensor.role = parts.at(0);
      for (const std::string& side : split(parts.at(1), 'x')) tensor.shape.push_back(std::stol(side));
      const std::string bytes = read_file(parts.at(2));
      memory.emplace_back(bytes.size() / 4 + 1);
      std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(memory.back().data()));
      tensor.data = memory.back().data();
      outputs.push_back(tensor);
    }
    const edgekit::Options options = options_of(words, 7);
    const edgekit::Result result = edgekit::postprocess(outputs, info, geometry, options);
    return shown(result, edgekit::truncation(result, info, options));
  }

  std::map<std::string, edgekit::Session> sessions_;
  edgekit::Result result_;
};

}  // namespace

int main() {
  Probe probe;
  for (std::string line; std::getline(std::cin, line);) {
    try {
      const std::string answer = probe.answer(split(line, '\t'));
      std::cout << "{\"ok\": " << answer << "}" << std::endl;
    } catch (const edgekit::Error& error) {
      std::cout << "{\"error\": " << quoted(error.what()) << ", \"kind\": " << static_cast<int>(error.kind()) << "}"
                << std::endl;
    }
  }
}
