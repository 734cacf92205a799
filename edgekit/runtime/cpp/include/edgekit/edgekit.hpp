// edgekit for C++17 applications: load a bundle, run it on images, get the results that Python gives.
//
//   edgekit::Model model("yolo12n-ov-fp16");              // checked and compiled once, shared by every thread
//   edgekit::Session session = model.session();           // one a thread
//   edgekit::Result found = session.predict({pixels, width, height});
//   for (std::size_t i = 0; i < found.boxes.size(); ++i) use(found.boxes[i], found.scores[i], found.labels[i]);
//
// Nothing is global, nothing but the sentences of Settings::warn is printed, everything is released with the object that
// owns it. What goes wrong is thrown as edgekit::Error with one sentence, the same as edgekit's Python says. The steps, each with its own reference in
// edgekit's Python: prepare() (edgekit/runtime/image.py), run() (edgekit/targets), postprocess()
// (edgekit/runtime/postprocess.py).
#ifndef EDGEKIT_EDGEKIT_HPP
#define EDGEKIT_EDGEKIT_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgekit {

// Everything edgekit foresaw; what() is the sentence for the user.
class Error : public std::runtime_error {
 public:
  enum class Kind {
    input = 1,  // a file or value that cannot be used
    usage,      // an option out of range
    missing,    // a backend that is not compiled in
    unsafe,     // a bundle that reaches outside its folder
    gate        // a file is missing from the bundle or was altered
  };
  Error(Kind kind, const std::string& sentence) : std::runtime_error(sentence), kind_(kind) {}
  Kind kind() const noexcept { return kind_; }

 private:
  Kind kind_;
};

// A look at somebody else's 8-bit pixels, copied nowhere. `channels`: 1 grey, 3 BGR, 4 BGRA (alpha is ignored).
struct Image {
  const std::uint8_t* data = nullptr;
  int width = 0;
  int height = 0;
  int channels = 3;
  std::ptrdiff_t stride = 0;  // bytes from one row to the next; 0: rows follow each other
};

// The look at a cv::Mat, or at anything with its members.
template <class Mat>
Image view(const Mat& mat) {
  if (mat.depth() != 0) throw Error(Error::Kind::input, "image: values of another type; give 8-bit (uint8) ones");
  return {mat.data, mat.cols, mat.rows, mat.channels(), static_cast<std::ptrdiff_t>(mat.step)};
}

// What to keep of what the model finds; as edgekit.runtime.postprocess.Options.
struct Options {
  float conf = 0.25F;        // scores must be above this, 0..1
  float iou = 0.7F;          // boxes of a class that overlap a better one by more go, 0..1
  int max_det = 300;         // most objects an image
  std::vector<int> classes;  // labels to keep; empty: all
  bool agnostic = false;     // let boxes of different classes suppress each other
  bool multi_label = false;  // let one anchor answer with every class above `conf`
  bool clip = true;          // cut boxes off at the image's edge
};

// How to open a model.
struct Settings {
  std::string device;  // as the backend knows it ("CPU", "GPU", "cuda:0"); empty: its default
  int threads = 0;     // CPU threads altogether; 0: the runtime's choice
  int streams = 0;     // images worked on at once (OpenVINO); 0: one, as fast as possible
  bool verify = true;  // compare every file's SHA-256 with the manifest's
  // Takes what is worth a warning, when the model is opened (edgekit/runtime/processor.py) or later, each once a model and perhaps
  // from another thread; empty: standard error.
  std::function<void(const std::string& sentence)> warn;
};

// One input or output of a model; a side of -1 is dynamic.
struct Port {
  std::string name, role, dtype;
  std::vector<std::int64_t> shape;
};

// What an application may want to know of a model: the manifest, checked.
struct Info {
  std::string task, target, head, license;
  int height = 0, width = 0;       // of the input
  std::vector<std::string> names;  // of the classes, in label order
  std::string mode = "letterbox";  // or "centre_crop"
  int fill = 114;                  // grey level of the padding
  double scale = 1.0 / 255;        // factor on 8-bit values
  int candidates = 0;              // that a topk or nms head keeps of an image before suppression; 0: not said
  int weight_bits = 0;             // of an INT8 model, where the manifest says it
  std::vector<Port> inputs, outputs;
  std::string file;          // of a further input size: the runtime's file in the bundle
  std::vector<Info> shapes;  // further input sizes of the bundle; an image goes where it is largest
  // Whether the input is canvases as they are, uint8 [batch, height, width, 3] BGR; else float32 planes, RGB.
  bool takes_pixels() const noexcept { return !inputs.empty() && inputs[0].dtype == "uint8"; }
  int batch() const noexcept {  // images a run takes
    return inputs.empty() || inputs[0].shape.empty() || inputs[0].shape[0] < 1 ? 1
                                                                               : static_cast<int>(inputs[0].shape[0]);
  }
};

// Where an image lies on the canvas the network sees: x_canvas = x * scale_x + left, and so down.
struct Geometry {
  int height = 0, width = 0;
  double scale_x = 1, scale_y = 1, left = 0, top = 0;
};

struct Box {
  float x1, y1, x2, y2;  // pixels of the original image
};
struct RotatedBox {
  float x, y, width, height, angle;  // centre, width >= height, radians in [-pi/2, pi/2), clockwise
};
struct Keypoint {
  float x, y, score;
};
struct Mask {  // the part of an instance mask that can hold anything; pixels are 0 or 1, row by row
  int left = 0, top = 0, width = 0, height = 0;
  std::vector<std::uint8_t> pixels;
};
struct Times {  // milliseconds of the run the image was in
  double pre = 0, network = 0, post = 0, whole = 0;
};

// The answer for one image. Rows belong together across the vectors, best score first; what the task lacks is empty.
struct Result {
  int height = 0, width = 0;
  std::vector<Box> boxes;
  std::vector<RotatedBox> rotated_boxes;
  std::vector<float> scores;
  std::vector<int> labels;
  std::vector<Keypoint> keypoints;  // `points` of each object in turn
  int points = 0;
  std::vector<Mask> masks;
  std::vector<float> probabilities;  // classification: of every class
  // Limits that may have kept objects out: all candidates that the head keeps lie above Options::conf; more objects
  // than Options::max_det were found.
  bool truncated_by_candidates = false, truncated_by_max_det = false;
  Times times;
};

// An output on the host: float32, batch first, shaped as edgekit.spec.ROLES says.
struct Tensor {
  std::string role;
  const float* data = nullptr;
  std::vector<std::int64_t> shape;
};

// What the bundle's self-test found here. `absent`: the bundle has none, which is no failure.
struct Verification {
  enum class State { passed, failed, absent };
  State state = State::absent;
  std::string message;  // one sentence
  std::string role;     // of a failure: what is furthest from its bounds
  double milliseconds = 0;
};

enum class Memory { host, device };

namespace detail {
class Runner;
struct ModelParts;
}  // namespace detail

// One stream of work: its own buffers and request on a shared model. Use it from one thread at a time.
class Session {
 public:
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  const Info& info() const noexcept;

  // One image in, one Result out. The second form uses the memory of `result` again.
  Result predict(const Image& image, const Options& options = {});
  void predict(const Image& image, const Options& options, Result& result);
  // Many images, as many a run as the model takes.
  std::vector<Result> predict(const std::vector<Image>& images, const Options& options = {});

  // The session of the input size that the image goes to: this one, unless info().shapes has more (edgekit/runtime/shaped.py).
  Session& fitting(const Image& image);

  // The same in steps, for those who fill the input themselves; of several input sizes these are the first one's, and
  // fitting() has the others. input(): float32 [batch, 3, height, width], RGB,
  // values times info().scale; where info().takes_pixels(), pixels() instead: uint8 [batch, height, width, 3], BGR.
  // Each is null for the other kind of model, and once the input is bound to device memory.
  float* input();
  std::uint8_t* pixels();
  Geometry prepare(const Image& image, int place = 0);  // into the input, as the model wants it
  void run();
  const std::vector<Tensor>& outputs() const;  // valid until the next run
  Result finish(const Geometry& geometry, const Options& options = {}, int place = 0) const;

  // Let the model read or write the caller's memory from now on; it must outlive the session or the next bind. `role`:
  // "images" for the input, else the output's. Types and sizes are those of info(). Device memory: TensorRT only.
  void bind(const std::string& role, void* data, Memory memory = Memory::host);
  // Run on the caller's cudaStream_t (TensorRT only). Results on the host are waited for, as ever.
  void cuda_stream(void* stream);

 private:
  friend class Model;
  Session(std::shared_ptr<const detail::ModelParts> parts, std::unique_ptr<detail::Runner> runner);
  std::vector<Result> predict_here(const std::vector<Image>& images, const Options& options);
  std::shared_ptr<const detail::ModelParts> parts_;
  std::unique_ptr<detail::Runner> runner_;
  std::vector<Session> others_;  // of further input sizes
};

// A bundle, checked and compiled. Cheap to copy; all const members may be called from many threads.
class Model {
 public:
  // `path`: a bundle's folder, or an index of bundles (`edgekit index`), of which the first that runs here is opened.
  // Throws Error: no bundle, one that is not valid, altered, or for a backend that is not compiled in or available; an
  // index of which none runs here.
  explicit Model(const std::string& path, const Settings& settings = {});
  explicit Model(std::shared_ptr<const detail::ModelParts> parts);

  const Info& info() const noexcept;
  const std::string& why() const noexcept;  // of an index: which bundle this is and what became of others; else empty
  Session session() const;
  // Does the model answer on this machine and device as it must? Runs the pictures of the bundle's self-test. Throws
  // Error where that cannot be read or was altered. Held to the widest bounds that the bundle has: `edgekit verify` asks
  // what is executed here, and tells the cause.
  Verification verify() const;

 private:
  std::shared_ptr<const detail::ModelParts> parts_;
};

// Backends compiled into this library, such as {"openvino"}.
std::vector<std::string> backends();

// The manifest of a bundle, checked as Model does, without opening the model.
Info read_bundle(const std::string& folder, bool verify = true);

// `image` as the model wants it: `tensor` is float32 [3, info.height, info.width], or, where info.takes_pixels(), uint8
// [info.height, info.width, 3].
Geometry prepare(const Image& image, const Info& info, float* tensor);
Geometry prepare(const Image& image, const Info& info, std::uint8_t* tensor);

// Outputs of any origin to a Result; `place` is the image's in the batch.
Result postprocess(const std::vector<Tensor>& outputs, const Info& info, const Geometry& geometry,
                   const Options& options = {}, int place = 0);

// What the result's truncated_by_... mean and what to do, a sentence each; empty where nothing was kept out. A session
// gives these to Settings::warn, that of max_det only where it is the default.
std::vector<std::string> truncation(const Result& result, const Info& info, const Options& options = {});

}  // namespace edgekit

#endif
